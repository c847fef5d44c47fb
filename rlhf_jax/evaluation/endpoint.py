"""A judge behind an OpenAI-compatible endpoint: a language model that is shown the text and both summaries.

Each pair is asked about in both orders. Where the two answers name different summaries, the model has
chosen by place and the pair is a tie, as it is where it names neither.

    ask = endpoint.judge(Endpoint("https://api.example.com/v1", "some-model"), Path("judged.jsonl"))
    preferred = ask(infos, summaries, references)

Every reply is kept in the cache as it comes, under a hash of all that was sent, so that a judge that was
stopped goes on where it was and never pays twice. What the missing replies cost is estimated, printed and
held to `max_cost` before the first is sent; what they did cost, while they come. The key is read from the
environment and stands in no file and no message.
"""

import email.utils
import hashlib
import http.client
import itertools
import json
import os
import random
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from rlhf_jax.data.records import Record
from rlhf_jax.data.task import Task
from rlhf_jax.evaluation.judges import PairJudge

PROMPT = """\
Which of the two summaries below summarizes the text better? A good summary says what matters most in the \
text, says nothing that the text does not, and reads well by itself. A longer summary is not a better one.

Text:
{text}

Summary A:
{first}

Summary B:
{second}

Think it over in one sentence. Then write the better summary's letter, A or B, alone on the last line."""
PLACES = ("{text}", "{first}", "{second}")
CHARACTERS_PER_TOKEN = 4  # of English; for the estimate
LONGEST_WAIT = 60.0  # seconds between two attempts, where the endpoint names no time
PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}  # statuses that another attempt may not get


class EndpointError(ValueError):
    """An endpoint that cannot be asked, gives no answer, or would cost too much."""


class PassingError(Exception):
    """What went wrong with one attempt, and the seconds to the next that the endpoint asks for, if any."""

    def __init__(self, reason: str, wait: float | None = None):
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class Endpoint:
    """Where and whom to ask. Prices are in dollars for a million tokens, 0 where they cost nothing."""

    url: str  # up to and without /chat/completions
    model: str
    prompt: str = PROMPT
    key_variable: str = "OPENAI_API_KEY"  # of the environment; unset: no key is sent
    answer_tokens: int = 128  # at most
    at_once: int = 8  # requests under way
    attempts: int = 6  # at each request
    timeout: float = 60.0  # seconds without a byte
    price_in: float = 0.0
    price_out: float = 0.0
    max_cost: float = 5.0  # dollars; nothing is sent that is estimated above it


def judge(endpoint: Endpoint, cache: str | os.PathLike[str], task: Task) -> PairJudge:
    """The judge that asks `endpoint` about the prompts of a task and keeps the replies in the file `cache`.

    Calling it raises EndpointError where the estimate or the cost passes `max_cost`, where the endpoint
    refuses, and where an attempt is the last and fails; what was answered by then is kept.
    """
    if not endpoint.url.startswith(("http://", "https://")):
        raise EndpointError(f"{endpoint.url!r} is no address: it should start with https:// or http://")
    missing = [place for place in PLACES if place not in endpoint.prompt]
    if missing:
        raise EndpointError(f"the prompt has no place for {', '.join(missing)}")

    def ask(infos: Sequence[Record], first: Sequence[str], second: Sequence[str]) -> Float[np.ndarray, "N"]:
        texts = [task.prompt(info).text for info in infos]
        orders = [
            [request(endpoint, *each) for each in zip(texts, a, b, strict=True)]
            for a, b in ((first, second), (second, first))
        ]
        replies = answers(endpoint, Path(cache), [body for order in orders for body in order])
        straight, swapped = (
            np.array([verdict(replies[digest(body)]) for body in order]).reshape(-1) for order in orders
        )
        return (straight + 1 - swapped) / 2

    return ask


def request(endpoint: Endpoint, text: str, first: str, second: str) -> dict[str, Any]:
    """The body of one request."""
    values = dict(zip(PLACES, (text, first, second), strict=True))
    content = re.sub("|".join(map(re.escape, PLACES)), lambda place: values[place[0]], endpoint.prompt)
    return {
        "model": endpoint.model,
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": endpoint.answer_tokens,
    }


def verdict(reply: str) -> float:
    """1 where a reply ends with A, 0 with B, ½ where its last line names neither or both."""
    lines = reply.strip().splitlines()
    named = set(re.findall(r"\b[AB]\b", lines[-1])) if lines else set()
    return {frozenset("A"): 1.0, frozenset("B"): 0.0}.get(frozenset(named), 0.5)


def digest(body: dict[str, Any]) -> str:
    """What a reply is kept under: a hash of model, prompt and texts."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def answers(endpoint: Endpoint, cache: Path, bodies: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Digest → reply of every body, from the cache or from the endpoint."""
    replies = read_cache(cache)
    missing = {digest(body): body for body in bodies if digest(body) not in replies}
    if not missing:
        return replies
    cost = estimated_cost(endpoint, list(missing.values()))
    print(
        f"{endpoint.model}: {len(missing):,} requests, {len(replies):,} kept, about ${cost:.2f}", flush=True
    )
    if cost > endpoint.max_cost:
        raise EndpointError(
            f"{endpoint.model}: {len(missing):,} requests would cost about ${cost:.2f}, more than the "
            f"${endpoint.max_cost:.2f} allowed (max_cost); nothing was sent"
        )
    return replies | _ask_all(endpoint, cache, missing)


def estimated_cost(endpoint: Endpoint, bodies: Sequence[dict[str, Any]]) -> float:
    """Dollars, were every answer as long as it may be."""
    characters = sum(len(body["messages"][0]["content"]) for body in bodies)
    return _dollars(endpoint, characters / CHARACTERS_PER_TOKEN, len(bodies) * endpoint.answer_tokens)


def read_cache(cache: Path) -> dict[str, str]:
    """Digest → reply."""
    records = [json.loads(line) for line in _whole_lines(cache).splitlines()]
    return {record["key"]: record["reply"] for record in records}


def _whole_lines(cache: Path) -> bytes:
    """What the file holds, without what a kill has left of a line."""
    content = cache.read_bytes() if cache.exists() else b""
    return content[: content.rfind(b"\n") + 1]


def _ask_all(endpoint: Endpoint, cache: Path, missing: dict[str, dict]) -> dict[str, str]:
    """The replies to all bodies; each stands in the cache before the next of its thread is asked for."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_bytes(_whole_lines(cache))
    lock, stop = threading.Lock(), threading.Event()
    replies: dict[str, str] = {}
    spent = 0.0
    with cache.open("a", encoding="utf-8") as file, ThreadPoolExecutor(endpoint.at_once) as threads:

        def keep(key: str, reply: str, usage: dict) -> None:
            nonlocal spent
            replies[key] = reply
            file.write(json.dumps({"key": key, "reply": reply}) + "\n")
            file.flush()
            spent += _dollars(endpoint, usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0))
            if spent > endpoint.max_cost:
                raise EndpointError(
                    f"{endpoint.model}: ${spent:.2f} are spent, more than the ${endpoint.max_cost:.2f} "
                    f"allowed (max_cost); {len(replies):,} replies are kept in {cache}"
                )

        def one(key: str, body: dict) -> None:
            try:
                if not stop.is_set():
                    reply, usage = _patiently(endpoint, body, stop)
                    with lock:
                        keep(key, reply, usage)
            except EndpointError:
                stop.set()
                raise

        asked = [threads.submit(one, key, body) for key, body in missing.items()]
        try:
            done, _ = wait(asked, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        finally:
            stop.set()
    return replies


def _patiently(endpoint: Endpoint, body: dict, stop: threading.Event) -> tuple[str, dict]:
    """The reply to one body and what it used, after as many attempts as it may take."""
    for attempt in itertools.count(1):
        try:
            return _post(endpoint, body)
        except PassingError as error:
            if attempt == endpoint.attempts or stop.is_set():
                raise EndpointError(f"{endpoint.url}: {error}; {attempt} attempts") from None
            backoff = min(LONGEST_WAIT, 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)
            stop.wait(backoff if error.wait is None else error.wait)
    raise AssertionError  # the count has no end


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host."""

    def redirect_request(self, *_):
        return None


def _post(endpoint: Endpoint, body: dict) -> tuple[str, dict]:
    """One attempt. Raises PassingError, or EndpointError where another one would not help."""
    key = os.environ.get(endpoint.key_variable, "")
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    url = endpoint.url.rstrip("/") + "/chat/completions"
    try:
        asked = urllib.request.Request(url, json.dumps(body).encode(), headers)
        with urllib.request.build_opener(_NoRedirects).open(asked, timeout=endpoint.timeout) as response:
            answer = json.loads(response.read())
        reply = answer["choices"][0]["message"]["content"]
        if not isinstance(reply, str):
            raise TypeError
        return reply, answer.get("usage") or {}
    except urllib.error.HTTPError as error:
        reason = f"status {error.code}"
        if error.code in PASSING:
            raise PassingError(reason, _retry_after(error.headers.get("Retry-After"))) from None
        said = error.read(300).decode(errors="replace")
        said = said.replace(key, "…") if key else said
        raise EndpointError(f"{endpoint.url}: {reason}: {' '.join(said.split())}") from None
    except (OSError, http.client.HTTPException) as error:
        raise PassingError(str(getattr(error, "reason", error)) or type(error).__name__) from None
    except (ValueError, LookupError, TypeError):
        raise PassingError("an answer that is not a chat completion") from None


def _retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header names, as a number or as a date."""
    if value is None:
        return None
    if re.fullmatch(r"\d+(\.\d+)?", value.strip()):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _dollars(endpoint: Endpoint, tokens_in: float, tokens_out: float) -> float:
    return (tokens_in * endpoint.price_in + tokens_out * endpoint.price_out) / 1e6

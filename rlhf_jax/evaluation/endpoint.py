"""A judge behind an OpenAI-compatible endpoint: a language model that is shown the text and both summaries.

Each pair is asked about in both orders. Where the two answers name different summaries, the model has
chosen by place and the pair is a tie. Where one of the replies has no verdict, nobody has judged the pair: it
is counted by the reason, told, and left out of every figure.

    judge = EndpointJudge(Endpoint("https://api.example.com/v1", "some-model"), Path("judged.jsonl"), task)
    preferred = judge(infos, summaries, references)

Every reply is kept in the cache as it comes, under a hash of all that was sent, so that a judge that was
stopped goes on where it was and never pays twice. What the missing replies cost is estimated, printed and
held to `max_cost` before the first is sent; what they did cost, while they come. The key is read from the
environment and stands in no file and no message.
"""

import hashlib
import itertools
import json
import os
import re
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from rlhf_jax.data.record_json import parse_line
from rlhf_jax.data.records import Record, RecordError
from rlhf_jax.data.task import Task
from rlhf_jax.evaluation import asking
from rlhf_jax.evaluation.verdicts import letter, verdict

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
TOKENS_PARAMETERS = ("max_tokens", "max_completion_tokens")  # names of the limit of an answer's tokens


class EndpointError(ValueError):
    """An endpoint that cannot be asked, gives no answer, or would cost too much."""


@dataclass(frozen=True)
class Endpoint:
    """Where and whom to ask. Prices are in dollars for a million tokens, 0 where they cost nothing."""

    url: str  # up to and without /chat/completions
    model: str
    prompt: str = PROMPT
    key_variable: str = "OPENAI_API_KEY"  # of the environment; unset: no key is sent
    answer_tokens: int = 128  # at most, those that a model thinks with among them
    tokens_parameter: str = TOKENS_PARAMETERS[0]  # how the endpoint calls that limit
    temperature: float = 0.0
    at_once: int = 8  # requests under way
    attempts: int = 6  # at each request
    timeout: float = 60.0  # seconds without a byte
    max_wait: float = 600.0  # seconds to another attempt; an endpoint that asks for more ends it
    price_in: float = 0.0
    price_out: float = 0.0
    max_cost: float = 5.0  # dollars; nothing is sent that is estimated above it


class Reply(NamedTuple):
    """What an answer says, None where it holds no message, and why it ended, where that is told."""

    text: str | None
    finish: str | None = None


class EndpointJudge:
    """The `PairJudge` that asks `endpoint` about the prompts of a task; replies are kept in the file `cache`.

    Calling it raises EndpointError where the estimate or the cost passes `max_cost`, where the endpoint
    refuses, and where an attempt is the last and fails; what was answered by then is kept. `unread` has, by
    their digests, the replies so far that have no verdict, and why.
    """

    def __init__(self, endpoint: Endpoint, cache: str | os.PathLike[str], task: Task) -> None:
        if not re.match(asking.ADDRESS, endpoint.url):
            raise EndpointError(f"{endpoint.url!r} is no address, such as https://api.example.com/v1")
        missing = [place for place in PLACES if place not in endpoint.prompt]
        if missing:
            raise EndpointError(f"the prompt has no place for {', '.join(missing)}")
        self.endpoint, self.cache, self.task = endpoint, Path(cache), task
        self.unread: dict[str, str] = {}

    def __call__(
        self, infos: Sequence[Record], first: Sequence[str], second: Sequence[str]
    ) -> Float[np.ndarray, "N"]:
        texts = [self.task.prompt(info).text for info in infos]
        orders = [
            [request(self.endpoint, *each) for each in zip(texts, a, b, strict=True)]
            for a, b in ((first, second), (second, first))
        ]
        replies = answers(self.endpoint, self.cache, [body for order in orders for body in order])
        keys = [[digest(body) for body in order] for order in orders]
        read = {key: judged(replies[key]) for order in keys for key in order}
        self._tell({key: said for key, said in read.items() if isinstance(said, str)}, len(read))
        values = {key: np.nan if isinstance(said, str) else said for key, said in read.items()}
        straight, swapped = (np.array([values[key] for key in order], float) for order in keys)
        return (straight + 1 - swapped) / 2

    def _tell(self, unread: dict[str, str], asked: int) -> None:
        self.unread |= unread
        if unread:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in Counter(unread.values()).items())
            tokens = self.endpoint.answer_tokens
            short = {CUT, EMPTY} & set(unread.values())
            advice = f"; --answer_tokens={tokens} may be too few for a model that thinks" if short else ""
            print(
                f"{self.endpoint.model}: {len(unread):,} of {asked:,} replies have no verdict ({reasons}), "
                f"and their pairs do not count{advice}",
                flush=True,
            )


NO_ANSWER, EMPTY, CUT, OTHER = "no answer", "empty", "cut off", "another wording"


def judged(reply: Reply) -> float | str:
    """The verdict of a reply, see `verdicts`, or why it has none. What stands in <think> does not count."""
    if reply.text is None:
        return NO_ANSWER
    said = reply.text.rpartition("</think>")[2].strip()
    cut = reply.finish == "length" or "<think>" in said
    found = None if "<think>" in said else (letter if cut else verdict)(said)
    if found is not None:
        return found
    return EMPTY if not said else CUT if cut else OTHER


def request(endpoint: Endpoint, text: str, first: str, second: str) -> dict[str, Any]:
    """The body of one request."""
    values = dict(zip(PLACES, (text, first, second), strict=True))
    content = re.sub("|".join(map(re.escape, PLACES)), lambda place: values[place[0]], endpoint.prompt)
    return {
        "model": endpoint.model,
        "messages": [{"role": "user", "content": content}],
        "temperature": endpoint.temperature or 0,  # not 0.0, which would be another digest
        endpoint.tokens_parameter: endpoint.answer_tokens,
    }


def digest(body: dict[str, Any]) -> str:
    """What a reply is kept under: a hash of model, prompt and texts."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def answers(endpoint: Endpoint, cache: Path, bodies: Sequence[dict[str, Any]]) -> dict[str, Reply]:
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
    return sum(_cost(endpoint, body, {}) for body in bodies)


def _cost(endpoint: Endpoint, body: dict[str, Any], usage: dict[str, Any]) -> float:
    """Dollars for one answer; of what the endpoint does not tell, an estimate."""
    characters = len(body["messages"][0]["content"])
    tokens = {"prompt_tokens": characters / CHARACTERS_PER_TOKEN, "completion_tokens": endpoint.answer_tokens}
    tokens |= {name: told for name in tokens if isinstance(told := usage.get(name), int | float)}
    return (
        tokens["prompt_tokens"] * endpoint.price_in + tokens["completion_tokens"] * endpoint.price_out
    ) / 1e6


def read_cache(cache: Path) -> dict[str, Reply]:
    """Digest → reply. Raises RecordError naming a line that is none."""
    lines = enumerate(_whole_lines(cache).splitlines(), 1)
    return dict(parse_line(line, _kept, f"{cache}, line {number}") for number, line in lines)


def _kept(record: Any) -> tuple[str, Reply]:
    try:
        return str(record["key"]), Reply(str(record["reply"]), record.get("finish"))
    except (LookupError, TypeError, AttributeError):
        raise RecordError("no reply of a judge; delete the line to ask again") from None


def _whole_lines(cache: Path) -> bytes:
    """What the file holds, without what a kill has left of a line."""
    content = cache.read_bytes() if cache.exists() else b""
    return content[: content.rfind(b"\n") + 1]


def _ask_all(endpoint: Endpoint, cache: Path, missing: dict[str, dict]) -> dict[str, Reply]:
    """The replies to all bodies; each stands in the cache before the next of its thread is asked for."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_bytes(_whole_lines(cache))
    lock, stop = threading.Lock(), threading.Event()
    replies: dict[str, Reply] = {}
    spent = 0.0
    with cache.open("a", encoding="utf-8") as file, ThreadPoolExecutor(endpoint.at_once) as threads:

        def keep(key: str, reply: Reply, cost: float) -> None:
            nonlocal spent
            replies[key] = reply
            if reply.text is not None:
                file.write(json.dumps({"key": key, "reply": reply.text, "finish": reply.finish}) + "\n")
                file.flush()
            spent += cost
            if spent > endpoint.max_cost:
                raise EndpointError(
                    f"{endpoint.model}: ${spent:.2f} are spent, more than the ${endpoint.max_cost:.2f} "
                    f"allowed (max_cost); {len(replies):,} replies are kept in {cache}"
                )

        def one(key: str, body: dict) -> None:
            try:
                if answer := _patiently(endpoint, body, stop):
                    reply, usage = answer
                    with lock:
                        keep(key, reply, _cost(endpoint, body, usage))
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


def _patiently(endpoint: Endpoint, body: dict, stop: threading.Event) -> tuple[Reply, dict] | None:
    """The reply to one body and what it used, after as many attempts as it may take; None once stopped."""
    for attempt in itertools.count(1):
        if stop.is_set():
            return None
        try:
            return _post(endpoint, body)
        except asking.PassingError as error:
            if attempt == endpoint.attempts:
                raise EndpointError(f"{endpoint.url}: {error}; {attempt} attempts") from None
            seconds = asking.pause(attempt, error)
            if seconds > endpoint.max_wait:
                raise EndpointError(
                    f"{endpoint.url}: {error}; it asks to wait {seconds:,.0f} s, longer than "
                    f"--max_wait={endpoint.max_wait:g}; replies are kept, and the same command goes on"
                ) from None
            told = f"attempt {attempt + 1} of {endpoint.attempts} in {seconds:,.1f} s"
            print(f"{endpoint.model}: {error}; {told}", flush=True)
            stop.wait(seconds)
    raise AssertionError  # the count has no end


def _post(endpoint: Endpoint, body: dict) -> tuple[Reply, dict]:
    """One attempt. Raises PassingError, or EndpointError where another one would not help."""
    key = os.environ.get(endpoint.key_variable, "").strip()
    url = endpoint.url.rstrip("/") + "/chat/completions"
    try:
        return _reply(asking.post(url, body, endpoint.timeout, key))
    except asking.RefusedError as error:
        said, ours = error.said, endpoint.tokens_parameter
        others = [name for name in TOKENS_PARAMETERS if name in said and name != ours]
        advice = f"; try --tokens_parameter={others[0]}" if others else ""
        raise EndpointError(f"{endpoint.url}: {error}: {said}{advice}") from None
    except ValueError:
        raise asking.PassingError("an answer that is not a chat completion") from None


def _reply(answer: Any) -> tuple[Reply, dict]:
    """What a chat completion says and used, whatever it leaves out. Raises ValueError where it is none."""
    if not isinstance(answer, dict) or (answer.get("error") and not answer.get("choices")):
        raise ValueError
    choices = answer.get("choices")
    choice = _object(choices[0]) if isinstance(choices, list) and choices else {}
    message, finish = choice.get("message"), choice.get("finish_reason")
    content = message.get("content") if isinstance(message, dict) else None
    text = content if isinstance(content, str) else "" if isinstance(message, dict) else None
    return Reply(text, finish if isinstance(finish, str) else None), _object(answer.get("usage"))


def _object(value: Any) -> dict:
    return value if isinstance(value, dict) else {}

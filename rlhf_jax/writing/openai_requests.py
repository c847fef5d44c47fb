"""What is asked in the shape of OpenAI's /v1/chat/completions and /v1/completions.

A field that is not supported is refused, unless it has the value that changes nothing: no request is answered
otherwise than it asks.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rlhf_jax.data.records import RecordError
from rlhf_jax.writing.prompts import Prompt, Prompts, messages_of

MOST_STOPS = 4
MOST_SAMPLES = 128
# Fields that are not supported → values that mean nothing; null means nothing of every field.
NEUTRAL: dict[str, Sequence[Any]] = {
    "top_p": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "store": (False,),
    "service_tier": ("auto", "default"),
    # What clients of other open servers send along.
    "top_k": (-1, 0),
    "min_p": (0,),
    "min_tokens": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "use_beam_search": (False,),
    "ignore_eos": (False,),
    "skip_special_tokens": (True,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "chat_template_kwargs": ({},),
}
SAID_ALONE = {"user", "safety_identifier", "metadata", "prompt_cache_key"}  # who asks: it changes no answer


class ApiError(Exception):
    """A request that gets an error, in OpenAI's shape, under an HTTP status."""

    def __init__(self, message: str, param: str | None = None, status: int = 400, code: str | None = None):
        super().__init__(message)
        self.status = status
        kind = "invalid_request_error" if status < 500 else "server_error"
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


@dataclass(frozen=True)
class Request:
    """A request that can be answered."""

    is_chat: bool
    prompts: Sequence[Prompt]
    samples: int  # to each prompt
    temperature: float
    max_tokens: int | None  # None: as many as in training
    stop: tuple[str, ...]
    seed: int | None
    logprobs: bool
    stream: bool
    usage_in_stream: bool


def parse(body: Any, is_chat: bool, model: str, prompts: Prompts, temperature: float) -> Request:
    """The request in a JSON object; `temperature` is that of requests that name none. Raises ApiError."""
    if not isinstance(body, dict):
        raise ApiError("the body should be a JSON object")
    fields = _Fields(body)
    asked = fields.text("model")
    if asked != model:
        raise ApiError(
            f"the model {asked!r} is not here; there is {model!r}", "model", 404, "model_not_found"
        )
    limits = [fields.whole("max_tokens", None, 1)]
    if is_chat:
        limits.append(fields.whole("max_completion_tokens", None, 1))
    stream = fields.flag("stream")
    request = Request(
        is_chat,
        _chat_prompt(fields, prompts) if is_chat else _prompts(fields, prompts),
        samples=fields.whole("n", 1, 1, MOST_SAMPLES) or 1,
        temperature=fields.number("temperature", temperature, 0, 2),
        max_tokens=min((limit for limit in limits if limit is not None), default=None),
        stop=_stops(fields),
        seed=fields.whole("seed", None, -(2**63), 2**63 - 1),
        logprobs=fields.flag("logprobs") if is_chat else fields.whole("logprobs", None, 0, 0) is not None,
        stream=stream,
        usage_in_stream=_usage(fields.take("stream_options"), stream),
    )
    if not request.temperature:  # the most likely token passes all of these
        fields.number("top_p", 1, 0, 1)
        fields.number("min_p", 0, 0, 1)
        fields.whole("top_k", 0, -1)
    fields.refuse_others()
    if request.stream and request.logprobs:
        raise ApiError("logprobs are not supported in a stream", "logprobs")
    if len(request.prompts) * request.samples > MOST_SAMPLES:
        raise ApiError(f"at most {MOST_SAMPLES} responses in a request", "n")
    return request


class _Fields:
    """The fields of a body, each taken once, with null as absent."""

    def __init__(self, body: dict[str, Any]):
        self._left = {name: value for name, value in body.items() if value is not None}

    def take(self, name: str) -> Any:
        return self._left.pop(name, None)

    def text(self, name: str) -> str:
        value = self.take(name)
        if not isinstance(value, str):
            raise ApiError(f"{name} should be a string", name)
        return value

    def flag(self, name: str) -> bool:
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            raise ApiError(f"{name} should be true or false", name)
        return bool(value)

    def whole(self, name: str, missing: int | None, least: int, most: int = 2**31 - 1) -> int | None:
        value = self.take(name)
        if value is None:
            return missing
        if type(value) is not int or not least <= value <= most:
            wanted = f"a whole number from {least} to {most}" if least < most else least
            raise ApiError(f"{name} should be {wanted}, not {_said(value)}", name)
        return value

    def number(self, name: str, missing: float, least: float, most: float) -> float:
        value = self.take(name)
        if value is None:
            return missing
        if type(value) not in (int, float) or not least <= value <= most:
            raise ApiError(f"{name} should be a number from {least} to {most}, not {_said(value)}", name)
        return float(value)

    def refuse_others(self) -> None:
        """Raises ApiError for a field that was not taken and is not neutral."""
        for name, value in self._left.items():
            if name in SAID_ALONE or any(_same(value, one) for one in NEUTRAL.get(name, ())):
                continue
            if name in NEUTRAL:
                raise ApiError(f"{name}={_said(value)} is not supported: leave it out", name)
            raise ApiError(f"there is no field {name}, or it is not supported", name)


def _same(value: Any, other: Any) -> bool:
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _said(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 50 else f"{text[:50]}…"


def _prompts(fields: _Fields, prompts: Prompts) -> list[Prompt]:
    value = fields.take("prompt")
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ApiError(
            "prompt should be a string or a list of strings; token ids are not supported", "prompt"
        )
    return [_prompt("prompt", partial(prompts.as_it_is, text)) for text in texts]


def _chat_prompt(fields: _Fields, prompts: Prompts) -> list[Prompt]:
    value = fields.take("messages")
    return [_prompt("messages", lambda: prompts.of_turns(messages_of(value, "messages")))]


def _prompt(param: str, make: Callable[[], Prompt]) -> Prompt:
    try:
        prompt = make()
    except RecordError as error:
        raise ApiError(str(error), param) from None
    if prompt.is_cut:  # in training it loses its end, which an answer could not tell
        longest = len(prompt.ids)
        told = f"the message takes more than the {longest:,} tokens that the task has for it: shorten it"
        raise ApiError(told, param, code="context_length_exceeded")
    return prompt


def _stops(fields: _Fields) -> tuple[str, ...]:
    value = fields.take("stop")
    stops = [value] if isinstance(value, str) else value or []
    if (
        not isinstance(stops, list)
        or len(stops) > MOST_STOPS
        or not all(isinstance(s, str) and s for s in stops)
    ):
        raise ApiError(f"stop should be a text, or a list of at most {MOST_STOPS}, none empty", "stop")
    return tuple(stops)


def _usage(options: Any, stream: bool) -> bool:
    if not options:
        return False
    usage = options.get("include_usage") if isinstance(options, dict) else None
    if not stream or set(options) - {"include_usage", "include_obfuscation"} or not isinstance(usage, bool):
        raise ApiError(
            "stream_options should be {include_usage: true or false}, with stream", "stream_options"
        )
    return usage

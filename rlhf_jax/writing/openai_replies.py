"""Answers in the shape of OpenAI's, whole or as the pieces of a stream."""

import secrets
import time
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.writing.openai_requests import Request
from rlhf_jax.writing.response import Response


class Reply:
    """The answer to one request, whose `responses` stand prompt by prompt."""

    def __init__(self, request: Request, model: str, responses: Sequence[Response]):
        self._request, self._responses = request, responses
        self._told = [""] * len(responses)
        self._ended = [False] * len(responses)
        self._about = {
            "id": f"{'chatcmpl' if request.is_chat else 'cmpl'}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
        }
        self._object = "chat.completion" if request.is_chat else "text_completion"

    def whole(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """All of it, once every response has ended."""
        choices = [self._choice(i, response, tokenizer) for i, response in enumerate(self._responses)]
        return self._about | {"object": self._object, "choices": choices, "usage": self._usage()}

    def _choice(self, index: int, response: Response, tokenizer: Tokenizer) -> dict[str, Any]:
        chat = self._request.is_chat
        of_tokens = chat_logprobs if chat else text_logprobs
        return {
            "index": index,
            "finish_reason": response.finish,
            "logprobs": of_tokens(response, tokenizer) if self._request.logprobs else None,
        } | (
            {"message": {"role": "assistant", "content": response.text}} if chat else {"text": response.text}
        )

    def beginning(self) -> Iterator[dict[str, Any]]:
        """What a stream of a chat begins with."""
        for i in range(len(self._responses)) if self._request.is_chat else ():
            yield self._chunk([self._delta(i, {"role": "assistant", "content": ""}, None)])

    def pieces(self) -> Iterator[dict[str, Any]]:
        """What has been written since the last call; the last piece of a response says why it ended."""
        for i, response in enumerate(self._responses):
            finish = response.finish or None  # before the text, which is whole once this is set
            new = response.text[len(self._told[i]) :]
            if new or (finish and not self._ended[i]):
                self._told[i] += new
                self._ended[i] = bool(finish)
                yield self._chunk([self._delta(i, {"content": new}, finish)])

    def end(self) -> Iterator[dict[str, Any]]:
        """What stands behind all pieces, where the request asks for it."""
        if self._request.usage_in_stream:
            yield self._chunk([]) | {"usage": self._usage()}

    def _delta(self, index: int, content: dict[str, str], finish: str | None) -> dict[str, Any]:
        said = {"delta": content} if self._request.is_chat else {"text": content["content"]}
        return {"index": index, "finish_reason": finish, "logprobs": None} | said

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        name = f"{self._object}.chunk" if self._request.is_chat else self._object
        return self._about | {"object": name, "choices": choices}

    def _usage(self) -> dict[str, int]:
        read = sum(len(prompt.ids) for prompt in self._request.prompts)
        written = sum(len(response.ids) for response in self._responses)
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def chat_logprobs(response: Response, tokenizer: Tokenizer) -> dict[str, Any]:
    """The written tokens, the one that ends it too, and their log-probabilities at temperature 1, nats."""
    tokens = zip(response.tokens(tokenizer), response.logprobs, strict=True)
    return {
        "content": [
            {"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": []}
            for text, logprob in tokens
        ],
        "refusal": None,
    }


def text_logprobs(response: Response, tokenizer: Tokenizer) -> dict[str, Any]:
    """The same in the older shape."""
    tokens = response.tokens(tokenizer)
    return {
        "tokens": tokens,
        "token_logprobs": response.logprobs,
        "top_logprobs": None,
        "text_offset": [0, *accumulate(map(len, tokens))][:-1],
    }

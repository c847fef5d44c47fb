"""A policy that writes responses to many prompts at once, in arrays of few shapes.

Each shape is compiled once and kept on disk: rows, query and room for the response are rounded up to some
sizes. Temperatures, seeds and lengths are values of arrays, so that responses of any settings share a call.
"""

import functools
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from rlhf_jax import inference
from rlhf_jax.data.batches import filled, left_pad
from rlhf_jax.data.records import RecordError
from rlhf_jax.data.widths import halves
from rlhf_jax.inference import Network
from rlhf_jax.mesh import to_devices, to_host
from rlhf_jax.model import stepwise
from rlhf_jax.writing.response import Response, Sampling

PIECE = 8  # tokens drawn between two looks at what was written

prepare = jax.jit(stepwise.prepare, static_argnames="config")
begin = jax.jit(stepwise.begin, static_argnames=("config", "pad_id", "slots"))
advance = jax.jit(
    stepwise.advance, static_argnames=("config", "tokens", "ends", "pad_id"), donate_argnames="draft"
)


class Writer:
    """`network` is a policy, `ends` the ids that end a response of it."""

    def __init__(self, network: Network, ends: Sequence[int]):
        self.tokenizer, self.ends, self.model = network.tokenizer, tuple(ends), network.model
        self._data = network.task.data
        with inference.on_devices() as mesh:
            self._mesh = mesh
            self._weights = prepare(network.weights, self.model)
            self._rows = sizes(inference.row_multiple(mesh), 4, inference.batch_size(1))
        self.most_rows = self._rows[-1]  # of one call of `write`
        shorter = (self._data.query_buckets or halves(self._data.query_tokens))[:-1]
        self._widths = [*shorter, *sizes(self._data.query_tokens, 2, self.context)]
        self._slots = sizes(self._data.response_tokens, 2, self.context)

    @property
    def context(self) -> int:
        """Tokens that the model reads, prompt and response together."""
        return max(self.model.context, self._data.query_tokens + self._data.response_tokens)

    def response(
        self,
        prompt: Sequence[int],
        seed: int,
        temperature: float = 0.0,
        max_tokens: int | None = None,
        **how: Any,
    ) -> Response:
        """A response to be written, of `max_tokens` at most; where that is None, as many as in training.

        `how` are more fields of `Sampling`. Raises RecordError where prompt and response do not fit into the
        context.
        """
        left = self.context - len(prompt)
        room = min(self._data.response_tokens, left) if max_tokens is None else max_tokens
        if room > left or left < 1:
            asked = "" if max_tokens is None else f", of which {max_tokens:,} are asked for"
            raise RecordError(
                f"the prompt takes {len(prompt):,} tokens, and the model reads {self.context:,} with the "
                f"response{asked}"
            )
        return Response(prompt, Sampling(room, temperature, **how), seed)

    def write(self, responses: Sequence[Response]) -> Iterator[None]:
        """Writes all of them, at most `most_rows`; each is some tokens longer whenever this yields."""
        rows = size_for(self._rows, len(responses))
        prompts = filled([one.prompt for one in responses], self._data, self.tokenizer)
        width = size_for(self._widths, max(map(len, prompts)))
        longest = max(one.sampling.max_tokens for one in responses)
        slots = -(-size_for(self._slots, longest) // PIECE) * PIECE
        pad = self.tokenizer.pad_id
        query = np.resize(left_pad(prompts, width, pad), (rows, width))
        temperature = np.resize(np.array([one.sampling.temperature for one in responses], np.float32), rows)
        seed = np.resize(np.array([one.seed for one in responses], np.uint32), rows)
        put = functools.partial(to_devices, mesh=self._mesh)
        with jax.set_mesh(self._mesh):
            draft = begin(self._weights, self.model, put(query), pad, slots)
            settings = put(temperature), put(seed)
        while not all(one.finish for one in responses):
            running = np.zeros(rows, bool)
            running[: len(responses)] = [not one.finish for one in responses]
            with jax.set_mesh(self._mesh):
                draft, ids, logprobs = advance(
                    self._weights,
                    self.model,
                    draft,
                    put(running),
                    *settings,
                    tokens=PIECE,
                    ends=self.ends,
                    pad_id=pad,
                )
            for i, (new, logprob) in enumerate(zip(to_host(ids), to_host(logprobs), strict=True)):
                if running[i]:
                    responses[i].add(new, logprob, self.tokenizer, self.ends)
            yield


def sizes(first: int, factor: int, most: int) -> list[int]:
    """`first`, and so many times as much again and again, up to `most`; at least `first`."""
    found = [first]
    while found[-1] < most:
        found.append(min(found[-1] * factor, most))
    return found


def size_for(found: Sequence[int], needed: int) -> int:
    """The smallest of the sizes that holds what is needed, which one of them does."""
    return found[bisect_left(found, needed)]

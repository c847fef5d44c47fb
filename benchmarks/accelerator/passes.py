"""Whole passes and decoding: what the networks compute, before anything is learnt from it."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator import kernels, shapes
from benchmarks.accelerator.kernels import VARIANTS, Variant, judged, products, relative
from benchmarks.accelerator.part import Part
from rlhf_jax.config import ModelConfig, PpoConfig
from rlhf_jax.functional import logprobs
from rlhf_jax.model import heads, kv_cache, likelihood, params, transformer
from rlhf_jax.model.generate import generate
from rlhf_jax.model.likelihood import response_logprobs
from rlhf_jax.model.passes import apply_at, apply_to_ends
from rlhf_jax.pipeline import ppo

EOS = 1


class Size(NamedTuple):
    """A model and a batch for checks of numbers: B rows, Q tokens of queries and R of responses."""

    model: ModelConfig
    vocabulary: int
    rows: int
    query: int
    response: int


CARD = Size(dataclasses.replace(shapes.PYTHIA["160M"], layers=4), shapes.PYTHIA_VOCABULARY, 16, 200, 53)
TOY = Size(shapes.TOY, shapes.TOY_VOCABULARY, 4, 12, 5)
NATS = {
    "bfloat16": 0.1,
    "float32": 0.02,
    "float32, exact products": 1e-3,
}  # allowed between log-probabilities


class Inputs:
    """Networks and rows of a size, computed as a variant says."""

    def __init__(self, part: Part, variant: Variant) -> None:
        size = TOY if part.dry else CARD
        self.model = dataclasses.replace(size.model, dtype=variant.dtype, attention=variant.implementation)
        self.vocabulary = self.pad = size.vocabulary
        self.response_tokens = size.response
        rng = np.random.default_rng(0)

        def tokens(*shape: int) -> np.ndarray:
            return rng.integers(EOS + 1, size.vocabulary, shape, np.int32)

        padding = np.arange(size.query) < np.arange(size.rows)[:, None] * size.query // (2 * size.rows)
        self.query = jnp.where(padding, self.pad, tokens(size.rows, size.query))
        self.responses = jnp.asarray(tokens(size.rows, 2, size.response))
        self.response = self.responses[:, 0]

    def network(self, name: str):
        """Random weights, the same for every variant."""
        plain = dataclasses.replace(self.model, dtype="float32", attention="auto")
        return _network(name, plain, self.vocabulary)

    def setting(self, **more: Any) -> ppo.Setting:
        options = PpoConfig(batch_size=len(self.query), epochs=1, no_eos="none", **more)
        return ppo.Setting(self.model, options, self.response_tokens, (EOS,), self.pad)


@functools.cache
def _network(name: str, model: ModelConfig, vocabulary: int):
    """Of twice the usual spread, for distributions that are far from even."""
    specs = (heads if name == "value" else transformer).specs(model, vocabulary)
    create = jax.jit(lambda key: jax.tree.map(lambda x: 2 * x, params.init(specs, key)))
    return create(jax.random.key(len(name)))


# Whole passes --------------------------------------------------------------------------------


def passes(part: Part) -> None:
    """As exact float32 with blocked attention computes them; allowed is twice the blocked one's error."""
    works: dict[str, Callable[[Inputs, dict], jax.Array]] = {
        "responses after their queries": _after_queries,
        "targets of packed rows": _at_places,
        "two responses to one query": _branches,
    }
    for name, work in works.items():
        part.measure(f"{name}, bfloat16", functools.partial(_as_exact, part, work))


def _as_exact(part: Part, work: Callable[[Inputs, dict], jax.Array]) -> dict:
    exact, plain, found = (
        _with_gradients(part, variant, work)
        for variant in (Variant("", "float32", "blocked", "highest"), VARIANTS[1], VARIANTS[0])
    )
    own, usual = ([relative(a, b) for a, b in zip(both, exact, strict=True)] for both in (found, plain))
    worst = max(a / b for a, b in zip(own, usual, strict=True))
    return judged(worst, 2.0, of_values=own[0], of_gradients=own[1])


def _with_gradients(part: Part, variant: Variant, work: Callable[[Inputs, dict], jax.Array]):
    """Values of a pass and the gradients of their mean square by all weights, as float32."""
    inputs = Inputs(part, variant)

    def loss(weights):
        values = work(inputs, weights).astype(jnp.float32)
        return jnp.mean(jnp.square(values)), values

    with products(variant):
        gradients, values = jax.jit(jax.grad(loss, has_aux=True))(inputs.network("policy"))
    return jax.device_get((values, gradients))


def _after_queries(inputs: Inputs, weights) -> jax.Array:
    logp, _ = response_logprobs(weights, inputs.model, inputs.query, inputs.response, inputs.pad, 0.7)
    return logp


def _at_places(inputs: Inputs, weights) -> jax.Array:
    """Two texts a row, read at the ends of both."""
    tokens = jnp.concatenate([inputs.query, inputs.response], axis=1)
    middle, width = inputs.query.shape[1] // 2, tokens.shape[1]
    segments = jnp.where(tokens == inputs.pad, 0, 1 + (jnp.arange(width) >= middle))
    places = jnp.concatenate([jnp.arange(middle - 3, middle), jnp.arange(width - 4, width)])
    places = jnp.broadcast_to(places, (len(tokens), len(places)))
    return apply_at(weights, inputs.model, tokens, segments, places)


def _branches(inputs: Inputs, weights) -> jax.Array:
    return apply_to_ends(weights, inputs.model, inputs.query, inputs.responses, inputs.pad)


# Decoding ------------------------------------------------------------------------------------


def decoding(part: Part) -> None:
    """Errors in nats, the largest of all tokens."""
    for variant in named(NATS):
        for samples in (1, 2):
            part.measure(
                f"cached and uncached log-probabilities, {samples} a query, {variant.name}",
                functools.partial(_cached, part, variant, samples),
            )
    part.measure("greedy tokens are the likeliest", functools.partial(_greedy, part, VARIANTS[-1]))


def named(allowed: Mapping[str, float]) -> list[Variant]:
    """The ways of computing for which something is allowed."""
    return [variant for variant in kernels.variants() if variant.name in allowed]


def _cached(part: Part, variant: Variant, samples: int) -> dict:
    inputs = Inputs(part, variant)
    weights, model = inputs.network("policy"), inputs.model
    responses = inputs.responses[:, :samples].reshape(-1, inputs.response_tokens)

    @jax.jit
    def with_cache(weights):
        computed = transformer.prepare(weights, model)
        segments = transformer.valid_segments(inputs.query, inputs.pad)
        slots = inputs.response_tokens - 1
        first, cache = kv_cache.prefill(computed, model, inputs.query, segments, slots, samples)

        def step(cache, tokens):
            hidden, cache = kv_cache.decode(computed, model, tokens[:, None], cache)
            return cache, hidden[:, 0]

        _, rest = jax.lax.scan(step, cache, responses[:, :-1].T)
        hidden = jnp.concatenate([first, rest.swapaxes(0, 1)], axis=1)
        return likelihood.token_logprobs(computed, model, hidden, responses)[0]

    @jax.jit
    def without(weights):
        return response_logprobs(weights, model, inputs.query, responses, inputs.pad, 1.0)[0]

    with products(variant):
        found, expected = jax.device_get((with_cache(weights), without(weights)))
    off = np.abs(found - expected)
    return judged(off.max(), NATS[variant.name], mean=float(off.mean()), spread=float(expected.std()))


def _greedy(part: Part, variant: Variant) -> dict:
    """How much likelier than the token written the likeliest one is, by an uncached pass."""
    inputs = Inputs(part, variant)
    weights, model = inputs.network("policy"), inputs.model

    @jax.jit
    def gaps(weights):
        response = generate(
            weights,
            model,
            inputs.query,
            jax.random.key(0),
            response_tokens=inputs.response_tokens,
            eos_ids=(-1,),
            pad_id=inputs.pad,
            temperature=0.0,
        )
        tokens = jnp.concatenate([inputs.query, response[:, :-1]], axis=1)
        segments = transformer.valid_segments(tokens, inputs.pad)
        hidden = transformer.apply(weights, model, tokens, segments, inputs.query.shape[1] - 1)
        logits = transformer.logits(weights, model, hidden)
        best = logprobs.token_logprobs(logits, logits.argmax(-1), 1.0)
        return best - logprobs.token_logprobs(logits, response, 1.0)

    with products(variant):
        return judged(np.max(gaps(weights)), NATS[variant.name])

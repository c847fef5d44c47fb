"""Attention of this backend against plain attention, in value and gradient, on the transformer's masks."""

import contextlib
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from benchmarks.accelerator.part import Part
from rlhf_jax.model import attention


class Variant(NamedTuple):
    """One way to compute, and the relative error that its arithmetic allows."""

    name: str
    dtype: str
    implementation: str = "auto"
    precision: str | None = None  # of matrix products; None: JAX's own, which is TF32 for float32 on a GPU
    allowed: float = 0.02


VARIANTS = (
    Variant("bfloat16", "bfloat16"),
    Variant("bfloat16, blocked", "bfloat16", "blocked"),
    Variant("float32", "float32", allowed=2e-3),
    Variant("float32, exact products", "float32", precision="highest", allowed=1e-5),
)


class Case(NamedTuple):
    """A mask with the shapes it occurs in; tokens are those of a row."""

    tokens: int = 565  # 512 of a query and 53 of a response: an odd number
    last: int = 565  # so many of the tokens are queries
    mask: str = "padded"  # padded (on the left) | packed | branches
    heads: int = 4
    group: int = 1
    size: int = 64
    rows: int = 4
    branches: int = 2  # continuations
    stem: int = 512  # tokens of the text before them


CASES = {
    "left padding": Case(),
    "packed segments": Case(mask="packed"),
    "last queries": Case(last=53),
    "branches": Case(tokens=512 + 2 * 53, last=512 + 2 * 53, mask="branches"),
    "grouped queries": Case(heads=2, group=3),
    "heads of 80": Case(size=80),
    "heads of 128": Case(size=128),
    "heads of 256": Case(size=256),
}
TOY = {
    "left padding": Case(37, 37, size=8, rows=2),
    "packed segments": Case(37, 37, "packed", size=8, rows=2),
    "last queries": Case(37, 5, group=2, size=8, rows=2),
    "branches": Case(30, 30, "branches", size=8, rows=2, stem=20),
}


def dense(
    query: Float[Array, "B H G Tq K"],
    key: Float[Array, "B H T K"],
    value: Float[Array, "B H T K"],
    seen: Bool[Array, "B Tq T"],
) -> Float[Array, "B H G Tq K"]:
    """The definition, in float32: softmax(q kᵀ / √K) v over the keys that are `seen`."""
    query, key, value = (x.astype(jnp.float32) for x in (query, key, value))
    exact = functools.partial(jnp.einsum, precision="highest")
    scores = exact("bhgqk,bhtk->bhgqt", query, key) * query.shape[-1] ** -0.5
    weights = jax.nn.softmax(jnp.where(seen[:, None, None], scores, -1e30), axis=-1)
    return exact("bhgqt,bhtk->bhgqk", weights, value)


def segments_of(case: Case) -> np.ndarray:
    """Segments [B, T] of a case's rows, of the text alone where continuations follow it."""
    length = case.stem if case.mask == "branches" else case.tokens
    place, row = np.arange(length), np.arange(case.rows)[:, None]
    if case.mask == "packed":  # two to four texts a row, and padding at its end
        return np.where(place < length - row, 1 + place * (2 + row % 3) // length, 0).astype(np.int32)
    return (place >= length * row // (2 * case.rows)).astype(np.int32)


def seen_in(case: Case, segments: np.ndarray) -> np.ndarray:
    """Which keys each query sees, [B, Tq, T]; padding sees none."""
    place = np.arange(case.tokens)
    earlier = place[:, None] >= place
    if case.mask != "branches":
        same = (segments[:, :, None] == segments[:, None]) & (segments[:, :, None] > 0)
        return (same & earlier)[:, -case.last :]
    own = (place - case.stem) // ((case.tokens - case.stem) // case.branches)  # −1 and less in the text
    branch = np.where(place < case.stem, -1, own)
    valid = np.pad(segments > 0, ((0, 0), (0, case.tokens - case.stem)), constant_values=True)
    related = (branch[:, None] == branch) | (branch == -1)
    return valid[:, None] & valid[:, :, None] & (related & earlier)


def ours(case: Case, segments: np.ndarray, implementation: str) -> Callable:
    """The product's attention on a case: (query, key, value) → heads."""
    given = jnp.asarray(segments)

    def attend(query, key, value):
        if case.mask == "branches":
            branches = case.branches
            return attention.branched_attention(query, key, value, given, branches, implementation)
        return attention.causal_attention(query, key, value, given, implementation)

    return attend


def value_and_gradients(attend: Callable, arrays, weights) -> list[np.ndarray]:
    """The heads where `weights` [B, H, G, Tq, K] are not 0, and the gradients of their weighted sum."""

    @jax.jit
    def run(*arrays):
        def weighted(*arrays):
            heads = attend(*arrays).astype(jnp.float32)
            return jnp.sum(heads * weights), heads

        gradients, heads = jax.grad(weighted, (0, 1, 2), has_aux=True)(*arrays)
        return jnp.where(weights != 0, heads, 0), *(x.astype(jnp.float32) for x in gradients)

    return jax.device_get(run(*arrays))


def relative(found, exact) -> float:
    """‖found − exact‖ / ‖exact‖ over all arrays of two trees."""
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True))
    off = sum(np.sum(np.square(np.float64(a) - np.float64(b))) for a, b in pairs)
    return float(np.sqrt(off / sum(np.sum(np.square(np.float64(b))) for _, b in pairs)))


def compare(case: Case, variant: Variant) -> dict:
    """A row: the largest relative error among the heads and the three gradients, and each of them."""
    rng = np.random.default_rng(case.tokens + case.last)
    shape = (case.rows, case.heads, case.group, case.last, case.size)
    query, weights = rng.standard_normal((2, *shape), np.float32)
    key, value = rng.standard_normal((2, *shape[:2], case.tokens, case.size), np.float32)
    segments = segments_of(case)
    seen = jnp.asarray(seen_in(case, segments))
    weights = np.where(seen.any(2)[:, None, None, :, None], weights, 0)
    arrays = [jnp.asarray(x, variant.dtype) for x in (query, key, value)]
    exact = value_and_gradients(lambda q, k, v: dense(q, k, v, seen), arrays, weights)
    with products(variant):
        found = value_and_gradients(ours(case, segments, variant.implementation), arrays, weights)
    names = ("heads", "of_query", "of_key", "of_value")
    errors = {name: relative(a, b) for name, a, b in zip(names, found, exact, strict=True)}
    kernel = attention.choose(variant.implementation, arrays[0].dtype, case.size, jax.default_backend())
    return judged(max(errors.values()), variant.allowed, kernel=kernel, errors=errors)


def products(variant: Variant) -> contextlib.AbstractContextManager:
    """How matrix products are made meanwhile."""
    return jax.default_matmul_precision(variant.precision) if variant.precision else contextlib.nullcontext()


def judged(error: float, allowed: float, **more) -> dict:
    """What a row of a comparison holds. An error that is no number does not pass."""
    return {"error": float(error), "allowed": allowed, "passed": bool(error <= allowed)} | more


def variants() -> list[Variant]:
    """Those that differ on this backend: on a CPU nothing but the type does."""
    return [v for v in VARIANTS if jax.default_backend() != "cpu" or v.precision or v == VARIANTS[0]]


def group(part: Part) -> None:
    """Every mask as the product computes it, then two of them in the other ways. Most time is compiling."""
    cases = TOY if part.dry else CASES
    with ThreadPoolExecutor(1 if part.dry else 4) as pool:
        for variant in variants():
            for name in cases if variant == VARIANTS[0] else ("left padding", "branches"):
                work = functools.partial(compare, cases[name], variant)
                pool.submit(part.measure, f"attention, {name}, {variant.name}", work)

"""Who attends to whom, and attention itself.

Heads are laid out as [B, H, G, T, K]: H key-value heads, each shared by G query heads
(G = 1: ordinary multi-head attention; G > 1: grouped queries). Time next to the head
dimension keeps both products contiguous, which is 1.6 times faster on a CPU.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.config import PLAIN, ConfigError, LayerKind
from rlhf_jax.mesh import ROWS, in_rows_of, layout, reshard
from rlhf_jax.model.splash import pad, splash

MASKED = -1e30  # finite, so that a row with nothing to attend to is uniform and not NaN
QUERY_BLOCK = 128  # queries computed together; each block reads only the keys that one of them can see


def positions_of(segments: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """Position of every token: the number of tokens before it in its own segment.

    `segments` is 0 for padding and constant over each run of tokens that belong together, so a
    left-padded row starts counting at its first real token.
    """
    index = jnp.arange(segments.shape[1])
    starts = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    starts = in_rows_of(segments, starts)
    return index - jax.lax.cummax(jnp.where(starts, index, 0), axis=1)


def scores_of(products: Array, size: int, kind: LayerKind) -> Array:
    """Products of queries and keys of `size` dimensions, scaled and, where the kind says so, capped."""
    scores = products * (kind.scale or size**-0.5)
    return kind.cap * jnp.tanh(scores / kind.cap) if kind.cap else scores


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def attend(
    query: Float[Array, "B H G Tq K"],
    key: Float[Array, "B H Tk K"],
    value: Float[Array, "B H Tk K"],
    mask: Bool[Array, "B Tq Tk"],
    kind: LayerKind = PLAIN,
) -> Float[Array, "B H G Tq K"]:
    """softmax(q kᵀ / √K) v over the keys that `mask` allows, one at least; scores and softmax in float32.

    `kind` may scale the scores otherwise and cap them. Its window is the mask's affair.
    """
    return _attend(query, key, value, mask, kind)[0]


def _attend(query, key, value, mask, kind):
    products = jnp.einsum("bhgqk,bhtk->bhgqt", query, key, preferred_element_type=jnp.float32)
    scores = jnp.where(mask[:, None, None], scores_of(products, query.shape[-1], kind), MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    heads = jnp.einsum("bhgqt,bhtk->bhgqk", weights, value)
    return heads, (query, key, value, weights, heads)


def _attend_backward(kind, saved, gradient):
    """With Σ_t dw_t w_t taken as dh · h, which is K long and not Tk; where the mask forbids, w is 0."""
    query, key, value, weights, heads = saved
    mean = jnp.sum((gradient * heads).astype(jnp.float32), axis=-1, keepdims=True)
    of_weights = jnp.einsum("bhgqk,bhtk->bhgqt", gradient, value, preferred_element_type=jnp.float32)
    of_scores = weights * (of_weights - mean)
    if kind.cap:  # the derivative of c · tanh(s / c), from products made once more
        products = jnp.einsum("bhgqk,bhtk->bhgqt", query, key, preferred_element_type=jnp.float32)
        of_scores *= 1 - jnp.square(scores_of(products, query.shape[-1], kind) / kind.cap)
    scores = (of_scores * (kind.scale or query.shape[-1] ** -0.5)).astype(query.dtype)
    return (
        jnp.einsum("bhgqt,bhtk->bhgqk", scores, key),
        jnp.einsum("bhgqt,bhgqk->bhtk", scores, query),
        jnp.einsum("bhgqt,bhgqk->bhtk", weights, gradient),
        None,
    )


attend.defvjp(_attend, _attend_backward)


def causal_mask(
    queries: Int[Array, "B Tq"], keys: Int[Array, "B Tk"], first: int, window: int = 0
) -> Bool[Array, "B Tq Tk"]:
    """Query i, at position `first` + i, sees the keys of its segment up to itself; arguments are segments.

    With a window the last so many of them. Padding sees the padding before it, so that no query is
    without keys.
    """
    place = first + jnp.arange(queries.shape[1])[:, None]
    causal = place >= jnp.arange(keys.shape[1])[None, :]
    if window:
        causal &= place - jnp.arange(keys.shape[1])[None, :] < window
    return causal & (queries[:, :, None] == keys[:, None, :])


def causal_attention(
    query: Float[Array, "B H G Tq K"],
    key: Float[Array, "B H T K"],
    value: Float[Array, "B H T K"],
    segments: Int[Array, "B T"],
    implementation: str = "auto",
    kind: LayerKind = PLAIN,
) -> Float[Array, "B H G Tq K"]:
    """Causal attention within segments; the queries are those of the last Tq of T positions.

    `implementation` is `ModelConfig.attention`. A kernel sees the rows and heads of one device.
    """
    if kind.window >= key.shape[2]:  # it leaves nothing out
        kind = kind._replace(window=0)
    if kind.window:  # keys that every query has left behind
        behind = max(key.shape[2] - query.shape[3] - kind.window + 1, 0)
        key, value, segments = key[:, :, behind:], value[:, :, behind:], segments[:, behind:]
    implementation = choose(implementation, query.dtype, query.shape[-1], jax.default_backend(), kind)
    if implementation == "blocked":
        return blocked(query, key, value, segments, kind)
    kernel = functools.partial({"splash": splash, "cudnn": cudnn}[implementation], kind=kind)
    heads = layout(ROWS, "tensor")
    if heads is None:
        return kernel(query, key, value, segments)
    on_each = jax.shard_map(kernel, in_specs=(heads, heads, heads, P(ROWS)), out_specs=heads, check_vma=False)
    return on_each(query, key, value, segments)


def branched_attention(
    query: Float[Array, "B H G Tq K"],
    key: Float[Array, "B H T K"],
    value: Float[Array, "B H T K"],
    segments: Int[Array, "B Q"],
    count: int,
    implementation: str = "auto",
    kind: LayerKind = PLAIN,
) -> Float[Array, "B H G Tq K"]:
    """Attention over a text and `count` continuations of it, equally long: T = Q + count · R.

    The text sees itself, a continuation the text and itself; `segments` are those of the text. The queries
    are those of the last Tq positions, all continuations among them. Padding at a continuation's end comes
    after all that its tokens see. Continuations count as heads, so that every implementation of causal
    attention serves.
    """
    length = (key.shape[2] - segments.shape[1]) // count
    every_segment = jnp.pad(segments, ((0, 0), (0, length)), constant_values=1)
    if count == 1 or length == 0:  # one row, or none but the text
        return causal_attention(query, key, value, every_segment, implementation, kind)

    def apart(x):
        """[B, H, …, T, K] → those of the text, and [B, H · count, …, R, K]."""
        rows, heads, *group, tokens, size = x.shape
        stem = tokens - count * length
        own = x[..., stem:, :].reshape(rows, heads, *group, count, length, size)
        own = jnp.moveaxis(own, -3, 2)
        own = own.reshape(rows, heads * count, *group, length, size, out_sharding=layout(ROWS, "tensor"))
        return x[..., :stem, :], own

    (query, own_query), (key, own_key), (value, own_value) = apart(query), apart(key), apart(value)
    heads = causal_attention(query, key, value, segments, implementation, kind)

    def after_text(text, own):
        text = jnp.repeat(text, count, axis=1, out_sharding=layout(ROWS, "tensor"))
        return jnp.concatenate([text, own], axis=2)

    own_key, own_value = after_text(key, own_key), after_text(value, own_value)
    own = causal_attention(own_query, own_key, own_value, every_segment, implementation, kind)
    rows, many, group, _, size = own.shape
    own = own.reshape(rows, many // count, count, group, length, size, out_sharding=layout(ROWS, "tensor"))
    shape = (rows, many // count, group, count * length, size)
    own = own.swapaxes(2, 3).reshape(shape, out_sharding=layout(ROWS, "tensor"))
    return jnp.concatenate([heads, own], axis=3)


def attend_to_both(
    query: Float[Array, "B H*N G K"],
    shared: tuple[Float[Array, "B H Q K"], Float[Array, "B H Q K"]],
    own: Sequence[Float[Array, "B H*N S K"]],
    valid: Bool[Array, "B Q"],
    used: Int[Array, ""],
    kind: LayerKind = PLAIN,
) -> Float[Array, "B H*N G K"]:
    """One token of each of N continuations attends to the text, whose keys they share, and to its own.

    Of the text's tokens to those that are `valid`, of its own to the first `used`, and with a window to
    the last so many of all of them.
    """
    rows, heads, slots, size = shared[0].shape
    many, group = query.shape[1:3]

    def together(x):
        """[B, H·N, G, …] → [B, H, N·G, …]"""
        return x.reshape(rows, heads, -1, x.shape[-1], out_sharding=layout(ROWS, "tensor"))

    def apart(x):
        return x.reshape(rows, many, group, x.shape[-1], out_sharding=layout(ROWS, "tensor"))

    to_text = jnp.einsum("bhmk,bhqk->bhmq", together(query), shared[0], preferred_element_type=jnp.float32)
    to_own = jnp.einsum("bxgk,bxsk->bxgs", query, own[0], preferred_element_type=jnp.float32)
    seen, own_seen = valid[:, None, None], jnp.arange(to_own.shape[-1]) < used
    if kind.window and kind.window < slots + to_own.shape[-1]:
        first = used - kind.window  # seen of its own tokens; where it is negative, so many of the text's too
        seen = seen & (jnp.arange(slots) - slots >= first)
        own_seen &= jnp.arange(to_own.shape[-1]) >= first
    to_text = jnp.where(seen, scores_of(to_text, size, kind), MASKED)
    to_own = jnp.where(own_seen, scores_of(to_own, size, kind), MASKED)
    weights = jax.nn.softmax(jnp.concatenate([to_text, together(to_own)], axis=-1), axis=-1)
    both = jnp.split(weights.astype(query.dtype), [slots], axis=-1)
    of_text, of_own = (reshard(x, ROWS, "tensor") for x in both)
    from_text = jnp.einsum("bhmq,bhqk->bhmk", of_text, shared[1])
    return apart(from_text) + jnp.einsum("bxgs,bxsk->bxgk", apart(of_own), own[1])


def by_text(x: Float[Array, "B*N H *G 1 K"], samples: int) -> Float[Array, "B H*N G K"]:
    """Heads of one token of each continuation as heads of its text; keys have no G, as if it were 1."""
    rows, heads, *group, size = x.shape
    x = x.reshape(rows // samples, samples, *x.shape[1:], out_sharding=layout(ROWS, None, "tensor"))
    shape = (rows // samples, heads * samples, math.prod(group), size)
    return x.swapaxes(1, 2).reshape(shape, out_sharding=layout(ROWS, "tensor"))


def by_continuation(x: Float[Array, "B H*N G K"], samples: int) -> Float[Array, "B*N H G 1 K"]:
    """What `by_text` has put together, apart again."""
    rows, heads, group, size = x.shape
    x = x.reshape(rows, heads // samples, samples, group, size, out_sharding=layout(ROWS, "tensor"))
    shape = (rows * samples, heads // samples, group, 1, size)
    return x.swapaxes(1, 2).reshape(shape, out_sharding=layout(ROWS, "tensor"))


def choose(implementation: str, dtype: DTypeLike, size: int, backend: str, kind: LayerKind = PLAIN) -> str:
    """What `auto` is for heads of `size` on a backend. Raises ConfigError where cuDNN cannot do it."""
    if implementation == "cudnn" and kind.cap:
        raise ConfigError(
            "model.attention: cudnn cannot cap scores (model.attention_cap); auto or blocked does"
        )
    fits = jnp.dtype(dtype) == jnp.bfloat16 and size % 8 == 0 and size <= 128 and not kind.cap
    if implementation == "auto":
        return {"tpu": "splash", "gpu": "cudnn" if fits else "blocked"}.get(backend, "blocked")
    if implementation == "cudnn" and not fits:
        raise ConfigError(
            f"model.attention: cudnn computes in bfloat16, with heads of a multiple of 8 dimensions up to "
            f"128, and not in {dtype} with {size}; auto or blocked does"
        )
    return implementation


def blocked(query, key, value, segments, kind: LayerKind = PLAIN) -> Float[Array, "B H G Tq K"]:
    """Queries go in blocks that touch neither the keys after them nor those that all have left behind.

    Half of the work is not done, and with a window all but its share.
    """
    first = key.shape[2] - query.shape[3]
    blocks = []
    for start in range(first, key.shape[2], QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, key.shape[2])
        begin = max(start - kind.window + 1, 0) if kind.window else 0
        mask = causal_mask(segments[:, start:end], segments[:, begin:end], start - begin, kind.window)
        block = query[:, :, :, start - first : end - first]
        blocks.append(attend(block, key[:, :, begin:end], value[:, :, begin:end], mask, kind))
    return blocks[0] if len(blocks) == 1 else jnp.concatenate(blocks, axis=3)


def cudnn(query, key, value, segments, kind: LayerKind = PLAIN) -> Float[Array, "B H G Tq K"]:
    """cuDNN's flash attention on one device; the mask enters as a bias [B, 1, Tq, T], one for all heads.

    cuDNN's own causal mask, which skips work, counts from the first key: it serves where Tq = T. Its
    lengths of rows cannot say padding on the left or segments. With a bias, lengths must be even. A window
    is in the bias alone and skips no work. Scores cannot be capped.
    """
    first, queries = key.shape[2] - query.shape[3], query.shape[3]
    shape = query.shape
    query, key, value = pad(query, 2, 3), pad(key, 2, 2), pad(value, 2, 2)
    mask = causal_mask(pad(segments[:, first:], 2, 1), pad(segments, 2, 1), first, kind.window)
    heads = jax.nn.dot_product_attention(
        query.reshape(shape[0], -1, *query.shape[3:]).swapaxes(1, 2),
        key.swapaxes(1, 2),
        value.swapaxes(1, 2),
        mask=mask[:, None],
        scale=kind.scale or None,
        is_causal=first == 0,
        implementation="cudnn",
    )
    return heads.swapaxes(1, 2)[:, :, :queries].reshape(shape)

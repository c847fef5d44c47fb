"""Who attends to whom, and attention itself.

Heads are laid out as [B, H, G, T, K]: H key-value heads, each shared by G query heads
(G = 1: ordinary multi-head attention; G > 1: grouped queries). Time next to the head
dimension keeps both products contiguous, which is 1.6 times faster on a CPU.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

MASKED = -1e30  # finite, so that a row with nothing to attend to is uniform and not NaN
QUERY_BLOCK = 128  # queries computed together; each block reads only the keys up to its own end


def positions_of(segments: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """Position of every token: the number of tokens before it in its own segment.

    `segments` is 0 for padding and constant over each run of tokens that belong together, so a
    left-padded row starts counting at its first real token.
    """
    index = jnp.arange(segments.shape[1])
    starts = jnp.concatenate(
        [jnp.ones_like(segments[:, :1], bool), segments[:, 1:] != segments[:, :-1]], axis=1
    )
    return index - jax.lax.cummax(jnp.where(starts, index, 0), axis=1)


def attend(
    query: Float[Array, "B H G Tq K"],
    key: Float[Array, "B H Tk K"],
    value: Float[Array, "B H Tk K"],
    mask: Bool[Array, "B Tq Tk"],
) -> Float[Array, "B H G Tq K"]:
    """softmax(q kᵀ / √K) v over the keys that `mask` allows; scores and softmax in float32."""
    scores = jnp.einsum("bhgqk,bhtk->bhgqt", query, key, preferred_element_type=jnp.float32)
    scores = jnp.where(mask[:, None, None], scores * query.shape[-1] ** -0.5, MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("bhgqt,bhtk->bhgqk", weights, value)


def causal_attention(
    query: Float[Array, "B H G Tq K"],
    key: Float[Array, "B H T K"],
    value: Float[Array, "B H T K"],
    segments: Int[Array, "B T"],
) -> Float[Array, "B H G Tq K"]:
    """Causal attention within segments; the queries are those of the last Tq of T positions.

    Queries go in blocks that never touch the keys after them: half of the work is not done.
    """
    first = key.shape[2] - query.shape[3]
    blocks = []
    for start in range(first, key.shape[2], QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, key.shape[2])
        causal = jnp.arange(start, end)[:, None] >= jnp.arange(end)[None, :]
        together = segments[:, start:end, None] == segments[:, None, :end]
        mask = causal & together & (segments[:, None, :end] > 0)
        block = query[:, :, :, start - first : end - first]
        blocks.append(attend(block, key[:, :, :end], value[:, :, :end], mask))
    return blocks[0] if len(blocks) == 1 else jnp.concatenate(blocks, axis=3)

"""Causal attention by the splash kernel of jax (Pallas, TPU): scores never leave the chip's own memory."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlhf_jax.config import PLAIN, LayerKind

LANES = 128  # the kernel's unit of length
LONGEST_BLOCK = 512


def splash(
    query: Float[Array, "B H G Tq K"],
    key: Float[Array, "B H T K"],
    value: Float[Array, "B H T K"],
    segments: Int[Array, "B T"],
    kind: LayerKind = PLAIN,
) -> Float[Array, "B H G Tq K"]:
    """`attention.causal_attention` on one device. Any head size and length; grouped queries share their keys.

    Lengths are padded at the end to the kernel's blocks. Keys there come after every query; queries
    there are cut off, and see earlier keys, so that no softmax is empty. Blocks of keys that a window
    leaves out are skipped.
    """
    # Imported here: it takes a second, and other platforms never come here.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    rows, heads, group, queries, size = query.shape
    length = key.shape[2]
    query_block, key_block = block(queries), block(length)
    scaled = query.reshape(rows, heads * group, queries, size) * (kind.scale or size**-0.5)
    q = pad(scaled, query_block, 2)
    k, v = pad(key, key_block, 2), pad(value, key_block, 2)
    ids = kernel.SegmentIds(
        q=pad(segments[:, length - queries :], query_block, 1), kv=pad(segments, key_block, 1)
    )
    shape, offset = (q.shape[2], k.shape[2]), length - queries
    local = masks.LocalMask(shape, (kind.window - 1, 0), offset)
    mask = local if kind.window else masks.CausalMask(shape, offset)
    attend = kernel.make_splash_mha(
        masks.MultiHeadMask([mask] * (heads * group)),
        block_sizes=kernel.BlockSizes(
            block_q=query_block,
            block_kv=key_block,
            block_q_dkv=query_block,
            block_kv_dkv=key_block,
            block_q_dq=query_block,
            block_kv_dq=key_block,
        ),
        attn_logits_soft_cap=kind.cap or None,
        head_shards=1,
        q_seq_shards=1,
    )
    return jax.vmap(attend)(q, k, v, ids)[:, :, :queries].reshape(query.shape)


def block(length: int) -> int:
    """The longest block, in whole lanes, that divides `length` after padding it to whole lanes."""
    lanes = -(-length // LANES)
    return LANES * max(n for n in range(1, LONGEST_BLOCK // LANES + 1) if lanes % n == 0)


def pad(x: Array, multiple: int, axis: int) -> Array:
    """Zeros behind `x`, up to a multiple."""
    room = [(0, 0)] * x.ndim
    room[axis] = (0, -x.shape[axis] % multiple)
    return jnp.pad(x, room)

"""Reading queries once, then writing responses to them token by token."""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int

from rlhf_jax.config import ModelConfig
from rlhf_jax.mesh import ROWS, in_rows_of, layout
from rlhf_jax.model import attention, transformer
from rlhf_jax.model.layer_loop import Layers, through_layers


class KVCache(struct.PyTreeNode):
    """Keys and values of queries, and of the tokens written so far of N responses to each, for `decode`."""

    read: Layers  # of the queries: of each layer a pair of [B, H, Q, K]; with a window, its last slots
    written: Layers  # of the responses: likewise of [B, H·N, S, K]
    valid: Array  # [B, Q] bool, where the query has a token
    length: Array  # [] slots of the responses in use, the same for all of them
    position: Array  # [B·N] position of each response's next token


def prefill(params, config: ModelConfig, tokens, segments, slots: int, samples: int = 1):
    """Reads left-padded queries once for N = `samples` responses to each.

    Returns the hidden state of the last token [B·N, 1, D], responses to one query together, and a cache
    with room for `slots` tokens of each. `params` come from `transformer.prepare`.
    """
    positions = attention.positions_of(segments)
    x = transformer.embed(params["embed"], tokens, positions, config)

    def step(w, x, caches, kind, select):
        del caches

        def attend(query, key, value):
            heads = attention.causal_attention(query, key, value, segments, config.attention, kind)
            behind = max(key.shape[2] - kind.window + 1, 0) if kind.window else 0  # what no response sees
            return heads, (key[:, :, behind:], value[:, :, behind:])

        return transformer.layer(w, x, config, kind, positions, attend, select)

    def last(x):
        return in_rows_of(x, x[:, -1:])

    def room(x):
        *stack, rows, heads, _, size = x.shape  # a stack where layers are looped over
        axes = (*[None] * len(stack), ROWS, "tensor")
        return jnp.zeros((*stack, rows, heads * samples, slots, size), x.dtype, out_sharding=layout(*axes))

    x, read = through_layers(step, x, params["layers"], config, select=last)
    place = in_rows_of(positions, positions[:, -1])
    position, x = (repeat_rows(y, samples) for y in (place + 1, x))
    cache = KVCache(read, jax.tree.map(room, read), segments > 0, jnp.int32(0), position)
    return transformer.norm(params["norm"], x, config), cache


def repeat_rows(x: Array, times: int) -> Array:
    """[B, …] → [B · times, …], equal rows together."""
    return x if times == 1 else jnp.repeat(x, times, axis=0, out_sharding=layout(ROWS))


def decode(params, config: ModelConfig, tokens: Int[Array, "B*N 1"], cache: KVCache):
    """One more token for every response: its hidden state [B·N, 1, D] and the longer cache."""
    positions = cache.position[:, None]
    samples = tokens.shape[0] // cache.valid.shape[0]
    x = transformer.embed(params["embed"], tokens, positions, config)

    def step(w, x, caches, kind, select):
        read, written = caches

        def attend(query, key, value):
            query, *new = (attention.by_text(x, samples) for x in (query, key, value))
            own = [
                jax.lax.dynamic_update_slice_in_dim(old, token, cache.length, axis=2)
                for old, token in zip(written, new, strict=True)
            ]
            valid = cache.valid[:, cache.valid.shape[1] - read[0].shape[2] :]
            heads = attention.attend_to_both(query, read, own, valid, cache.length + 1, kind)
            return attention.by_continuation(heads, samples), tuple(own)

        return transformer.layer(w, x, config, kind, positions, attend, select)

    x, written = through_layers(step, x, params["layers"], config, (cache.read, cache.written))
    cache = cache.replace(written=written, length=cache.length + 1, position=cache.position + 1)
    return transformer.norm(params["norm"], x, config), cache

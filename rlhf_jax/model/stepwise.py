"""Writing responses a few tokens at a time, each row with a temperature and a seed of its own.

`generate` writes a whole batch of like rows in one call. Here the caller sees the texts grow, can show them
and can end a row. What a row writes depends on its query, temperature and seed, and not on the other rows.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.config import ModelConfig
from rlhf_jax.functional.logprobs import token_logprobs
from rlhf_jax.mesh import ROWS, in_rows_of, layout, reshard
from rlhf_jax.model import kv_cache, transformer
from rlhf_jax.model.generate import without_fsdp


class Draft(struct.PyTreeNode):
    """Responses that are being written: what is kept between two calls."""

    cache: kv_cache.KVCache  # of the queries and of the tokens written so far
    hidden: Float[Array, "B 1 D"]  # of the last token, from which the next one is drawn


def prepare(params, config: ModelConfig):
    """The parameters as the other two functions read them; made once for all calls."""
    params = transformer.prepare(params, config)
    return jax.tree.map(without_fsdp, params) if config.gather_to_sample else params


def begin(params, config: ModelConfig, query: Int[Array, "B Q"], pad_id: int, slots: int) -> Draft:
    """Reads left-padded queries; there is room for `slots` tokens of each response."""
    hidden, cache = kv_cache.prefill(params, config, query, transformer.valid_segments(query, pad_id), slots)
    return Draft(cache, hidden)


def advance(
    params,
    config: ModelConfig,
    draft: Draft,
    running: Bool[Array, "B"],
    temperature: Float[Array, "B"],
    seed: Int[Array, "B"],
    *,
    tokens: int,
    ends: tuple[int, ...],
    pad_id: int,
) -> tuple[Draft, Int[Array, "B P"], Float[Array, "B P"]]:
    """At most P = `tokens` more tokens of each response that is `running`, fewer once all have ended.

    A response ends with one of the ids `ends`; behind that, and in rows that do not run, is padding. The
    second array has the log-probability of each token at temperature 1, nats. Temperature 0 is greedy. The
    room of the draft must hold the tokens: that is not checked.
    """
    rows = running.shape[0]
    written = jnp.full((rows, tokens), pad_id, jnp.int32, out_sharding=layout(ROWS, None))
    logprobs = jnp.zeros((rows, tokens), jnp.float32, out_sharding=layout(ROWS, None))

    def unfinished(carry):
        i, _, _, _, running = carry
        return (i < tokens) & running.any()

    def step(carry):
        i, draft, written, logprobs, running = carry
        logits = reshard(transformer.logits(params, config, draft.hidden), ROWS, None, None)
        token = _sample(logits[:, 0].astype(jnp.float32), temperature, seed, draft.cache.length)
        token = jnp.where(running, token, pad_id)[:, None]
        of_token = token_logprobs(logits, token)
        written = jax.lax.dynamic_update_slice_in_dim(written, token, i, axis=1)
        logprobs = jax.lax.dynamic_update_slice_in_dim(logprobs, of_token, i, axis=1)
        hidden, cache = kv_cache.decode(params, config, token, draft.cache)
        ended = (token == jnp.array(ends)).any(axis=1)
        return i + 1, Draft(cache, hidden), written, logprobs, running & ~in_rows_of(running, ended)

    start = (jnp.int32(0), draft, written, logprobs, running)
    _, draft, written, logprobs, _ = jax.lax.while_loop(unfinished, step, start)
    return draft, written, logprobs


def _sample(
    logits: Float[Array, "B V"], temperature: Float[Array, "B"], seed: Int[Array, "B"], place: Int[Array, ""]
) -> Int[Array, "B"]:
    """One token a row from softmax(logits / temperature), by Gumbel noise of the row's seed and the place."""

    def noise(seed):
        key = jax.random.fold_in(jax.random.key(seed), place)
        return jax.random.gumbel(key, logits.shape[1:], logits.dtype)

    drawn = reshard(jax.vmap(noise)(reshard(seed, None)), ROWS, None)
    # Greedy rows read the logits as they are; another divisor than 0 keeps NaN out of those not taken.
    warm = (temperature > 0)[:, None]
    noisy = logits / jnp.where(warm, temperature[:, None], 1.0) + jnp.where(warm, drawn, 0.0)
    return jnp.argmax(noisy, axis=-1).astype(jnp.int32)

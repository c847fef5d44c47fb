"""Writing responses: prefill and decode in one compiled call that stops when every row has ended."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlhf_jax.config import ModelConfig
from rlhf_jax.functional import rewards
from rlhf_jax.mesh import ROWS, in_rows_of, layout, reshard
from rlhf_jax.model import kv_cache, transformer


def generate(
    params,
    config: ModelConfig,
    query: Int[Array, "B Q"],
    key: jax.Array,
    *,
    response_tokens: int,
    eos_ids: tuple[int, ...],
    pad_id: int,
    temperature: float = 1.0,
    samples: int = 1,
    part: tuple[int | Int[Array, ""], int] = (0, 1),
) -> Int[Array, "B*N R"]:
    """Samples N = `samples` responses to each left-padded query, which is read once; temperature 0 is greedy.

    Returns R = `response_tokens` ids a row: through the first EOS, then padding. Responses to one query
    stand together. The queries are part k of n, `part` = (k, n), of a batch as `mesh.split_rows` takes it
    apart: their responses are those that the whole batch would get.
    """
    params = transformer.prepare(params, config)
    if config.gather_to_sample:
        params = jax.tree.map(without_fsdp, params)
    segments = transformer.valid_segments(query, pad_id)
    slots = max(response_tokens - 1, 1)  # the loop below is compiled though it may never run
    hidden, cache = kv_cache.prefill(params, config, query, segments, slots, samples)
    rows = samples * query.shape[0]
    response = jnp.full((rows, response_tokens), pad_id, jnp.int32, out_sharding=layout(ROWS, None))
    ended = jnp.zeros(rows, bool, out_sharding=layout(ROWS))

    def choose(i, hidden, response, ended):
        scores = transformer.logits(params, config, hidden)[:, 0]
        token = sample(jax.random.fold_in(key, i), scores, temperature, part, samples)
        token = jnp.where(ended, pad_id, token)
        response = jax.lax.dynamic_update_slice_in_dim(response, token[:, None], i, axis=1)
        return response, ended | rewards.is_eos(token, eos_ids)

    def unfinished(carry):
        i, _, _, ended = carry
        return (i < response_tokens) & ~ended.all()

    def step(carry):
        i, cache, response, ended = carry
        last = in_rows_of(response, jax.lax.dynamic_slice_in_dim(response, i - 1, 1, axis=1))
        hidden, cache = kv_cache.decode(params, config, last, cache)
        response, ended = choose(i, hidden, response, ended)
        return i + 1, cache, response, ended

    response, ended = choose(0, hidden, response, ended)
    return jax.lax.while_loop(unfinished, step, (jnp.int32(1), cache, response, ended))[2]


def without_fsdp(x: jax.Array) -> jax.Array:
    """`x` whole along the axes that are split over fsdp alone.

    Otherwise every layer's weights cross the links again for each token, which takes longer than all else.
    """
    return reshard(x, *(None if axis == "fsdp" else axis for axis in jax.typeof(x).sharding.spec))


def sample(
    key: jax.Array,
    logits: Float[Array, "B V"],
    temperature: float,
    part: tuple[int | Int[Array, ""], int] = (0, 1),
    samples: int = 1,
) -> Int[Array, "B"]:
    """One token a row from softmax(logits / temperature); `part` says which rows of a batch these are."""
    logits = reshard(logits, ROWS, None)
    if temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    noisy = logits / temperature + noise_like(logits, key, *part, samples)
    # The maximum first: argmax of numbers yet to be computed is one loop on one core of a CPU.
    return jnp.argmax(noisy == noisy.max(axis=-1, keepdims=True), axis=-1).astype(jnp.int32)


def noise_like(
    logits: Float[Array, "B V"], key: jax.Array, part: int | Int[Array, ""], parts: int, samples: int = 1
) -> Float[Array, "B V"]:
    """Gumbel noise for one part of the rows of a batch, of which `samples` at a time stay together."""
    rows, vocabulary = logits.shape
    whole = reshard(jax.random.gumbel(key, (parts * rows, vocabulary), logits.dtype), ROWS, None)
    if parts == 1:
        return whole
    grouped = whole.reshape(rows // samples, parts, samples, vocabulary, out_sharding=layout(ROWS))
    own = jax.lax.dynamic_index_in_dim(grouped, part, axis=1, keepdims=False)
    return own.reshape(rows, vocabulary, out_sharding=layout(ROWS))

"""What losses and scores need of the transformer: its output at few positions, or after one query many times.

A query is here, as in the paper, a text that is responded to. It is computed once for all of its responses.
They stand behind it in one row, and each sees the query and itself, at positions as if it were alone there.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from rlhf_jax.config import ModelConfig
from rlhf_jax.mesh import ROWS, in_rows_of, layout, reshard
from rlhf_jax.model import attention
from rlhf_jax.model.transformer import forward, valid_segments


def take(x: Shaped[Array, "B T *rest"], places: Int[Array, "B S"]) -> Shaped[Array, "B S *rest"]:
    """Each row at its own places; row by row, as an axis that is indexed loses its layout."""

    def of_row(x, places):
        return jnp.take_along_axis(x, places.reshape(places.shape + (1,) * (x.ndim - 1)), axis=0)

    return jax.vmap(of_row)(x, reshard(places, jax.typeof(x).sharding.spec[0], None))


def attention_at(places: Int[Array, "B S"], seen: Bool[Array, "B S T"], positions: Int[Array, "B T"]):
    """Attention at `places` alone: to those tokens of `seen` that are within a layer's window."""

    def attend(query, key, value, kind):
        mask = seen
        if kind.window:
            mask = seen & (take(positions, places)[..., None] - positions[:, None] < kind.window)
        return attention.attend(query, key, value, mask, kind)

    return attend


def apply_at(
    params,
    config: ModelConfig,
    tokens: Int[Array, "B T"],
    segments: Int[Array, "B T"],
    places: Int[Array, "B S"],
) -> Float[Array, "B S D"]:
    """`transformer.apply` at `places` of each row, which differ from row to row."""
    attend = functools.partial(attention.causal_attention, segments=segments, implementation=config.attention)
    seen = places[..., None] >= jnp.arange(tokens.shape[1])
    seen &= take(segments, places)[..., None] == segments[:, None]
    positions = attention.positions_of(segments)
    select = functools.partial(take, places=places)
    return forward(params, config, tokens, positions, attend, select, attention_at(places, seen, positions))


def in_one_row(config: ModelConfig, query: Int[Array, "B Q"], responses: Int[Array, "B N R"], pad_id: int):
    """Tokens [B, Q + N · R], their positions, and attention in which responses do not see each other."""
    rows, count, length = responses.shape
    tokens = jnp.concatenate([query, jnp.reshape(responses, (rows, -1), out_sharding=layout(ROWS))], axis=1)
    segments = valid_segments(query, pad_id)
    own_positions = jnp.sum(segments, axis=1, keepdims=True) + jnp.tile(jnp.arange(length), count)
    positions = jnp.concatenate([attention.positions_of(segments), own_positions], axis=1)
    attend = functools.partial(
        attention.branched_attention, segments=segments, count=count, implementation=config.attention
    )
    return tokens, positions, attend


def apply_to_ends(
    params, config: ModelConfig, query: Int[Array, "B Q"], responses: Int[Array, "B N R"], pad_id: int
) -> Float[Array, "B N D"]:
    """Hidden states at the last token of each of N responses to a query.

    Queries are left-padded; responses are right-padded, each of one token at least.
    """
    _, count, length = responses.shape
    tokens, positions, attend = in_one_row(config, query, responses, pad_id)
    starts = query.shape[1] + length * jnp.arange(count)
    ends = starts + jnp.sum(responses != pad_id, axis=2) - 1
    index = jnp.arange(tokens.shape[1])
    in_response = (index >= starts[:, None]) & (index <= ends[:, :, None])  # [B, N, T]
    in_query = jnp.pad(query != pad_id, ((0, 0), (0, count * length)))  # [B, T]
    attend_at_ends = attention_at(ends, in_response | in_query[:, None], positions)
    select = functools.partial(take, places=ends)
    return forward(params, config, tokens, positions, attend, select, attend_at_ends)


def apply_to_responses(
    params, config: ModelConfig, query: Int[Array, "B Q"], response: Int[Array, "B*N R"], pad_id: int
) -> Float[Array, "B*N R D"]:
    """Hidden states from which each token of N responses to a query is predicted.

    Entry t of a response has seen the query and t of its tokens: entry 0 is that of the query's last token.
    The responses to one query are consecutive rows.
    """
    rows, length = query.shape[0], response.shape[1]
    count = response.shape[0] // rows
    inputs = in_rows_of(response, response[:, :-1])  # from the last token nothing is predicted
    inputs = jnp.reshape(inputs, (rows, count, length - 1), out_sharding=layout(ROWS))
    tokens, positions, attend = in_one_row(config, query, inputs, pad_id)
    last = query.shape[1] - 1
    hidden = forward(params, config, tokens, positions, attend, lambda x: in_rows_of(x, x[:, last:]))
    if count == 1:
        return hidden
    own = hidden[:, 1:].reshape(rows, count, length - 1, config.width, out_sharding=layout(ROWS))
    first = jnp.repeat(hidden[:, None, :1], count, axis=1, out_sharding=layout(ROWS))
    both = jnp.concatenate([first, own], axis=2)
    return both.reshape(rows * count, length, config.width, out_sharding=layout(ROWS))

"""The scalar head: a transformer's hidden states read as a reward or a value."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from rlhf_jax.config import ModelConfig
from rlhf_jax.mesh import ROWS, layout
from rlhf_jax.model import passes, transformer
from rlhf_jax.model.params import ParamSpec, constant, init, normal


def specs(config: ModelConfig, vocabulary: int):
    """A transformer with a scalar head: `{"transformer": …, "head": …}`.

    The transformer has no output matrix, as nobody reads its logits. Head weights of variance
    1 / (D + 1), bias 0 (Stiennon et al., 2020). The bias later carries the shift that gives the
    training references a mean score of 0.
    """
    body = transformer.specs(config, vocabulary)
    body.pop("head", None)
    return {
        "transformer": body,
        "head": {
            "weight": ParamSpec((config.width,), P(None), normal((config.width + 1) ** -0.5)),
            "bias": ParamSpec((), P(), constant(0.0)),
        },
    }


def on_top(weights, config: ModelConfig, vocabulary: int, key: jax.Array):
    """The parameters of a transformer with a new scalar head, which takes the place of an output matrix."""
    head = {"head": specs(config, vocabulary)["head"]}
    body = {part: x for part, x in weights.items() if part != "head"}
    return {"transformer": body} | jax.jit(lambda: init(head, key))()


def read(head, hidden: Float[Array, "*rows D"]) -> Float[Array, "*rows"]:
    """The scalar at every position, in float32."""
    hidden, exact = hidden.astype(jnp.float32), jax.lax.Precision.HIGHEST
    return jnp.einsum("...d,d->...", hidden, head["weight"], precision=exact) + head["bias"]


def values(
    params, config: ModelConfig, query: Int[Array, "B Q"], response: Int[Array, "B*N R"], pad_id: int
) -> Float[Array, "B*N R"]:
    """What the head reads before each token of N responses to a query, which is computed once.

    Entry t is read after t response tokens, the first at the query's last token.
    """
    hidden = passes.apply_to_responses(params["transformer"], config, query, response, pad_id)
    return read(params["head"], hidden)


def scores(
    params, config: ModelConfig, query: Int[Array, "B Q"], responses: Int[Array, "B N R"], pad_id: int
) -> Float[Array, "B N"]:
    """The reward of each of N responses to a query, read at its last token (EOS where it has one).

    The query is computed once.
    """
    hidden = passes.apply_to_ends(params["transformer"], config, query, responses, pad_id)
    return read(params["head"], hidden)


def score(
    params, config: ModelConfig, query: Int[Array, "B Q"], response: Int[Array, "B*N R"], pad_id: int
) -> Float[Array, "B*N"]:
    """The reward of each response; the N to one query stand together."""
    by_query = response.reshape(query.shape[0], -1, response.shape[1], out_sharding=layout(ROWS))
    return scores(params, config, query, by_query, pad_id).reshape(-1, out_sharding=layout(ROWS))

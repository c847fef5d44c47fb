"""The scalar head: a transformer's hidden states read as a reward or a value."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from rlhf_jax.config import ModelConfig
from rlhf_jax.model import transformer
from rlhf_jax.model.params import ParamSpec, constant, normal


def specs(config: ModelConfig, vocabulary: int):
    """A transformer with a scalar head: `{"transformer": …, "head": …}`.

    Head weights of variance 1 / (D + 1), bias 0 (Stiennon et al., 2020). The bias later carries
    the shift that gives the training references a mean score of 0.
    """
    return {
        "transformer": transformer.specs(config, vocabulary),
        "head": {
            "weight": ParamSpec((config.width,), P(None), normal((config.width + 1) ** -0.5)),
            "bias": ParamSpec((), P(), constant(0.0)),
        },
    }


def read(head, hidden: Float[Array, "*rows D"]) -> Float[Array, "*rows"]:
    """The scalar at every position, in float32."""
    hidden = hidden.astype(jnp.float32)
    return jnp.einsum("...d,d->...", hidden, head["weight"], precision=jax.lax.Precision.HIGHEST) + head["bias"]

"""Log-probabilities and entropy from logits whose vocabulary may be split over devices.

Tokens are picked from the vocabulary by comparing with a range and summing, never by a
gather: a gather along a sharded axis would collect the whole vocabulary on each device.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import entr
from jaxtyping import Array, Float, Int


def token_logprobs(
    logits: Float[Array, "B T V"], tokens: Int[Array, "B T"], temperature: float = 1.0
) -> Float[Array, "B T"]:
    """log softmax(logits / temperature)[token], in nats and float32.

    `logits[:, t]` are those that predict `tokens[:, t]`; the caller has shifted them. A token
    outside the vocabulary, as padding is, gets a finite number without meaning: mask it.
    """
    logits = logits.astype(jnp.float32) / temperature
    layout = jax.typeof(logits).sharding  # each device compares with its own part of the vocabulary
    vocabulary = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1, out_sharding=layout)
    chosen = jnp.sum(jnp.where(vocabulary == tokens[..., None], logits, 0.0), axis=-1)
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def entropy(logits: Float[Array, "B T V"], temperature: float = 1.0) -> Float[Array, "B T"]:
    """−Σ_v p_v log p_v of p = softmax(logits / temperature), in nats and float32.

    A logit of −inf counts as probability 0. For logging, not for gradients.
    """
    return jnp.sum(entr(jax.nn.softmax(logits.astype(jnp.float32) / temperature, axis=-1)), axis=-1)

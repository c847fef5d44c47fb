"""Log-probabilities and entropies from hidden states, however large the vocabulary.

Whole logits [B, T, V] in float32 can be the largest array of a step: 128,000 tokens, 8 rows of 512
positions, 2 GB, several times over in the backward pass. Beyond a limit they are made for some positions
at a time, and again in the backward pass, which costs one more vocabulary product and saves the rest.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from rlhf_jax.config import ModelConfig
from rlhf_jax.functional import logprobs
from rlhf_jax.mesh import ROWS, layout
from rlhf_jax.model import passes, transformer

MOST_LOGITS = 2**26  # at once on one device: 256 MB in float32


def token_logprobs(
    params,
    config: ModelConfig,
    hidden: Float[Array, "B T D"],
    tokens: Int[Array, "B T"],
    temperature: float = 1.0,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Log-probability of each token and entropy of the distribution it is drawn from, in nats.

    `hidden[:, t]` predicts `tokens[:, t]`. No gradient flows through the entropy.
    """

    def read(hidden, tokens, matrix):
        logits = transformer.unembed(hidden, matrix, config)
        logp = logprobs.token_logprobs(logits, tokens, temperature)
        return logp, logprobs.entropy(jax.lax.stop_gradient(logits), temperature)

    matrix = transformer.output_matrix(params, config)
    rows, length = tokens.shape
    chunk = positions_at_once(rows, matrix.shape[0])
    if chunk >= length:
        return read(hidden, tokens, matrix)
    matrix = gathered(matrix)

    @functools.partial(jax.checkpoint, prevent_cse=False)  # within a loop nothing else merges the two passes
    def read_again(part):
        hidden, tokens = part
        return read(hidden, tokens, matrix)

    both = jax.lax.map(read_again, (in_chunks(hidden, chunk), in_chunks(tokens, chunk)))
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(rows, -1)[:, :length], both)


def positions_at_once(rows: int, vocabulary: int) -> int:
    """As many as keep each device's share of the logits, split over all devices, within the limit."""
    devices = max(jax.sharding.get_abstract_mesh().size, 1)
    return max(MOST_LOGITS * devices // (rows * vocabulary), 1)


def gathered(matrix: Float[Array, "V D"]) -> Float[Array, "V D"]:
    """The output matrix split over `tensor` alone, moved once and not chunk by chunk.

    `reduced` does the same for its gradient: the devices' shares are summed after the last chunk.
    """
    if layout() is None:
        return matrix
    return jax.reshard(matrix, P("tensor", None, reduced=set(ROWS)))


def in_chunks(x: Array, chunk: int) -> Array:
    """[B, T, …] → [chunks, B, chunk, …], zeros behind the last position."""
    room = [(0, 0), (0, -x.shape[1] % chunk)] + [(0, 0)] * (x.ndim - 2)
    x = jnp.pad(x, room)
    return x.reshape(x.shape[0], -1, chunk, *x.shape[2:]).swapaxes(0, 1)


def response_logprobs(
    params,
    config: ModelConfig,
    query: Int[Array, "B Q"],
    response: Int[Array, "B*N R"],
    pad_id: int,
    temperature: float,
) -> tuple[Float[Array, "B*N R"], Float[Array, "B*N R"]]:
    """Log-probability of each response token, and entropy where it was drawn, at `temperature`, nats.

    The N responses to one query stand together. Its tokens are read once and never predicted.
    """
    hidden = passes.apply_to_responses(params, config, query, response, pad_id)
    return token_logprobs(params, config, hidden, response, temperature)

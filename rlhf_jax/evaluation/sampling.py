"""Summaries drawn from a policy, with how far each lies from the policy it was trained from."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rlhf_jax import inference
from rlhf_jax.config import DataConfig, ModelConfig
from rlhf_jax.data.batches import QueryPlan
from rlhf_jax.data.records import Post
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.mesh import row_shards, to_devices, to_host
from rlhf_jax.model.generate import sample_with_logprobs


@functools.partial(jax.jit, static_argnames=("model", "response_tokens", "eos_id", "pad_id", "temperature"))
def sample(policy, reference, query: Int[Array, "B Q"], key: jax.Array, **setting):
    """Responses [B, R] of the policy, and log π(response) − log π_ref(response) [B] through EOS, in nats.

    Both log-probabilities are at the temperature; the second result is 1 draw of the KL. `setting` is
    that of `sample_with_logprobs`.
    """
    response, mask, logp, ref_logp = sample_with_logprobs(policy, reference, query, key, **setting)
    return response, jnp.sum(jnp.where(mask, logp - ref_logp, 0.0), axis=1)


def sampled(
    policy,
    reference,
    infos: Sequence[Post],
    *,
    model: ModelConfig,
    tokenizer: Tokenizer,
    data: DataConfig,
    temperature: float,
    seed: int,
) -> tuple[list[str], Float[np.ndarray, "N"]]:
    """One summary of each text, and its draw of the KL from `reference`, in order. Needs a mesh set."""
    mesh = jax.sharding.get_mesh()
    shards = row_shards(mesh)
    plan = QueryPlan(infos, tokenizer, data, inference.batch_size(shards), seed)
    texts, kl = [""] * len(infos), np.empty(len(infos), np.float32)
    for i, (batch, valid) in enumerate(plan.in_order(shards)):
        responses, drawn = sample(
            policy,
            reference,
            to_devices(batch["query"], mesh),
            jax.random.fold_in(jax.random.key(seed), i),
            model=model,
            response_tokens=data.response_tokens,
            eos_id=tokenizer.eos_id,
            pad_id=tokenizer.pad_id,
            temperature=temperature,
        )
        rows = batch["index"][:valid]
        kl[rows] = to_host(drawn)[:valid]
        for row, response in zip(rows, to_host(responses), strict=False):
            texts[row] = tokenizer.decode(response).strip()
    return texts, kl

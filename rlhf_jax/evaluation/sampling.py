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
from rlhf_jax.functional.rewards import response_mask
from rlhf_jax.mesh import row_shards, to_devices, to_host
from rlhf_jax.model.generate import generate
from rlhf_jax.rollout import response_logprobs


@functools.partial(jax.jit, static_argnames=("model", "response_tokens", "eos_id", "pad_id", "temperature"))
def sample(
    policy,
    reference,
    query: Int[Array, "B Q"],
    key: jax.Array,
    *,
    model: ModelConfig,
    response_tokens: int,
    eos_id: int,
    pad_id: int,
    temperature: float,
) -> tuple[Int[Array, "B R"], Float[Array, "B"]]:
    """Responses of the policy, and log π(response) − log π_ref(response) of each through EOS, in nats.

    Both log-probabilities are at the temperature; the second result is 1 draw of the KL.
    """
    response = generate(
        policy,
        model,
        query,
        key,
        response_tokens=response_tokens,
        eos_id=eos_id,
        pad_id=pad_id,
        temperature=temperature,
    )
    logp, _ = response_logprobs(policy, model, query, response, pad_id, temperature)
    ref_logp, _ = response_logprobs(reference, model, query, response, pad_id, temperature)
    mask = response_mask(response, eos_id, pad_id)
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

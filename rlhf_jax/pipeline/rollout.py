"""What PPO learns from: responses, what every network says of them, and rewards token by token."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.config import ConfigError, ModelConfig, PpoConfig
from rlhf_jax.functional import advantages, rewards
from rlhf_jax.mesh import merge_rows, row_shards, split_rows
from rlhf_jax.model import heads
from rlhf_jax.model.generate import sample_with_logprobs

# Rows on one device that are sampled together. With more, reading their keys and values for every token
# outweighs reading the weights, and a row takes as long; with fewer, the weights do.
AT_ONCE = range(16, 64 + 1)


class Sampled(struct.PyTreeNode):
    """Responses and what the networks say of them. Slot t of an [B, R] array is of response token t."""

    query: Int[Array, "B Q"]  # left-padded
    response: Int[Array, "B R"]  # through EOS, then padding
    mask: Bool[Array, "B R"]  # tokens of the response, EOS included
    logp: Float[Array, "B R"]  # log-probability under the policy that wrote it, nats
    ref_logp: Float[Array, "B R"]  # under the reference
    values: Float[Array, "B R"]  # before token t
    score: Float[Array, "B"] | None  # of the reward model; None where there is none


class Rollout(struct.PyTreeNode):
    """A batch of episodes, of which the policy learns."""

    query: Int[Array, "B Q"]  # left-padded
    response: Int[Array, "B R"]  # through EOS, then padding
    mask: Bool[Array, "B R"]  # tokens of the response, EOS included
    value_mask: Bool[Array, "B R"]  # slots that have a value and a reward
    logp: Float[Array, "B R"]  # log-probability under the policy that wrote it, nats
    ref_logp: Float[Array, "B R"]  # under the reference
    values: Float[Array, "B R"]  # before token t
    score: Float[Array, "B"]  # of a response, missing EOS already accounted for
    rewards: Float[Array, "B R"]  # KL penalty, and the score at its place, before any whitening
    advantages: Float[Array, "B R"]  # whitened over the whole batch
    returns: Float[Array, "B R"]  # advantages before whitening + values


class Setting(NamedTuple):
    """What stays fixed over a run and is compiled into an iteration."""

    model: ModelConfig
    options: PpoConfig
    response_tokens: int
    eos_ids: tuple[int, ...]
    pad_id: int


def rollout(
    policy,
    reference,
    value,
    reward,
    query: Int[Array, "B Q"],
    key: jax.Array,
    kl_coef: Float[Array, ""],
    setting: Setting,
) -> Rollout:
    """Samples responses with `policy` and turns the four networks' views into advantages.

    `policy` and `reference` are parameters of transformers, `value` and `reward` have scalar heads: four
    trees of one architecture. Everything is float32 from the logits on.
    """
    sampled = sample(policy, reference, value, reward, query, key, setting)
    assert sampled.score is not None, "`reward` scores every response"
    return credited(sampled, sampled.score, kl_coef, setting)


def sample(
    policy, reference, value, reward, query: Int[Array, "B Q"], key: jax.Array, setting: Setting
) -> Sampled:
    """Responses of `policy`, and the networks' views of them; `reward` is None where no model scores them.

    So many rows as `options.rollout_rows` are sampled and read at once, which bounds memory and changes no
    number.
    """
    model, options, eos_ids, pad_id = setting.model, setting.options, setting.eos_ids, setting.pad_id
    parts = parts_of(options, query.shape[0])

    def seen(part):
        query, index = part
        response, mask, logp, ref_logp = sample_with_logprobs(
            policy,
            reference,
            query,
            key,
            model=model,
            response_tokens=setting.response_tokens,
            eos_ids=eos_ids,
            pad_id=pad_id,
            temperature=options.temperature,
            part=(index, parts),
        )
        with jax.named_scope("score"):
            values = heads.scalars(value, model, query, response, pad_id)[:, :-1]
            score = None if reward is None else heads.score(reward, model, query, response, pad_id)
        return response, mask, logp, ref_logp, values, score

    if parts == 1:
        views = seen((query, 0))
    else:
        views = merge_rows(jax.lax.map(seen, (split_rows(query, parts), jnp.arange(parts))))
    return Sampled(query, *views)


def credited(
    sampled: Sampled, score: Float[Array, "B"], kl_coef: Float[Array, ""], setting: Setting
) -> Rollout:
    """The episodes of `sampled` responses whose score is `score`: rewards token by token, and advantages."""
    options, response, mask = setting.options, sampled.response, sampled.mask
    logp, ref_logp, values = sampled.logp, sampled.ref_logp, sampled.values
    value_mask = rewards.value_mask(mask, options.score_at)
    score = rewards.score_missing_eos(
        score, rewards.has_eos(response, setting.eos_ids), options.no_eos, options.no_eos_score
    )

    token_rewards = rewards.kl_penalty(logp, ref_logp, mask, kl_coef)
    token_rewards = token_rewards + rewards.place_score(score, mask, options.score_at)
    scaled = token_rewards
    if options.whiten_rewards:
        scaled = advantages.whiten(token_rewards, value_mask, shift_mean=False)
    raw, returns = advantages.gae(scaled, values, value_mask, options.gamma, options.lam)
    return Rollout(
        query=sampled.query,
        response=response,
        mask=mask,
        value_mask=value_mask,
        logp=logp,
        ref_logp=ref_logp,
        values=values,
        score=score,
        rewards=token_rewards,
        advantages=advantages.whiten(raw, mask),
        returns=returns,
    )


def parts_of(options: PpoConfig, rows: int) -> int:
    """Into how many parts the rows of a rollout are split: the fewest with AT_ONCE rows on a device.

    Where their number has no such divisor they stay together; `options.rollout_rows` says it instead.
    """
    mesh = jax.sharding.get_abstract_mesh()
    shards = 1 if mesh.empty else row_shards(mesh)
    each = rows // shards
    if not options.rollout_rows:
        return next((n for n in range(1, each + 1) if each % n == 0 and each // n in AT_ONCE), 1)
    if options.rollout_rows % shards:
        raise ConfigError(f"ppo.rollout_rows: {options.rollout_rows} do not divide over {shards} row shards")
    return rows // options.rollout_rows

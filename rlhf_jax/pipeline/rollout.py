"""What PPO learns from: responses, what every network says of them, and rewards token by token."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.config import ConfigError, ModelConfig, PpoConfig
from rlhf_jax.functional import advantages, losses, rewards
from rlhf_jax.mesh import ROWS, in_rows_of, layout, merge_rows, row_shards, split_rows
from rlhf_jax.model import heads
from rlhf_jax.model.generate import generate
from rlhf_jax.model.likelihood import response_logprobs
from rlhf_jax.model.response_widths import to_longest

# Rows on one device that are sampled together. With more, reading their keys and values for every token
# outweighs reading the weights, and a row takes as long; with fewer, the weights do.
AT_ONCE = range(16, 64 + 1)


class Sampled(struct.PyTreeNode):
    """Responses and what the networks say of them. Slot t of an [B, R] array is of response token t.

    Those to one of the P queries stand together.
    """

    query: Int[Array, "P Q"]  # left-padded
    response: Int[Array, "B R"]  # through EOS, then padding
    mask: Bool[Array, "B R"]  # tokens of the response, EOS included
    logp: Float[Array, "B R"]  # log-probability under the policy that wrote it, nats
    ref_logp: Float[Array, "B R"]  # under the reference
    values: Float[Array, "B R"] | None  # before token t; None without a value network
    score: Float[Array, "B"] | None  # of the reward model; None where there is none
    disagreement: Float[Array, "B"] | None = None  # of several reward models: their standard deviation


class Rollout(struct.PyTreeNode):
    """A batch of episodes, of which the policy learns; those with one of the P queries stand together."""

    query: Int[Array, "P Q"]  # left-padded
    response: Int[Array, "B R"]  # through EOS, then padding
    mask: Bool[Array, "B R"]  # tokens of the response, EOS included
    value_mask: Bool[Array, "B R"]  # slots that have a reward, and a value where there is a value network
    logp: Float[Array, "B R"]  # log-probability under the policy that wrote it, nats
    ref_logp: Float[Array, "B R"]  # under the reference
    values: Float[Array, "B R"] | None  # before token t; None without a value network
    score: Float[Array, "B"]  # of a response, missing EOS already accounted for
    rewards: Float[Array, "B R"]  # KL penalty, and the score at its place, before any whitening
    advantages: Float[Array, "B #R"]  # of tokens, whitened over the whole batch; or one of a response
    returns: Float[Array, "B R"] | None  # advantages before whitening + values

    def narrowed(self, width: int) -> "Rollout":
        """Without the slots from `width` on, where there are none of any response."""
        of_slots = self.replace(query=None, score=None)
        narrow = jax.tree.map(lambda x: in_rows_of(x, x[:, :width]), of_slots)
        return narrow.replace(query=self.query, score=self.score)


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
    query: Int[Array, "P Q"],
    key: jax.Array,
    kl_coef: Float[Array, ""],
    setting: Setting,
) -> Rollout:
    """Samples responses with `policy` and turns the networks' views into advantages.

    `policy` and `reference` are parameters of transformers, `value` and `reward` have scalar heads: four
    trees of one architecture, or three without `value`. Everything is float32 from the logits on.
    """
    sampled = sample(policy, reference, value, reward, query, key, setting)
    assert sampled.score is not None, "`reward` scores every response"
    return credited(sampled, sampled.score, kl_coef, setting)


def sample(
    policy, reference, value, reward, query: Int[Array, "P Q"], key: jax.Array, setting: Setting
) -> Sampled:
    """Responses of `policy`, and the networks' views of them: those to one query together, on one device.

    `value` is None where there is no value network, `reward` where no model scores responses; it is a tuple
    where several do (`options.ensemble`). So many rows as `options.rollout_rows` are sampled and read at
    once, which bounds memory and changes no number.
    """
    model, options, eos_ids, pad_id = setting.model, setting.options, setting.eos_ids, setting.pad_id
    samples = options.samples
    parts = parts_of(options, samples * query.shape[0])

    def seen(part):
        query, index = part
        with jax.named_scope("sample"):
            response = generate(
                policy,
                model,
                query,
                key,
                response_tokens=setting.response_tokens,
                eos_ids=eos_ids,
                pad_id=pad_id,
                temperature=options.temperature,
                samples=samples,
                part=(index, parts),
            )
        mask = rewards.response_mask(response, eos_ids, pad_id)
        slots = rewards.value_mask(mask, options.score_at)

        def read(width):
            rows = model, query, in_rows_of(response, response[:, :width]), pad_id
            logp, _ = response_logprobs(policy, *rows, options.temperature)
            ref_logp, _ = response_logprobs(reference, *rows, options.temperature)
            values = None if value is None else heads.values(value, *rows)
            return *(widened(x, slots) for x in (logp, ref_logp, values)), *scored(reward, *rows, options)

        with jax.named_scope("score"):
            return response, mask, *to_longest(read, query, slots)

    if parts == 1:
        views = seen((query, 0))
    else:
        views = merge_rows(jax.lax.map(seen, (split_rows(query, parts), jnp.arange(parts))), samples)
    return Sampled(query, *views)


def widened(x: Float[Array, "B W"] | None, slots: Bool[Array, "B R"]) -> Float[Array, "B R"] | None:
    """What was computed for the first W slots; 0 behind them, and wherever there is no slot."""
    if x is None:
        return None
    return jnp.where(slots, jnp.pad(x, ((0, 0), (0, slots.shape[1] - x.shape[1]))), 0.0)


def scored(
    reward,
    model: ModelConfig,
    query: Int[Array, "P Q"],
    response: Int[Array, "B R"],
    pad_id: int,
    options: PpoConfig,
):
    """Score and disagreement [B] of one reward model, of several in a tuple, or of none."""
    if reward is None:
        return None, None
    rows = model, query, response, pad_id
    if not isinstance(reward, tuple):
        return heads.score(reward, *rows), None
    return rewards.of_ensemble(jnp.stack([heads.score(one, *rows) for one in reward]), options.ensemble)


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

    token_rewards = rewards.place_score(score, mask, options.score_at)
    if options.kl_in == "reward" and options.algorithm != "online_dpo":  # whose loss is the penalty
        penalty = rewards.kl_penalty(logp, ref_logp, mask, kl_coef, options.kl_estimator)
        token_rewards = penalty + token_rewards
    if values is None:
        found, returns = of_responses(token_rewards.sum(axis=1), options), None
    else:
        found, returns = of_tokens(token_rewards, values, mask, value_mask, options)
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
        advantages=found,
        returns=returns,
    )


def of_tokens(
    token_rewards: Float[Array, "B R"],
    values: Float[Array, "B R"],
    mask: Bool[Array, "B R"],
    value_mask: Bool[Array, "B R"],
    options: PpoConfig,
) -> tuple[Float[Array, "B R"], Float[Array, "B R"]]:
    """PPO's advantages, one of each token, and the returns that the value network learns."""
    if options.whiten_rewards:
        token_rewards = advantages.whiten(token_rewards, value_mask, shift_mean=False)
    raw, returns = advantages.gae(token_rewards, values, value_mask, options.gamma, options.lam)
    return advantages.whiten(raw, mask), returns


def of_responses(returns: Float[Array, "B"], options: PpoConfig) -> Float[Array, "B 1"]:
    """The advantage of each whole response, which all of its tokens share."""
    estimators: dict[str, Callable[[Array], Array]] = {
        "reinforce": advantages.reinforce,
        "rloo": advantages.rloo,
        "online_dpo": advantages.best_and_worst,
        "grpo": functools.partial(advantages.grpo, divide_by_std=options.divide_by_std),
    }
    by_prompt = returns.reshape(-1, options.samples, out_sharding=layout(ROWS))
    return estimators[options.algorithm](by_prompt).reshape(-1, 1, out_sharding=layout(ROWS))


def objective(episodes: Rollout, setting: Setting) -> losses.Metrics:
    """Means over the responses of a rollout; KL and entropy in nats a response, through EOS."""
    mask = episodes.mask
    kl = jnp.sum(jnp.where(mask, episodes.logp - episodes.ref_logp, 0.0), axis=1)
    reward = jnp.sum(episodes.rewards, axis=1)
    told = {
        "objective/kl": kl.mean(),
        "objective/kl_stderr": kl.std() * kl.shape[0] ** -0.5,
        "objective/entropy": -jnp.sum(jnp.where(mask, episodes.logp, 0.0), axis=1).mean(),
        "objective/score": episodes.score.mean(),
        "objective/non_score_reward": (reward - episodes.score).mean(),
        "objective/rlhf_reward": reward.mean(),
        "objective/eos_rate": rewards.has_eos(episodes.response, setting.eos_ids).mean(),
        "objective/length": rewards.lengths(mask).mean(),
    }
    if episodes.values is not None and episodes.returns is not None:
        told["value/explained_variance"] = losses.explained_variance(
            episodes.values, episodes.returns, episodes.value_mask
        )
    return told


def parts_of(options: PpoConfig, rows: int) -> int:
    """Into how many parts the rows of a rollout are split: the fewest with AT_ONCE rows on a device.

    Those to one prompt stay together. Where there is no such number, all do; `options.rollout_rows` says it
    instead.
    """
    mesh, samples = jax.sharding.get_abstract_mesh(), options.samples
    shards = 1 if mesh.empty else row_shards(mesh)
    prompts = rows // shards // samples
    if not options.rollout_rows:
        divisors = (n for n in range(1, prompts + 1) if prompts % n == 0)
        return next((n for n in divisors if samples * prompts // n in AT_ONCE), 1)
    if options.rollout_rows % (shards * samples):
        of_samples = f" of {samples} responses a prompt" if samples > 1 else ""
        raise ConfigError(
            f"ppo.rollout_rows: {options.rollout_rows} do not divide over {shards} row shards{of_samples}"
        )
    return rows // options.rollout_rows

"""How networks learn from a rollout: their losses, and epochs of optimizer steps on minibatches."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from rlhf_jax.functional import losses, rewards
from rlhf_jax.functional.advantages import masked_mean
from rlhf_jax.mesh import group_rows, shuffle_rows, sort_rows, split_rows, ungroup_rows
from rlhf_jax.model import heads, lora
from rlhf_jax.model.likelihood import response_logprobs
from rlhf_jax.model.response_widths import to_longest
from rlhf_jax.pipeline.rollout import Rollout, Setting
from rlhf_jax.training.state import TrainState, in_parts


def loss(
    networks, episodes: Rollout, tokens: losses.Denominator, slots: losses.Denominator, setting: Setting
) -> tuple[Float[Array, ""], losses.Metrics]:
    """Clipped policy loss + c · clipped value loss where there is a value network, with their metrics.

    `networks` holds the parameters of `policy` and `value`; `tokens` and `slots` divide sums over response
    tokens and value slots, so that what parts of a minibatch give adds up to its means.
    """
    total, metrics = policy_loss(networks["policy"], episodes, tokens, setting)
    if "value" in networks:
        of_values, more = value_loss(networks["value"], episodes, slots, setting)
        total, metrics = total + setting.options.value_coef * of_values, metrics | more
    return total, metrics


def policy_loss(
    policy, episodes: Rollout, tokens: losses.Denominator, setting: Setting
) -> tuple[Float[Array, ""], losses.Metrics]:
    """What every algorithm minimizes: the clipped objective, and the KL penalty if it is in the loss.

    Online DPO has a loss of its own, `pair_loss`.
    """
    if setting.options.algorithm == "online_dpo":
        return pair_loss(policy, episodes, tokens, setting)
    model, options, pad_id, mask = setting.model, setting.options, setting.pad_id, episodes.mask
    logp, entropy = response_logprobs(
        policy, model, episodes.query, episodes.response, pad_id, options.temperature
    )
    new, old = (losses.of_actions(x, mask, options.ratio) for x in (logp, episodes.logp))
    total, told = losses.policy_loss(new, old, episodes.advantages, mask, options.clip_policy, tokens)
    if options.kl_in == "loss":
        kl = rewards.kl_estimate(logp, episodes.ref_logp, mask, options.kl_estimator)
        told["kl"] = masked_mean(losses.of_actions(kl, mask, options.ratio), mask, tokens)
        total += options.kl_coef * told["kl"]
    told |= {"loss": total, "entropy": masked_mean(entropy, mask, tokens)}
    return total, {f"policy/{name}": x for name, x in told.items()}


def pair_loss(
    policy, episodes: Rollout, tokens: losses.Denominator, setting: Setting
) -> tuple[Float[Array, ""], losses.Metrics]:
    """DPO's loss of the best response to each prompt against the worst, with β = `ppo.kl_coef`.

    Summed, and divided by the prompts of a minibatch. A prompt whose responses tie counts log 2 and teaches
    nothing.
    """
    model, options, pad_id, mask = setting.model, setting.options, setting.pad_id, episodes.mask
    logp, entropy = response_logprobs(
        policy, model, episodes.query, episodes.response, pad_id, options.temperature
    )
    new, old = (jnp.sum(jnp.where(mask, x, 0.0), axis=1, keepdims=True) for x in (logp, episodes.ref_logp))
    implicit = losses.implicit_rewards(new, old, options.kl_coef)
    each = group_rows((implicit, episodes.advantages), episodes.query.shape[0])
    chosen, rejected = (
        jnp.sum(jnp.where(sign * each[1] > 0, each[0], 0.0), axis=(1, 2)) for sign in (1.0, -1.0)
    )
    told = {
        "loss": losses.dpo(chosen, rejected),
        "accuracy": losses.accuracy(chosen - rejected),
        "margin": jnp.mean(chosen - rejected),
    }
    share = chosen.shape[0] * options.minibatches / options.prompts
    told = {name: x * share for name, x in told.items()} | {"entropy": masked_mean(entropy, mask, tokens)}
    return told["loss"], {f"policy/{name}": x for name, x in told.items()}


def value_loss(
    value, episodes: Rollout, slots: losses.Denominator, setting: Setting
) -> tuple[Float[Array, ""], losses.Metrics]:
    """The clipped error of the values, of which PPO makes its advantages."""
    assert episodes.values is not None and episodes.returns is not None, "the rollout read values"
    model, options, pad_id = setting.model, setting.options, setting.pad_id
    values = heads.values(value, model, episodes.query, episodes.response, pad_id)
    total, told = losses.value_loss(
        values, episodes.values, episodes.returns, episodes.value_mask, options.clip_value, slots
    )
    return total, {f"value/{name}": x for name, x in (told | {"loss": total}).items()}


def update_on(networks: dict[str, TrainState], minibatch: Rollout, setting: Setting, base: Mapping = {}):
    """One optimizer step of every network on one minibatch, or of none; its rows are grouped by prompt.

    A minibatch that would harm one is skipped by all: what is wrong with it (a score, an advantage) mostly
    reaches all, and their learning-rate schedules stay in step.
    """
    options, rows = setting.options, minibatch.score.size
    whole = minibatch.mask.sum(), minibatch.value_mask.sum()

    def part_loss(trained, part: Rollout):
        tokens, slots = whole
        if options.loss_mean == "rows":
            own = [mask.sum(axis=1, keepdims=True) for mask in (part.mask, part.value_mask)]
            tokens, slots = (rows * jnp.maximum(count, 1) for count in own)
        each = {name: lora.attach(base, params) for name, params in trained.items()}
        total, metrics = loss(each, part, tokens, slots, setting)
        if options.loss_mean == "constant":  # the metrics stay means over tokens
            total *= minibatch.mask.mean()
        return total, metrics

    def part_gradients(trained, part: Rollout):
        part, gradients = ungroup_rows(part), jax.value_and_grad(part_loss, has_aux=True)
        return to_longest(lambda width: gradients(trained, part.narrowed(width)), part.query, part.value_mask)

    params = {name: network.params for name, network in networks.items()}
    if options.microbatches > 1:  # short responses have parts of their own, which are computed so far alone
        longest = minibatch.value_mask.sum(axis=2).max(axis=1)
        minibatch = sort_rows(minibatch, longest, options.microbatches)
    (_, metrics), gradients = in_parts(part_gradients, params, minibatch, options.microbatches)
    seen = {name: (metrics[f"{name}/loss"], optax.tree.norm(gradients[name])) for name in networks}
    healthy = jnp.stack([network.is_healthy(*seen[name]) for name, network in networks.items()]).all()
    networks = {
        name: network.apply_gradients(gradients[name], *seen[name], healthy)
        for name, network in networks.items()
    }
    metrics |= {f"{name}/grad_norm": norm for name, (_, norm) in seen.items()} | {"skipped": ~healthy}
    return networks, metrics


def update(
    networks: dict[str, TrainState],
    episodes: Rollout,
    key: jax.Array,
    setting: Setting,
    base: Mapping = {},
):
    """Epochs of minibatches over one rollout, each epoch in a new order; `base` is frozen beside `networks`.

    The responses to one prompt stay together, so that it is read once for all of them.
    """
    parts, prompts = setting.options.minibatches, group_rows(episodes, episodes.query.shape[0])

    def epoch(networks, key):
        shuffled = shuffle_rows(prompts, key) if parts > 1 else prompts
        return jax.lax.scan(
            lambda n, m: update_on(n, m, setting, base), networks, split_rows(shuffled, parts)
        )

    networks, metrics = jax.lax.scan(epoch, networks, jax.random.split(key, setting.options.epochs))
    skipped = {"skipped": metrics["skipped"].sum(), "skipped_in_a_row": networks["policy"].skipped}
    return networks, jax.tree.map(jnp.mean, metrics) | skipped

"""4. PPO against a reward model, with a KL penalty to the SFT policy (Stiennon et al. 2020, §3.4).

The whole iteration is one compiled function with donated state: sample responses, score them,
penalize KL, estimate advantages, update policy and value network. Four networks of one
architecture: the policy starts as the SFT model, the reference stays it, the value network starts
as the reward model, which stays frozen beside it.

Rewards of one's own (`ppo.reward`) are asked on the host, between the two compiled halves of the
iteration. Where the reward model is none of them, it need not exist: the value network starts as
the SFT model with a new head.

Departures from the paper: sampling at temperature 0.7, at which log-probabilities are taken too
(lm-human-preferences); a response without EOS scores `no_eos_score` (N+); positions count real
tokens only.
"""

import functools
import math
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Float, Int

from rlhf_jax import inference
from rlhf_jax.config import MODEL, Config, ModelConfig, PpoConfig
from rlhf_jax.data.batches import QueryPlan
from rlhf_jax.functional import losses, rewards
from rlhf_jax.functional.advantages import masked_mean
from rlhf_jax.mesh import (
    ROWS,
    abstract_batch,
    abstract_rows,
    check_rows,
    layout,
    make_mesh,
    split_rows,
    to_devices,
)
from rlhf_jax.model import heads, lora, transformer
from rlhf_jax.model.likelihood import response_logprobs
from rlhf_jax.pipeline import own_reward, rollout
from rlhf_jax.pipeline.own_reward import OwnReward, RewardError
from rlhf_jax.pipeline.rollout import Rollout, Sampled, Setting
from rlhf_jax.run import checkpoint
from rlhf_jax.training import adapters, health, inputs
from rlhf_jax.training.loop import Training
from rlhf_jax.training.state import (
    TrainState,
    make_optimizer,
    make_schedule,
    stage_key,
    value_and_grad_in_parts,
)

SHOWN = ("objective/score", "objective/kl")  # beside the progress bar


class PpoState(struct.PyTreeNode):
    """What an iteration changes; `kl_coef` is β, the weight of the KL penalty."""

    policy: TrainState
    value: TrainState
    kl_coef: Float[Array, ""]
    key: jax.Array

    def parts(self) -> tuple[dict, "PpoState"]:
        """(the policy's parameters, all else), as checkpoints hold them apart."""
        policy, rest = self.policy.parts()
        return policy, self.replace(policy=rest)

    def with_params(self, params) -> "PpoState":
        return self.replace(policy=self.policy.with_params(params))


def loss(
    networks, episodes: Rollout, tokens: losses.Denominator, slots: losses.Denominator, setting: Setting
) -> tuple[Float[Array, ""], losses.Metrics]:
    """Clipped policy loss + c · clipped value loss, with their metrics.

    `networks` holds the parameters of `policy` and `value`; `tokens` and `slots` divide sums over response
    tokens and value slots, so that what parts of a minibatch give adds up to its means.
    """
    model, options, pad_id = setting.model, setting.options, setting.pad_id
    logp, entropy = response_logprobs(
        networks["policy"], model, episodes.query, episodes.response, pad_id, options.temperature
    )
    policy_loss, policy = losses.policy_loss(
        logp, episodes.logp, episodes.advantages, episodes.mask, options.clip_policy, tokens
    )
    values = heads.scalars(networks["value"], model, episodes.query, episodes.response, pad_id)[:, :-1]
    value_loss, value = losses.value_loss(
        values, episodes.values, episodes.returns, episodes.value_mask, options.clip_value, slots
    )
    policy |= {"loss": policy_loss, "entropy": masked_mean(entropy, episodes.mask, tokens)}
    value |= {"loss": value_loss}
    metrics = {f"policy/{k}": v for k, v in policy.items()} | {f"value/{k}": v for k, v in value.items()}
    return policy_loss + options.value_coef * value_loss, metrics


def update_on(
    states: tuple[TrainState, TrainState], minibatch: Rollout, setting: Setting, base: Mapping = {}
):
    """One optimizer step of policy and value network on one minibatch, or of neither.

    A minibatch that would harm one is skipped by both: what is wrong with it (a score, an advantage) mostly
    reaches both, and their learning-rate schedules stay in step.
    """
    policy, value = states
    whole, rows = (minibatch.mask.sum(), minibatch.value_mask.sum()), minibatch.query.shape[0]

    def part_loss(trained, part: Rollout):
        tokens, slots = whole
        if setting.options.loss_mean == "rows":
            own = [mask.sum(axis=1, keepdims=True) for mask in (part.mask, part.value_mask)]
            tokens, slots = (rows * jnp.maximum(count, 1) for count in own)
        networks = {name: lora.attach(base, own) for name, own in trained.items()}
        return loss(networks, part, tokens, slots, setting)

    (_, metrics), gradients = value_and_grad_in_parts(
        part_loss,
        {"policy": policy.params, "value": value.params},
        minibatch,
        setting.options.microbatches,
    )
    seen = {name: (metrics[f"{name}/loss"], optax.tree.norm(gradients[name])) for name in gradients}
    healthy = policy.is_healthy(*seen["policy"]) & value.is_healthy(*seen["value"])
    policy = policy.apply_gradients(gradients["policy"], *seen["policy"], healthy)
    value = value.apply_gradients(gradients["value"], *seen["value"], healthy)
    metrics |= {f"{name}/grad_norm": norm for name, (_, norm) in seen.items()} | {"skipped": ~healthy}
    return (policy, value), metrics


def update(
    states: tuple[TrainState, TrainState],
    episodes: Rollout,
    key: jax.Array,
    setting: Setting,
    base: Mapping = {},
):
    """Epochs of minibatches over one rollout, each epoch in a new order."""
    parts = setting.options.minibatches

    def epoch(states, key):
        shuffled = shuffle_rows(episodes, key) if parts > 1 else episodes
        return jax.lax.scan(lambda s, m: update_on(s, m, setting, base), states, split_rows(shuffled, parts))

    states, metrics = jax.lax.scan(epoch, states, jax.random.split(key, setting.options.epochs))
    skipped = {"skipped": metrics["skipped"].sum(), "skipped_in_a_row": states[0].skipped}
    return states, jax.tree.map(jnp.mean, metrics) | skipped


def shuffle_rows(episodes: Rollout, key: jax.Array) -> Rollout:
    """The same episodes in a random order, spread over the devices as before."""
    order = jax.random.permutation(key, episodes.query.shape[0])
    return jax.tree.map(lambda x: x.at[order].get(out_sharding=layout(ROWS)), episodes)


def iteration(
    state: PpoState, reference, reward, query: Int[Array, "B Q"], setting: Setting, base: Mapping = {}
) -> tuple[PpoState, losses.Metrics]:
    """One PPO iteration on B queries: rollout, KL penalty, advantages, epochs of updates.

    `reference` and `reward` are the frozen parameters of the SFT policy and the reward model; with a `base`
    they, policy and value network are adapters of it.
    """
    sampled = sample(state, reference, reward, query, setting, base)
    assert sampled.score is not None, "`reward` scores every response"
    return learn(state, sampled, sampled.score, setting, base)


def sample(
    state: PpoState, reference, reward, query: Int[Array, "B Q"], setting: Setting, base: Mapping = {}
) -> Sampled:
    """The first half of an iteration: responses, and what the networks say of them."""
    _, key, _ = jax.random.split(state.key, 3)
    policy, value, reference, reward = (
        lora.attach(base, params) for params in (state.policy.params, state.value.params, reference, reward)
    )
    return rollout.sample(policy, reference, value, reward, query, key, setting)


def learn(
    state: PpoState, sampled: Sampled, score: Float[Array, "B"], setting: Setting, base: Mapping = {}
) -> tuple[PpoState, losses.Metrics]:
    """The second half: KL penalty, advantages, and epochs of updates on responses with these scores."""
    options = setting.options
    key, _, update_key = jax.random.split(state.key, 3)
    episodes = rollout.credited(sampled, score, state.kl_coef, setting)
    with jax.named_scope("update"):
        (policy, value), metrics = update((state.policy, state.value), episodes, update_key, setting, base)
    metrics |= objective(episodes, setting) | {"kl_coef": state.kl_coef}
    kl_coef = state.kl_coef
    if options.kl_controller == "adaptive":
        adapted = rewards.adapt_kl_coef(
            kl_coef, metrics["objective/kl"], options.kl_target, options.kl_horizon, score.shape[0]
        )
        kl_coef = jnp.where(jnp.isfinite(adapted), adapted, kl_coef)  # where a NaN would stay for ever
    return PpoState(policy, value, kl_coef, key), metrics


def objective(episodes: Rollout, setting: Setting) -> losses.Metrics:
    """Means over the responses of a rollout; KL and entropy in nats a response, through EOS."""
    mask = episodes.mask
    kl = jnp.sum(jnp.where(mask, episodes.logp - episodes.ref_logp, 0.0), axis=1)
    reward = jnp.sum(episodes.rewards, axis=1)
    return {
        "objective/kl": kl.mean(),
        "objective/kl_stderr": kl.std() * kl.shape[0] ** -0.5,
        "objective/entropy": -jnp.sum(jnp.where(mask, episodes.logp, 0.0), axis=1).mean(),
        "objective/score": episodes.score.mean(),
        "objective/non_score_reward": (reward - episodes.score).mean(),
        "objective/rlhf_reward": reward.mean(),
        "objective/eos_rate": rewards.has_eos(episodes.response, setting.eos_ids).mean(),
        "objective/length": rewards.lengths(mask).mean(),
        "value/explained_variance": losses.explained_variance(
            episodes.values, episodes.returns, episodes.value_mask
        ),
    }


def jitted_iteration(setting: Setting):
    """`iteration` as `train` compiles it: the state is updated in place."""
    return jax.jit(functools.partial(iteration, setting=setting), donate_argnums=0)


def jitted_halves(setting: Setting):
    """`sample` and `learn` as `train` compiles them where the host scores the responses in between."""
    first = jax.jit(functools.partial(sample, setting=setting))
    return first, jax.jit(functools.partial(learn, setting=setting), donate_argnums=0)


def traced(config: Config, model: ModelConfig, vocabulary: int) -> jax.stages.Traced:
    """The iteration of `train` in its longest bucket, for arguments without values. Needs a mesh set.

    Where the host scores in between, its two halves are one program here, whose score is an argument.
    """
    options, data, mesh = config.ppo, config.data, jax.sharding.get_mesh()
    check_rows("ppo.batch_size", options.batch_size, options.minibatches * options.microbatches, mesh)
    setting = Setting(model, options, data.response_tokens, eos_ids=(0,), pad_id=vocabulary)
    reference = adapters.abstract_trained(transformer.specs(model, vocabulary), model, mesh)
    value = adapters.abstract_trained(heads.specs(model, vocabulary), model, mesh)
    base = adapters.abstract_base(model, vocabulary, mesh)
    optimizer, sigma = make_optimizer(options.optimizer, 1), config.health.spike_sigma
    start = functools.partial(
        initial_state, optimizer=optimizer, options=options, seed=config.seed, spike_sigma=sigma
    )
    state = jax.eval_shape(start, reference, value)
    query = abstract_batch(mesh, QueryPlan.widest(data, options.batch_size))["query"]
    reward = value if MODEL in options.rewards else None
    fixed = jax.eval_shape(functools.partial(frozen, model=model), reference, reward)
    if options.is_by_model_alone:
        return jitted_iteration(setting).trace(state, *fixed, query, base=base)
    score = abstract_rows(mesh, (options.batch_size,), jnp.float32)

    def halves(state, reference, reward, query, score, base):
        return learn(state, sample(state, reference, reward, query, setting, base), score, setting, base)

    return jax.jit(halves, donate_argnums=0).trace(state, *fixed, query, score, base)


def train(config: Config, workdir: Path) -> None:
    """Trains the policy of stage sft into `checkpoints/ppo`, by the rewards of `ppo.reward`."""
    options, mesh = config.ppo, make_mesh(config.mesh)
    check_rows("ppo.batch_size", options.batch_size, options.minibatches * options.microbatches, mesh)
    with jax.set_mesh(mesh):
        reference = inference.load(workdir, "sft", config=config)
        frozen_networks = ["sft", *(["reward"] if MODEL in options.rewards else [])]
        reward = inference.load(workdir, "reward", config=config) if "reward" in frozen_networks else None
        model, task, tokenizer = reference.model, reference.task, reference.tokenizer
        setting = Setting(model, options, config.data.response_tokens, tokenizer.eos_ids, tokenizer.pad_id)
        records = task.queries()
        inputs.hold(workdir, "ppo", tokenizer, frozen_networks, queries=records)
        records = task.filtered(records, tokenizer, references=False)
        plan = QueryPlan(records, tokenizer, task, options.batch_size, config.seed)
        plan.tell("ppo")
        iterations, left = divmod(options.episodes, options.batch_size)
        if left:
            print(f"ppo: {left:,} of {options.episodes:,} episodes do not fill a batch and are left out")
        updates = iterations * options.epochs * options.minibatches
        schedule = make_schedule(options.optimizer, updates)
        usual_scores = -math.inf, math.inf
        if options.is_by_model_alone:
            usual_scores = checkpoint.read_meta(*checkpoint.require(workdir, "reward"))["usual_scores"]
        training = Training(
            config,
            workdir,
            "ppo",
            options,
            iterations,
            SHOWN,
            inference.describe(model),
            updates=options.epochs * options.minibatches,
            signs=functools.partial(health.ppo_signs, options=options, usual_scores=usual_scores),
        )
        optimizer, sigma = make_optimizer(options.optimizer, updates), config.health.spike_sigma
        scoring, base = reward.trained if reward else None, reference.base
        key = stage_key(config.seed, "ppo_value")
        value = scoring or heads.on_top(reference.trained, model, tokenizer.vocab_size, key)
        state = initial_state(reference.trained, value, optimizer, options, config.seed, sigma)
        state = training.resume(state)
        fixed = jax.jit(frozen, static_argnames="model")(reference.trained, scoring, model=model)
        del reference, reward, scoring, value  # in float32
        step, (first, second) = jitted_iteration(setting), jitted_halves(setting)
        with training, OwnReward(options, task) as own:
            for i in training.steps(state):
                batch = plan.batch(i)
                query = batch["query"]
                if options.is_by_model_alone:
                    state, metrics = step(state, *fixed, to_devices(query, mesh), base=base)
                else:
                    sampled = first(state, *fixed, to_devices(query, mesh), base=base)
                    asked = [records[k] for k in batch["index"]]
                    with training.rescued(RewardError):
                        found = own_reward.on_host(sampled, task, tokenizer)
                        each = own.of(asked, *found, seed=f"{config.seed}/{i}")
                    state, metrics = second(state, sampled, to_devices(own.total(each), mesh), base=base)
                    metrics |= own_reward.metrics(each)
                responses = options.batch_size * metrics["objective/length"]
                tokens = np.count_nonzero(query != tokenizer.pad_id) + responses
                metrics |= {"lr": schedule(state.policy.step - 1), "episodes": (i + 1) * options.batch_size}
                training.after(state, metrics, episodes=options.batch_size, tokens=tokens)


def frozen(reference, reward, model: ModelConfig):
    """Reference and reward model as every iteration reads them: a cast in each would take memory for both."""
    reference = transformer.cast(reference, model)
    if reward is None:
        return reference, None
    return reference, {"transformer": transformer.cast(reward["transformer"], model), "head": reward["head"]}


def initial_state(
    reference, reward, optimizer, options: PpoConfig, seed: int, spike_sigma: float = 0.0
) -> PpoState:
    """Policy from the SFT model, value network from `reward`, a tree with a scalar head; both as copies."""

    @jax.jit
    def create(policy, value):
        return PpoState(
            TrainState.create(policy, optimizer, spike_sigma),
            TrainState.create(value, optimizer, spike_sigma),
            jnp.float32(options.kl_coef),
            stage_key(seed, "ppo"),
        )

    return create(reference, reward)

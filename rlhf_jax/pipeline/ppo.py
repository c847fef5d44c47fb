"""4. PPO against a reward model, with a KL penalty to the SFT policy (Stiennon et al. 2020, §3.4).

The whole iteration is one compiled function with donated state: sample responses, score them,
penalize KL, estimate advantages, update policy and value network. Four networks of one
architecture: the policy starts as the SFT model, the reference stays it, the value network starts
as the reward model, which stays frozen beside it.

With `ppo.algorithm` RLOO, GRPO or REINFORCE there is no value network: advantages come from comparing
responses (`rollout.credited`), and all else is the same. Online DPO makes a pair of the best and the worst
response to a prompt, and has the loss of stage dpo (`update.pair_loss`).

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
from flax import struct
from jaxtyping import Array, Float, Int

from rlhf_jax import inference
from rlhf_jax.config import Config, ModelConfig, PpoConfig
from rlhf_jax.data.batches import QueryPlan
from rlhf_jax.functional import losses, rewards
from rlhf_jax.mesh import abstract_batch, abstract_rows, check_rows, in_memory, make_mesh, to_devices
from rlhf_jax.model import heads, lora, transformer
from rlhf_jax.pipeline import ensemble, own_reward, rollout
from rlhf_jax.pipeline.own_reward import OwnReward, RewardError
from rlhf_jax.pipeline.rollout import Sampled, Setting, objective
from rlhf_jax.pipeline.update import update
from rlhf_jax.run import checkpoint
from rlhf_jax.training import adapters, health, inputs
from rlhf_jax.training.loop import Training
from rlhf_jax.training.state import TrainState, make_optimizer, make_schedule, stage_key, without_values

SHOWN = ("objective/score", "objective/kl")  # beside the progress bar


class PpoState(struct.PyTreeNode):
    """What an iteration changes; `kl_coef` is β, the weight of the KL penalty."""

    policy: TrainState
    value: TrainState | None  # where `ppo.algorithm` has a value network
    kl_coef: Float[Array, ""]
    key: jax.Array

    @property
    def networks(self) -> dict[str, TrainState]:
        """Those that learn, by name."""
        return {"policy": self.policy} | ({"value": self.value} if self.value else {})

    def parts(self) -> tuple[dict, "PpoState"]:
        """(the policy's parameters, all else), as checkpoints hold them apart."""
        policy, rest = self.policy.parts()
        return policy, self.replace(policy=rest)

    def with_params(self, params) -> "PpoState":
        return self.replace(policy=self.policy.with_params(params))


def iteration(
    state: PpoState, reference, reward, query: Int[Array, "P Q"], setting: Setting, base: Mapping = {}
) -> tuple[PpoState, losses.Metrics]:
    """One iteration on P queries: rollout, KL penalty, advantages, epochs of updates.

    `reference` and `reward` are the frozen parameters of the SFT policy and the reward model (of several, a
    tuple); with a `base` they, policy and value network are adapters of it.
    """
    sampled = sample(state, reference, reward, query, setting, base)
    assert sampled.score is not None, "`reward` scores every response"
    return learn(state, sampled, sampled.score, setting, base)


def sample(
    state: PpoState, reference, reward, query: Int[Array, "P Q"], setting: Setting, base: Mapping = {}
) -> Sampled:
    """The first half of an iteration: responses, and what the networks say of them."""
    _, key, _ = jax.random.split(state.key, 3)
    if setting.options.frozen_on_host:
        reference, reward = in_memory((reference, reward), jax.memory.Space.Device)
    value = state.value and state.value.params
    policy, value, reference, reward = (
        lora.attach(base, params) for params in (state.policy.params, value, reference, reward)
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
        networks, metrics = update(state.networks, episodes, update_key, setting, base)
    metrics |= objective(episodes, setting) | {"kl_coef": state.kl_coef}
    if sampled.disagreement is not None:
        metrics["objective/disagreement"] = sampled.disagreement.mean()
    kl_coef = state.kl_coef
    if options.kl_controller == "adaptive":
        adapted = rewards.adapt_kl_coef(
            kl_coef, metrics["objective/kl"], options.kl_target, options.kl_horizon, score.shape[0]
        )
        kl_coef = jnp.where(jnp.isfinite(adapted), adapted, kl_coef)  # where a NaN would stay for ever
    return state.replace(**networks, kl_coef=kl_coef, key=key), metrics


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
    check_batch(options, mesh)
    setting = Setting(model, options, data.response_tokens, eos_ids=(0,), pad_id=vocabulary)
    reference = adapters.abstract_trained(transformer.specs(model, vocabulary), model, mesh)
    scalar = adapters.abstract_trained(heads.specs(model, vocabulary), model, mesh)
    base = adapters.abstract_base(model, vocabulary, mesh)
    optimizer, sigma = make_optimizer(options.optimizer, 1), config.health.spike_sigma
    start = functools.partial(
        initial_state, optimizer=optimizer, options=options, seed=config.seed, spike_sigma=sigma
    )
    state = without_values(start, reference, scalar if options.has_value_network else None)
    query = abstract_batch(mesh, QueryPlan.widest(data, options.prompts))["query"]
    reward = ensemble.together([scalar for _ in ensemble.scoring(config)])
    fixed = without_values(functools.partial(frozen, setting=setting), reference, reward)
    if options.is_by_model_alone:
        return jitted_iteration(setting).trace(state, *fixed, query, base=base)
    score = abstract_rows(mesh, (options.batch_size,), jnp.float32)

    def halves(state, reference, reward, query, score, base):
        return learn(state, sample(state, reference, reward, query, setting, base), score, setting, base)

    return jax.jit(halves, donate_argnums=0).trace(state, *fixed, query, score, base)


def check_batch(options: PpoConfig, mesh) -> None:
    """Raises ConfigError where a batch's prompts do not split over the mesh, each with all its responses."""
    field = "ppo.batch_size" + (" / ppo.samples" if options.samples > 1 else "")
    check_rows(field, options.prompts, options.minibatches * options.microbatches, mesh)


def train(config: Config, workdir: Path) -> None:
    """Trains the policy of stage sft into `checkpoints/ppo`, by the rewards of `ppo.reward`."""
    options, mesh = config.ppo, make_mesh(config.mesh)
    check_batch(options, mesh)
    with jax.set_mesh(mesh):
        reference = inference.load(workdir, "sft", config=config)
        scoring = ensemble.load(config, workdir)
        model, task, tokenizer = reference.model, reference.task, reference.tokenizer
        setting = Setting(model, options, config.data.response_tokens, tokenizer.eos_ids, tokenizer.pad_id)
        records = task.queries()
        inputs.hold(workdir, "ppo", tokenizer, ["sft", *ensemble.read(config)], queries=records)
        records = task.filtered(records, tokenizer, references=False)
        plan = QueryPlan(records, tokenizer, task, options.prompts, config.seed)
        plan.tell("ppo")
        iterations, left = divmod(options.episodes, options.batch_size)
        if left:
            print(f"ppo: {left:,} of {options.episodes:,} episodes do not fill a batch and are left out")
        updates = iterations * options.epochs * options.minibatches
        schedule = make_schedule(options.optimizer, updates)
        usual_scores = -math.inf, math.inf
        if options.is_by_model_alone:
            place = checkpoint.require(workdir, ensemble.leading(config))
            usual_scores = checkpoint.read_meta(*place)["usual_scores"]
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
        base, value = reference.base, scoring if options.has_value_network else None
        if isinstance(value, tuple):
            value = inference.load(workdir, ensemble.leading(config), config=config).trained
        elif options.has_value_network and not value:
            key = stage_key(config.seed, "ppo_value")
            value = heads.on_top(reference.trained, model, tokenizer.vocab_size, key)
        state = initial_state(reference.trained, value, optimizer, options, config.seed, sigma)
        state = training.resume(state)
        fixed = jax.jit(functools.partial(frozen, setting=setting))(reference.trained, scoring)
        del reference, scoring, value  # in float32
        step, (first, second) = jitted_iteration(setting), jitted_halves(setting)
        with training, OwnReward(options, task) as own:
            for i in training.steps(state):
                batch = plan.batch(i)
                query = batch["query"]
                if options.is_by_model_alone:
                    state, metrics = step(state, *fixed, to_devices(query, mesh), base=base)
                else:
                    sampled = first(state, *fixed, to_devices(query, mesh), base=base)
                    asked = [records[k] for k in batch["index"].repeat(options.samples)]
                    with training.rescued(RewardError):
                        found = own_reward.on_host(sampled, task, tokenizer)
                        each = own.of(asked, *found, seed=f"{config.seed}/{i}")
                    state, metrics = second(state, sampled, to_devices(own.total(each), mesh), base=base)
                    metrics |= own_reward.metrics(each)
                responses = options.batch_size * metrics["objective/length"]
                tokens = options.samples * np.count_nonzero(query != tokenizer.pad_id) + responses
                metrics |= {"lr": schedule(state.policy.step - 1), "episodes": (i + 1) * options.batch_size}
                training.after(state, metrics, episodes=options.batch_size, tokens=tokens)


def frozen(reference, reward, setting: Setting):
    """Reference and reward model as every iteration reads them: a cast in each would take memory for both."""

    def cast(reward):
        return {"transformer": transformer.cast(reward["transformer"], setting.model), "head": reward["head"]}

    reference = transformer.cast(reference, setting.model)
    reward = tuple(map(cast, reward)) if isinstance(reward, tuple) else reward and cast(reward)
    if setting.options.frozen_on_host:
        return in_memory((reference, reward), jax.memory.Space.Host)
    return reference, reward


def initial_state(
    reference, value, optimizer, options: PpoConfig, seed: int, spike_sigma: float = 0.0
) -> PpoState:
    """Policy and value network as copies of `reference`, the SFT model, and of `value`, with a scalar head.

    `value` is None where there is no value network.
    """

    @jax.jit
    def create(reference, value):
        policy, value = (x and TrainState.create(x, optimizer, spike_sigma) for x in (reference, value))
        return PpoState(policy, value, jnp.float32(options.kl_coef), stage_key(seed, "ppo"))

    return create(reference, value)

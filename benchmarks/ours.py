"""Our side: the product's compiled functions, called as its stages call them."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.worker import Arrays, Side, Work, serve
from rlhf_jax.config import MeshConfig, ModelConfig, OptimizerConfig, PpoConfig
from rlhf_jax.mesh import make_mesh, to_devices
from rlhf_jax.model import heads, params, pretrained, transformer
from rlhf_jax.model.generate import generate
from rlhf_jax.pipeline import ppo, reward, sft
from rlhf_jax.pipeline.rollout import Rollout, rollout
from rlhf_jax.run.stored_config import from_dict
from rlhf_jax.training.state import TrainState, make_optimizer

MICROBATCH_ROWS = 2  # measured: the fastest on two cores, as its activations stay in the cache


class Loaded:
    """Networks and settings of a workload."""

    def __init__(self, work: Work):
        self.fields = work.fields
        self.model: ModelConfig = from_dict(work.fields["model"], ModelConfig)
        self.pad: int = work.fields["pad"]
        self.mesh = jax.sharding.get_mesh()
        self._folder = work.folder

    def network(self, name: str):
        specs = heads.specs if name in ("value", "reward") else transformer.specs
        like = params.abstract(specs(self.model, self.fields["vocabulary"]), self.mesh)
        return pretrained.load(self._folder / name, like)

    def state(self, name: str) -> TrainState:
        return TrainState.create(self.network(name), self.optimizer())

    def networks(self) -> dict[str, TrainState]:
        return {name: self.state(name) for name in ("policy", "value")}

    def optimizer(self) -> optax.GradientTransformation:
        return make_optimizer(OptimizerConfig(self.fields["learning_rate"], "constant"), 1)

    def setting(self, rows: int) -> ppo.Setting:
        options = PpoConfig(
            batch_size=rows,
            epochs=self.fields["epochs"],
            microbatches=parts(rows),
            temperature=self.fields["temperature"],
            score_at="after_eos",  # TRL's place
            no_eos="none",
        )
        return ppo.Setting(
            self.model, options, self.fields["response_tokens"], (self.fields["eos"],), self.pad
        )


def parts(rows: int) -> int:
    return max(rows // MICROBATCH_ROWS, 1)


def keep_gradients() -> optax.GradientTransformation:
    """An optimizer that changes nothing: its state is the last gradient."""
    zeros = functools.partial(jax.tree.map, jnp.zeros_like)
    return optax.GradientTransformation(
        zeros, lambda gradients, state, weights: (zeros(gradients), gradients)
    )


def generation(work: Work) -> Side:
    loaded, key = Loaded(work), jax.random.key(0)
    policy = loaded.network("policy")

    def writer(temperature: float) -> Callable:
        return jax.jit(
            functools.partial(
                generate,
                config=loaded.model,
                response_tokens=loaded.fields["response_tokens"],
                eos_ids=(loaded.fields["eos"],),
                pad_id=loaded.pad,
                temperature=temperature,
            )
        )

    def write(program: Callable, batch: Arrays) -> jax.Array:
        return jax.block_until_ready(program(policy, query=to_devices(batch["query"], loaded.mesh), key=key))

    sample = writer(loaded.fields["temperature"])
    return Side(lambda batch: {"tokens": write(writer(0.0), batch)}, lambda batch: write(sample, batch))


def training(loaded: Loaded, name: str, make_step: Callable[[int], Callable]) -> Side:
    """A stage of one network: `make_step(microbatches)` is its compiled step."""
    states = [loaded.state(name)]
    steps: dict[int, Callable] = {}

    def train(state: TrainState, batch: Arrays):
        rows = len(next(iter(batch.values())))
        step = steps.setdefault(rows, make_step(parts(rows)))
        return jax.block_until_ready(step(state, to_devices(batch, loaded.mesh)))

    def check(batch: Arrays) -> Mapping[str, Any]:
        state, metrics = train(TrainState.create(loaded.network(name), keep_gradients()), batch)
        return {"loss": metrics["loss"], "gradient norm": optax.global_norm(state.opt_state)}

    def run(batch: Arrays) -> None:
        states.append(train(states.pop(), batch)[0])

    return Side(check, run)


def sft_step(work: Work) -> Side:
    loaded = Loaded(work)
    targets = loaded.fields["targets"]
    return training(loaded, "policy", lambda micro: sft.jitted_step(loaded.model, targets, micro))


def reward_step(work: Work) -> Side:
    loaded = Loaded(work)
    return training(loaded, "reward", lambda micro: reward.jitted_step(loaded.model, loaded.pad, micro))


def update(work: Work) -> Side:
    loaded = Loaded(work)
    states = [loaded.networks()]
    program = jitted_update(loaded, work)
    key = jax.random.key(0)

    def episodes(batch: Arrays) -> Rollout:
        zeros = np.zeros_like(batch["logp"])
        unread = {"ref_logp": zeros, "rewards": zeros, "score": zeros[:, 0]}
        return Rollout(**to_devices(batch | unread | {"value_mask": batch["mask"]}, loaded.mesh))

    def run(batch: Arrays) -> Mapping[str, Any]:
        after, metrics = jax.block_until_ready(program(states.pop(), episodes(batch), key))
        states.append(after)
        return metrics

    def check(batch: Arrays) -> Mapping[str, Any]:
        metrics = run(batch)
        states[0] = loaded.networks()
        return metrics

    return Side(check, run)


def jitted_update(loaded: Loaded, work: Work) -> Callable:
    setting = loaded.setting(work.fields["rows"])
    return jax.jit(functools.partial(ppo.update, setting=setting), donate_argnums=0)


def iteration(work: Work) -> Side:
    loaded = Loaded(work)
    setting = loaded.setting(work.fields["rows"])
    reference, score = loaded.network("reference"), loaded.network("reward")

    def start() -> ppo.PpoState:
        return ppo.PpoState(
            loaded.state("policy"),
            loaded.state("value"),
            jnp.float32(setting.options.kl_coef),
            jax.random.key(0),
        )

    def check(batch: Arrays) -> Mapping[str, Any]:
        """A rollout whose responses the peer scores and learns from too."""
        state = start()
        program = jax.jit(functools.partial(rollout, setting=setting))
        query = to_devices(batch["query"], loaded.mesh)
        policy, value = (network.params for network in state.networks.values())
        episodes = program(policy, reference, value, score, query, state.key, state.kl_coef)
        objective = ppo.objective(episodes, setting)
        _, metrics = jitted_update(loaded, work)(state.networks, episodes, state.key)
        return metrics | objective | {"response": episodes.response}

    states: list[ppo.PpoState] = []
    program = ppo.jitted_iteration(setting)

    def run(batch: Arrays) -> None:
        state = states.pop() if states else start()
        query = to_devices(batch["query"], loaded.mesh)
        states.append(jax.block_until_ready(program(state, reference, score, query))[0])

    return Side(check, run)


SUITES = {
    "generation": generation,
    "sft": sft_step,
    "reward": reward_step,
    "update": update,
    "ppo": iteration,
}

if __name__ == "__main__":
    with jax.set_mesh(make_mesh(MeshConfig(1, 1, 1))):
        serve("ours", SUITES, warm_every_shape=True)

"""Is what this machine computes right? Every row is an error beside what the arithmetic allows.

python -m benchmarks.accelerator.correct --out=FOLDER [--dry] [--seconds=N]

kernels        attention against plain attention, in value and gradient, on every mask of the transformer
passes         whole passes against exact ones: values and gradients of all weights
decoding       log-probabilities of the same tokens with and without the cache
ppo            what PPO's first iteration must say, and gradients in microbatches
bits           the same seed twice, and a resumed run, bit for bit; `determined` is the same with XLA's
               deterministic operations
memory.*       bytes at the most in use against what the compiler says of the same program
"""

import functools
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator import kernels, passes, shapes
from benchmarks.accelerator.kernels import VARIANTS, Variant, judged, products, relative
from benchmarks.accelerator.part import Group, Part, main
from benchmarks.accelerator.passes import EOS, Inputs, named
from rlhf_jax.config import (
    Config,
    DataConfig,
    MeshConfig,
    OptimizerConfig,
    PpoConfig,
    RewardConfig,
    SftConfig,
)
from rlhf_jax.mesh import make_mesh
from rlhf_jax.pipeline import ppo, stages, update
from rlhf_jax.pipeline.rollout import rollout
from rlhf_jax.plan import compiled
from rlhf_jax.run import checkpoint
from rlhf_jax.training.state import make_optimizer, value_and_grad_in_parts

MEMORY_ALLOWED = 0.15  # of the compiler's word
UPDATES = {"bfloat16": 0.02, "float32": 5e-3, "float32, exact products": 1e-4}  # relative, of PPO's


# PPO -----------------------------------------------------------------------------------------


def invariants(part: Part) -> None:
    for variant in named(UPDATES):
        _first_iteration(part, variant)
        part.measure(
            f"gradient in one part and in two, {variant.name}", functools.partial(_in_parts, part, variant)
        )


def _first_iteration(part: Part, variant: Variant) -> None:
    """Policy and reference are one network, and the first minibatch is learnt by the policy that wrote it."""
    inputs, allowed = Inputs(part, variant), UPDATES[variant.name]
    metrics: dict[str, float] = {}
    setting = inputs.setting(microbatches=2)

    def run() -> dict:
        reference, reward = inputs.network("policy"), inputs.network("value")
        optimizer = make_optimizer(setting.options.optimizer, 100)
        state = ppo.initial_state(reference, reward, optimizer, setting.options, seed=0)
        with products(variant):
            state, found = ppo.jitted_iteration(setting)(state, reference, reward, inputs.query)
        metrics.update({name: float(value) for name, value in found.items()})
        broken = sum(not np.isfinite(value) for value in metrics.values()) + abs(int(state.policy.step) - 1)
        return judged(broken, 0, skipped=metrics["skipped"])

    rows: dict[str, Callable[[], dict]] = {
        "finite, one update made": run,
        "KL of the policy to itself": lambda: judged(abs(metrics["objective/kl"]), 0.0),
        "rewards without their scores": lambda: judged(abs(metrics["objective/non_score_reward"]), 0.0),
        "ratio of the first minibatch": lambda: judged(
            abs(metrics["policy/ratio"] - 1), allowed, of_each=metrics["policy/ratio_var"] ** 0.5
        ),
        "share clipped in it": lambda: judged(metrics["policy/clipfrac"], 0.0),
    }
    for name, work in rows.items():
        part.measure(f"{name}, {variant.name}", work)


def _in_parts(part: Part, variant: Variant) -> dict:
    inputs = Inputs(part, variant)
    setting = inputs.setting()
    networks = {"policy": inputs.network("policy"), "value": inputs.network("value")}

    @jax.jit
    def episodes(networks):
        frozen = networks["policy"], networks["policy"], networks["value"], networks["value"]
        coefficient = jnp.float32(0.05)
        return rollout(*frozen, inputs.query, jax.random.key(0), coefficient, setting)

    with products(variant):
        seen = episodes(networks)
        counts = seen.mask.sum(), seen.value_mask.sum()

        def gradient(parts: int):
            def loss(networks, some):
                return update.loss(networks, some, *counts, setting)

            split = jax.jit(lambda networks: value_and_grad_in_parts(loss, networks, seen, parts)[1])
            return jax.device_get(split(networks))

        return judged(relative(gradient(2), gradient(1)), UPDATES[variant.name])


# Bits ----------------------------------------------------------------------------------------


def bits(part: Part) -> None:
    """Four iterations of two epochs in bfloat16, three times: as they are, again, and resumed after two."""
    inputs = Inputs(part, VARIANTS[0])
    options = PpoConfig(
        batch_size=len(inputs.query),
        epochs=2,
        microbatches=2,
        optimizer=OptimizerConfig(1e-4, "constant"),
        no_eos="none",
    )
    setting = ppo.Setting(inputs.model, options, inputs.response_tokens, (EOS,), inputs.pad)
    step = ppo.jitted_iteration(setting)
    reference, reward = inputs.network("policy"), inputs.network("value")
    optimizer = make_optimizer(options.optimizer, 100)

    def start() -> ppo.PpoState:
        return ppo.initial_state(reference, reward, optimizer, options, seed=0)

    def run(state: ppo.PpoState, iterations: int) -> ppo.PpoState:
        for _ in range(iterations):
            state, _ = step(state, reference, reward, inputs.query)
        return jax.block_until_ready(state)

    whole = {}

    def twice() -> dict:
        whole["state"] = run(start(), 4)
        return differing(run(start(), 4), whole["state"])

    def restored(folder: Path) -> tuple[ppo.PpoState, ppo.PpoState]:
        """The state after two iterations, and what its checkpoint holds."""
        state = run(start(), 2)
        weights, rest = state.parts()
        checkpoint.save(folder, 2, params=weights, rest=rest, meta={})
        params_read, rest_read = checkpoint.restore(folder, 2, *state.parts())
        return state, rest_read.with_params(params_read)

    with tempfile.TemporaryDirectory(prefix="accelerator_") as temporary:
        part.measure("one seed, two runs", twice)
        states: list[ppo.PpoState] = []

        def kept() -> dict:
            states.extend(restored(Path(temporary) / "ppo"))
            return differing(states[1], states[0])

        part.measure("a checkpoint, written and read", kept)
        part.measure("a run, resumed", lambda: differing(run(states[1], 2), whole["state"]))


def differing(ours, theirs) -> dict:
    """A row: how many numbers of two trees are not the same bits, and by how much they differ."""

    def plain(x) -> np.ndarray:
        is_key = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if is_key else x)

    pairs = [
        (plain(a), plain(b)) for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    ]
    count = sum(int(np.sum(a != b)) for a, b in pairs)
    return judged(count, 0, of=sum(a.size for a, _ in pairs), relative=relative(*zip(*pairs, strict=True)))


# Memory --------------------------------------------------------------------------------------


def memory(part: Part) -> None:
    """Of the program that the group is named after."""
    program = part.group.removeprefix("memory.")
    part.measure(program, functools.partial(_memory, program, part.dry))


def _memory(program: str, dry: bool) -> dict:
    config, vocabulary = memory_config(dry)
    with jax.set_mesh(make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])):
        traced = stages.programs()[program](config, config.model, vocabulary)
        executable = traced.lower().compile()
        told = compiled.memory(executable.memory_analysis())
        positional, named = jax.tree.map(_zeros, executable.args_info)
        jax.block_until_ready(executable(*positional, **named))
    used = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    if used is None:
        raise RuntimeError(f"a {jax.devices()[0].device_kind} does not tell how much memory was in use")
    return judged(abs(used / told["peak"] - 1), MEMORY_ALLOWED, measured=used, told=told)


def memory_config(dry: bool) -> tuple[Config, int]:
    """Batches of Pythia 160M that fill some gigabytes, and its vocabulary."""
    rows, best = (8, 2) if dry else (32, 16)
    data = DataConfig(query_tokens=16, response_tokens=5, reward_response_tokens=5) if dry else DataConfig()
    config = Config(
        model=shapes.TOY if dry else shapes.PYTHIA["160M"],
        data=data,
        sft=SftConfig(batch_size=rows, microbatches=2, pack=False),
        reward=RewardConfig(batch_size=rows // 2, microbatches=2),
        ppo=PpoConfig(batch_size=rows, microbatches=2, epochs=1),
    )
    config.eval.best_of = best
    return config, shapes.TOY_VOCABULARY if dry else shapes.PYTHIA_VOCABULARY


def _zeros(info) -> jax.Array:
    if jax.dtypes.issubdtype(info.dtype, jax.dtypes.prng_key):
        return jax.random.key(0)
    return jnp.zeros(info.shape, info.dtype)


SHARED = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # the groups are on the card together
DETERMINED = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true"}
GROUPS = {
    "kernels": Group(kernels.group, environment=SHARED),
    "passes": Group(passes.passes, environment=SHARED),
    "decoding": Group(passes.decoding, environment=SHARED),
    "ppo": Group(invariants, environment=SHARED),
    "bits": Group(bits, environment=SHARED),
    "determined": Group(bits, environment=SHARED | DETERMINED),
} | {f"memory.{program}": Group(memory, environment=SHARED) for program in stages.programs()}

if __name__ == "__main__":
    sys.exit(main(sys.argv, __doc__, GROUPS, at_once=4))

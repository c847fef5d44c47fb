"""How the cost of a PPO iteration grows with rows, response, prompt, layers and devices.

python -m benchmarks.growth [--out=docs/images/growth.png] [--json=FILE]

--out=FILE     the plots
--json=FILE    also the numbers
--repeats=3    of each point, in turns with the other points of its sweep; the median counts

Times are those of one epoch of updates on the small model (4 layers, width 256, vocabulary 8192) with 16
prompts of 256 tokens and responses of 32 that do not end early, where a sweep does not say otherwise.
Devices are simulated: work and bytes of one device are read from the compiled program, and no time.
"""

import dataclasses
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import jax
import jax.numpy as jnp
import matplotlib
from absl import flags

from benchmarks import workloads
from benchmarks.compare import ROOT
from benchmarks.ours import parts
from benchmarks.worker import timed
from benchmarks.workloads import EOS, WORKLOADS, Workload
from rlhf_jax.command_line import command, parse_flags
from rlhf_jax.config import MeshConfig, OptimizerConfig, PpoConfig
from rlhf_jax.mesh import make_mesh, to_devices
from rlhf_jax.model import heads, params, transformer
from rlhf_jax.model.generate import generate
from rlhf_jax.pipeline import ppo
from rlhf_jax.pipeline.rollout import rollout
from rlhf_jax.training.state import make_optimizer

BASE = dataclasses.replace(WORKLOADS["small-fixed"], query_tokens=256, response_tokens=32, epochs=1)
SWEEPS = {
    "rows": (8, 16, 32, 64, 128),
    "response": (16, 32, 64, 128),
    "prompt": (128, 256, 512, 1024),
    "layers": (2, 4, 8, 12),
}
PHASES = ("rollout", "scoring", "update")


def at(sweep: str, value: int) -> Workload:
    context = max(SWEEPS["prompt"]) + BASE.response_tokens
    layers = value if sweep == "layers" else BASE.model.layers
    return dataclasses.replace(
        BASE,
        model=dataclasses.replace(BASE.model, layers=layers, context=context),
        rows=value if sweep == "rows" else BASE.rows,
        query_tokens=value if sweep == "prompt" else BASE.query_tokens,
        response_tokens=value if sweep == "response" else BASE.response_tokens,
    )


def phases(workload: Workload) -> Callable[[], dict[str, float]]:
    """Compiles the phases of an iteration; what comes back runs them once and gives their seconds.

    Scoring is what a rollout takes beyond its generation.
    """
    optimizer = OptimizerConfig(workload.learning_rate, "constant")
    options = PpoConfig(batch_size=workload.rows, epochs=1, microbatches=parts(workload.rows))
    setting = ppo.Setting(workload.model, options, workload.response_tokens, (EOS,), workload.pad)

    @jax.jit
    def networks():
        key = jax.random.key(0)
        policy = params.init(transformer.specs(workload.model, workload.vocabulary), key)
        policy["embed"] = workloads.with_ends(policy["embed"], workload)
        return policy, params.init(heads.specs(workload.model, workload.vocabulary), key)

    policy, value = networks()
    states = [(ppo.initial_state(policy, value, make_optimizer(optimizer, 1), options, seed=0))]
    key, kl_coef = jax.random.key(0), jnp.float32(options.kl_coef)
    placed = workloads.ours(workload, workloads.draw(workload, None, 1), 1)[0]
    batch = workloads.arrays("ppo", workload, placed)
    query = to_devices(batch["query"], jax.sharding.get_mesh())
    write = jax.jit(
        functools.partial(
            generate,
            config=workload.model,
            response_tokens=workload.response_tokens,
            eos_ids=(EOS,),
            pad_id=workload.pad,
            temperature=workload.temperature,
        )
    )
    roll = jax.jit(functools.partial(rollout, setting=setting))
    learn = jax.jit(functools.partial(ppo.update, setting=setting), donate_argnums=0)

    def once() -> dict[str, float]:
        state = states.pop()
        kept = []
        writing = timed(lambda: write(policy, query=query, key=key).block_until_ready())
        rolling = timed(
            lambda: kept.append(
                jax.block_until_ready(roll(policy, policy, value, value, query, key, kl_coef))
            )
        )
        learning = timed(
            lambda: kept.append(jax.block_until_ready(learn(state.networks, kept.pop(), key))[0])
        )
        states.append(state.replace(**kept.pop()))
        return {"rollout": writing, "scoring": rolling - writing, "update": learning}

    once()
    return once


def sweep_times(sweep: str, repeats: int) -> list[dict[str, float]]:
    """Median seconds of every phase at each value of a sweep."""
    points = [phases(at(sweep, value)) for value in SWEEPS[sweep]]
    rounds = [[point() for point in points] for _ in range(repeats)]
    return [
        {"value": value} | {phase: median(seen[i][phase] for seen in rounds) for phase in PHASES}
        for i, value in enumerate(SWEEPS[sweep])
    ]


def on_devices() -> list[dict[str, float]]:
    """Work and bytes of one device, from a process that simulates eight."""
    flag = "--xla_force_host_platform_device_count=8"
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.devices"],
        env=os.environ | {"XLA_FLAGS": flag, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(found.stdout)


def plot(found: dict, out: Path) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 3, figsize=(12, 7), layout="constrained")
    for axis, sweep in zip(axes.flat, SWEEPS, strict=False):
        values = [point["value"] for point in found[sweep]]
        total = [sum(point[phase] for phase in PHASES) for point in found[sweep]]
        axis.loglog(values, total, "k-o", label="iteration")
        for phase in PHASES:
            axis.loglog(values, [point[phase] for point in found[sweep]], "-o", markersize=3, label=phase)
        axis.loglog(values, [total[0] * value / values[0] for value in values], "k:", label="linear")
        axis.set(xlabel=sweep, ylabel="seconds", xticks=values, xticklabels=values)
        axis.minorticks_off()
    for axis, name, unit in zip(
        axes.flat[4:], ("gflop", "megabytes"), ("GFLOP of", "MB received by"), strict=True
    ):
        values = [point["value"] for point in found["devices"]]
        axis.plot(values, [point[name] for point in found["devices"]], "-o")
        axis.set(
            xlabel="devices (fsdp, simulated)", ylabel=f"{unit} one device", xticks=values, ylim=(0, None)
        )
    axes.flat[0].legend()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


def off_linear(points: list[dict[str, float]]) -> float:
    """How far the seconds a row at the last point are from those at 16 rows, as a share."""
    each = {point["value"]: sum(point[phase] for phase in PHASES) / point["value"] for point in points}
    return each[points[-1]["value"]] / each[16] - 1


def main(argv: list[str]) -> int:
    if not {"-h", "--help"}.isdisjoint(argv):
        print(__doc__)
        return 0
    return command(argv, lambda: run(_parse(argv)))


def run(options: flags.FlagValues) -> None:
    found = measure(options.repeats)
    plot(found, Path(options.out))
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def measure(repeats: int) -> dict:
    """Every sweep, printed as it comes."""
    found: dict = {}
    with jax.set_mesh(make_mesh(MeshConfig(1, 1, 1))):
        for sweep in SWEEPS:
            found[sweep] = sweep_times(sweep, repeats)
            for point in found[sweep]:
                seconds = "  ".join(f"{phase} {point[phase]:.2f} s" for phase in PHASES)
                print(f"{sweep:9} {point['value']:5}  {seconds}", flush=True)
    found["devices"] = on_devices()
    for point in found["devices"]:
        print(
            f"devices   {point['value']:5}  {point['gflop']:.0f} GFLOP  {point['megabytes']:.1f} MB received"
        )
    print(f"a row of 128 costs {off_linear(found['rows']):+.0%} compared with one of 16")
    return found


def _parse(argv: list[str]) -> flags.FlagValues:
    options = flags.FlagValues()
    flags.DEFINE_string("out", str(ROOT / "docs" / "images" / "growth.png"), "plots", flag_values=options)
    flags.DEFINE_string("json", "", "numbers", flag_values=options)
    flags.DEFINE_integer("repeats", 3, "of each point", lower_bound=1, flag_values=options)
    return parse_flags(argv, options)


if __name__ == "__main__":
    sys.exit(main(sys.argv))

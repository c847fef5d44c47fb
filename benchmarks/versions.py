"""The same PPO iterations by this version and an earlier one, in turns.

python -m benchmarks.versions --before=FOLDER [--rounds=5] [--json=FILE]

--before=FOLDER   a checkout of the earlier version
--rounds=5        of all cases; the median counts
--json=FILE       also the seconds of every round

The small model of docs/performance.md with random weights, and one epoch of updates. *one* and *four*: 16
episodes on prompts of 512 tokens and responses of 53, one or four to a prompt; *adapters*: as *one*, with
adapters of rank 16 in place of the whole networks. *short*: 64 episodes on posts of the miniature (35 to 44
tokens), whose responses end after 11 to 20 of 53 tokens. Seconds are those of the processor, which other
programs beside these lengthen less than those of a clock.
"""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import jax
import numpy as np
from absl import flags

from benchmarks import workloads
from benchmarks.compare import ROOT
from benchmarks.workloads import EOS, WORKLOADS
from rlhf_jax.command_line import command, parse_flags
from rlhf_jax.config import DataConfig, LoraConfig, MeshConfig, OptimizerConfig, PpoConfig
from rlhf_jax.data import task as tasks
from rlhf_jax.data.batches import QueryPlan
from rlhf_jax.mesh import make_mesh, to_devices
from rlhf_jax.model import heads, lora, params, transformer
from rlhf_jax.pipeline import ppo
from rlhf_jax.training.state import make_optimizer

SERVE = "serve"  # what a version's own process is told to do


class Case(NamedTuple):
    rows: int  # of a batch
    at_once: int  # of a microbatch
    samples: int  # responses to a prompt
    real: bool  # of the miniature, where responses end by themselves
    rank: int = 0  # of adapters, beside a base that stays


CASES = {
    "one": Case(16, 4, 1, False),
    "adapters": Case(16, 4, 1, False, rank=16),
    "four": Case(16, 4, 4, False),
    "short": Case(64, 16, 1, True),
}


def iterate(case: str) -> Callable[[], float]:
    """Compiles the iteration of a case; what comes back runs it once and gives its seconds."""
    rows, at_once, samples, real, rank = CASES[case]
    workload = dataclasses.replace(WORKLOADS["small-real" if real else "small-fixed"], rows=rows)
    options = PpoConfig(batch_size=rows, samples=samples, epochs=1, microbatches=rows // at_once)
    model = dataclasses.replace(workload.model, lora=LoraConfig(rank=rank))
    setting = ppo.Setting(model, options, workload.response_tokens, (EOS,), workload.pad)

    @jax.jit
    def networks():
        key = jax.random.key(0)
        whole = params.init(transformer.specs(model, workload.vocabulary), key)
        whole["embed"] = workloads.with_ends(whole["embed"], workload)
        value = params.init(lora.trained(heads.specs(model, workload.vocabulary), model.lora), key)
        if not rank:
            return {}, whole, value
        adapters = lora.trained(transformer.specs(model, workload.vocabulary), model.lora)
        return whole, params.init(adapters, key), value

    base, policy, value = networks()
    optimizer = make_optimizer(OptimizerConfig(workload.learning_rate, "constant"), 1)
    states = [ppo.initial_state(policy, value, optimizer, options, seed=0)]
    query = to_devices(prompts(rows // samples, real, workload.pad), jax.sharding.get_mesh())
    step = ppo.jitted_iteration(setting)

    def once() -> float:
        start = time.process_time()
        state, metrics = jax.block_until_ready(step(states.pop(), policy, value, query, base=base))
        states.append(state)
        assert real == (metrics["objective/length"] < workload.response_tokens / 2)
        return time.process_time() - start

    once()
    return once


def prompts(count: int, real: bool, pad: int) -> np.ndarray:
    """As padded as the version's plan pads them, with the token `pad`."""
    if not real:
        return np.random.default_rng(0).integers(EOS + 1, 8192, (count, 512)).astype(np.int32)
    task = tasks.find(DataConfig(source="mini", mini_posts=2048), seed=0)
    posts = task.records()["train"]
    tokenizer = task.make_tokenizer(posts, None)
    query = QueryPlan(posts, tokenizer, task, count, seed=0).batch(0)["query"]
    return np.where(query == tokenizer.pad_id, pad, query)


def serve() -> None:
    """Names of cases on standard input, one a line; their seconds on standard output."""
    ready: dict[str, Callable[[], float]] = {}
    with jax.set_mesh(make_mesh(MeshConfig(1, 1, 1))):
        for line in sys.stdin:
            case = line.strip()
            if case not in ready:
                ready[case] = iterate(case)
            print(ready[case](), flush=True)


class Version:
    """A checkout whose code a process of its own runs."""

    def __init__(self, folder: Path):
        self._process = subprocess.Popen(
            [sys.executable, __file__, SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(folder)},
        )

    def seconds(self, case: str) -> float:
        assert self._process.stdin and self._process.stdout
        print(case, file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())


def main(argv: list[str]) -> int:
    if not {"-h", "--help"}.isdisjoint(argv):
        print(__doc__)
        return 0
    if SERVE in argv:
        serve()
        return 0
    return command(argv, lambda: compare(_parse(argv)))


def compare(options: flags.FlagValues) -> None:
    """All cases of both versions in every round; prints medians an episode as they come to be known."""
    versions = {"before": Version(Path(options.before).resolve()), "now": Version(ROOT)}
    found: dict[str, dict[str, list[float]]] = {name: {case: [] for case in CASES} for name in versions}
    for _ in range(options.rounds):
        for case in CASES:
            for name, version in versions.items():
                found[name][case].append(version.seconds(case) / CASES[case].rows)
        for name, cases in found.items():
            told = "  ".join(f"{case} {median(seconds):.3f} s" for case, seconds in cases.items())
            print(f"{name:6} {told}", flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _parse(argv: list[str]) -> flags.FlagValues:
    options = flags.FlagValues()
    flags.DEFINE_string(
        "before", None, "a checkout of the earlier version", required=True, flag_values=options
    )
    flags.DEFINE_integer("rounds", 5, "of all cases", lower_bound=1, flag_values=options)
    flags.DEFINE_string("json", "", "seconds an episode of every round", flag_values=options)
    return parse_flags(argv, options)


if __name__ == "__main__":
    sys.exit(main(sys.argv))

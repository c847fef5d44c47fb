"""What a run of PPO wastes once it is under way: compilations, and time in which no compiled program runs.

The loop is `ppo.train` itself with the demo's model, tokenizer and posts, in smaller batches: the host's
share of an iteration is larger here than in any real run.
"""

import dataclasses
import runpy
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp

from benchmarks.compare import ROOT
from rlhf_jax.config import Config, MeshConfig
from rlhf_jax.data import task as tasks
from rlhf_jax.data.batches import QueryPlan
from rlhf_jax.data.tokenizer import load_tokenizer
from rlhf_jax.mesh import make_mesh
from rlhf_jax.model import heads, params, pretrained, transformer
from rlhf_jax.pipeline import ppo
from rlhf_jax.run import checkpoint

MEASURED = 100  # iterations after the first of every bucket
COMPILED = "/jax/core/compile/backend_compile_duration"


class Steady(NamedTuple):
    iterations: int
    compilations: int
    host_share: float  # of the time, with no compiled program running
    host_milliseconds: float  # the same, an iteration
    iteration_seconds: float  # median


class Watch:
    """Notes when each iteration is handed over and when its result is there, without holding the loop up."""

    def __init__(self) -> None:
        self.called: list[float] = []
        self.ready: dict[int, float] = {}
        self.compiled: list[float] = []
        self._threads: list[threading.Thread] = []
        self._make = ppo.jitted_iteration

    def jitted_iteration(self, setting: ppo.Setting):
        step = self._make(setting)

        def watched(*arguments):
            self.called.append(time.monotonic())
            out = step(*arguments)
            i = len(self.called) - 1
            self._threads.append(threading.Thread(target=self._wait, args=(i, out[1])))
            self._threads[-1].start()
            return out

        return watched

    def _wait(self, i: int, metrics) -> None:
        jax.block_until_ready(metrics)
        self.ready[i] = time.monotonic()

    def on_duration(self, event: str, duration_secs: float, **more: str | int) -> None:
        if event == COMPILED:
            self.compiled.append(time.monotonic())

    def since(self, first: int) -> Steady:
        """Of the iterations from `first` on."""
        for thread in self._threads:
            thread.join()
        last = len(self.called) - 1
        idle = [max(self.called[i] - self.ready[i - 1], 0.0) for i in range(first, last + 1)]
        ends = [self.ready[i] for i in range(first - 1, last + 1)]
        return Steady(
            iterations=len(idle),
            compilations=sum(ends[0] < when < ends[-1] for when in self.compiled),
            host_share=sum(idle) / (ends[-1] - ends[0]),
            host_milliseconds=1000 * sum(idle) / len(idle),
            iteration_seconds=median(b - a for a, b in zip(ends, ends[1:], strict=False)),
        )


def demo() -> Config:
    config = runpy.run_path(str(ROOT / "configs" / "mini.py"))["get_config"]()
    return dataclasses.replace(
        config,
        mesh=MeshConfig(1, 1, 1),
        data=dataclasses.replace(config.data, mini_posts=2048),
        ppo=dataclasses.replace(config.ppo, batch_size=32, microbatches=2, save_every=10**9),
    )


def run(measured: int = MEASURED) -> Steady:
    """Trains until every bucket has been seen and `measured` iterations more."""
    config, watch = demo(), Watch()
    with tempfile.TemporaryDirectory(prefix="benchmark_") as temporary:
        first = start(config, Path(temporary))
        config.ppo.episodes = (first + measured) * config.ppo.batch_size
        jax.monitoring.register_event_duration_secs_listener(watch.on_duration)
        with mock.patch.object(ppo, "jitted_iteration", watch.jitted_iteration):
            ppo.train(config, Path(temporary))
    return watch.since(first)


def start(config: Config, workdir: Path) -> int:
    """Checkpoints for PPO to begin with; returns the iteration before which every bucket was seen."""
    base = pretrained.folder_of(config.model.pretrained)
    tokenizer = load_tokenizer(base)
    tokenizer.save(workdir)
    model = pretrained.architecture(config.model)
    with jax.set_mesh(make_mesh(config.mesh)):
        like = params.abstract(transformer.specs(model, tokenizer.vocab_size), jax.sharding.get_mesh())
        weights = pretrained.load(base, like)
        body = {name: leaf for name, leaf in weights.items() if name != "head"}
        head = params.init(
            {"head": heads.specs(model, tokenizer.vocab_size)["head"]}, jax.random.key(config.seed)
        )
        for stage, tree in (("sft", weights), ("reward", {"transformer": body} | head)):
            folder = workdir / "checkpoints" / stage
            meta = {"usual_scores": [-100.0, 100.0]}  # beyond which PPO warns
            checkpoint.save(folder, 1, params=tree, rest={"shift": jnp.float32(0)}, meta=meta)
    task = tasks.find(config.data, config.seed)
    posts = task.filtered(task.queries(), tokenizer, references=False)
    plan = QueryPlan(posts, tokenizer, task, config.ppo.batch_size, config.seed)
    widths = [plan.batch(i)["query"].shape[1] for i in range(plan.steps_per_epoch)]
    return 1 + max(widths.index(width) for width in set(widths))


def line(found: dict) -> str:
    return (
        f"steady: {found['compilations']} compilations in {found['iterations']} iterations of "
        f"{found['iteration_seconds']:.2f} s; no program ran for "
        f"{found['host_milliseconds']:.1f} ms of each, {found['host_share']:.1%}"
    )

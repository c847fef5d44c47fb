"""How fast is every stage on this card? Seconds, tokens a second, and shares of the card's own peaks.

python -m benchmarks.accelerator.speed --out=FOLDER [--dry] [--seconds=N]

card    the peaks: a bfloat16 product of 8192² matrices of random numbers, and a copy of 2 GiB
SIZE    Pythia's shapes with random weights in bfloat16: an SFT step, a step of the reward model, prefill,
        generation, and a PPO iteration, whole and its phases apart

*fixed*: 512 tokens of query and 53 of response in every row. *real*: lengths of posts and their summaries, of
the bucket that most posts are in; SFT packs them into rows. Responses are sampled to their limit in both:
with random weights hardly one ends. Useful operations are counted as in `benchmarks.flops`.

All programs of a size are compiled beside each other, and only then the first one is timed.
"""

import dataclasses
import functools
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from statistics import median
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from benchmarks import flops, workloads
from benchmarks.accelerator import shapes
from benchmarks.accelerator.part import NOT_REACHED, Group, Part, main
from benchmarks.workloads import EOS, Workload
from rlhf_jax.config import MeshConfig, ModelConfig, OptimizerConfig, PpoConfig
from rlhf_jax.mesh import make_mesh, to_devices
from rlhf_jax.model import heads
from rlhf_jax.model.generate import generate
from rlhf_jax.model.likelihood import response_logprobs
from rlhf_jax.pipeline import ppo, reward, sft
from rlhf_jax.pipeline.rollout import Rollout
from rlhf_jax.plan.compiled import memory
from rlhf_jax.plan.flops import Placed, sample
from rlhf_jax.training.state import TrainState, make_optimizer

REPEATS = 5
PRODUCT = 8192  # rows and columns of the matrices
COPIED = 2**30  # bfloat16 numbers
TOO_LARGE = (
    "the four networks of PPO, two of them with gradients and Adam's moments, are 54 bytes a parameter, "
    "which is more than the card has"
)


class Plan(NamedTuple):
    """What is measured of a size."""

    model: ModelConfig
    rows: int  # of a batch; pairs are half as many
    step_rows: int  # of a microbatch of the SFT step; of the reward model's half as many
    ppo_rows: int  # of a microbatch of PPO's update; 0: no PPO
    rematerialize: bool  # in SFT and the reward model; PPO's update always does where it is large


PLANS = {
    "160M": Plan(shapes.PYTHIA["160M"], rows=64, step_rows=32, ppo_rows=16, rematerialize=False),
    "1B": Plan(shapes.PYTHIA["1B"], rows=64, step_rows=16, ppo_rows=8, rematerialize=True),
    "2.8B": Plan(shapes.PYTHIA["2.8B"], rows=32, step_rows=8, ppo_rows=0, rematerialize=True),
}
TOY = Plan(shapes.TOY, rows=8, step_rows=4, ppo_rows=4, rematerialize=True)
TOY_RESPONSE = 5  # tokens


# The card ------------------------------------------------------------------------------------


def card(part: Part) -> None:
    size, words = (64, 2**12) if part.dry else (PRODUCT, COPIED)
    part.measure("product", functools.partial(_product, size))
    part.measure("copy", functools.partial(_copy, words))


def _product(size: int) -> dict:
    """Operations a second of a large bfloat16 product, of random numbers: zeros are faster."""
    keys = jax.random.split(jax.random.key(0))
    left, right = (jax.random.normal(key, (size, size), jnp.bfloat16) for key in keys)
    product = jax.jit(jnp.matmul)
    return {"size": size, "flops_per_second": 2 * size**3 / _in_a_row(lambda: product(left, right))}


def _copy(words: int) -> dict:
    """Bytes a second read and written together, where as many are read as written."""
    arrays = [jnp.arange(words, dtype=jnp.bfloat16)]
    change = jax.jit(lambda x: -x, donate_argnums=0)

    def read_and_write() -> jax.Array:
        arrays.append(change(arrays.pop()))
        return arrays[0]

    return {"bytes": 4 * words, "bytes_per_second": 4 * words / _in_a_row(read_and_write)}


def _in_a_row(work: Callable[[], jax.Array], calls: int = 20) -> float:
    """Seconds of one call, the median over rows of calls that wait for nothing between them."""
    jax.block_until_ready(work())
    times = []
    for _ in range(REPEATS):
        start = time.monotonic()
        jax.block_until_ready([work() for _ in range(calls)][-1])
        times.append((time.monotonic() - start) / calls)
    return median(times)


# Programs ------------------------------------------------------------------------------------


class Program(NamedTuple):
    """One compiled function of the product with what it is called on."""

    name: str
    function: Any  # jitted
    large: Callable[[], tuple]  # its first arguments, made when its turn comes
    small: tuple  # its other arguments
    carries: bool  # its first result is its first argument next time
    tokens: int  # read and written, without padding
    flops: float  # useful ones


class Programs:
    """Those of a plan, in the order in which they are timed."""

    def __init__(self, plan: Plan, vocabulary: int, dry: bool) -> None:
        self.plan, self.dry = plan, dry
        self.mesh = jax.sharding.get_mesh()
        self.optimizer = make_optimizer(OptimizerConfig(1e-5, "constant"), 1)  # one, or programs differ
        self.model = dataclasses.replace(plan.model, rematerialize=plan.rematerialize)
        query, response = (32, TOY_RESPONSE) if dry else (512, 53)
        self.fixed = Workload("fixed", self.model, vocabulary, plan.rows, False, query, response)

    def all(self) -> list[Program]:
        fixed, whole = self.fixed, self._rows(self.fixed)
        pairs = dataclasses.replace(fixed, rows=fixed.rows // 2)
        programs = [
            self.generation("prefill", dataclasses.replace(fixed, response_tokens=1)),
            self.generation("generation", fixed),
            self.sft("SFT step", [[i] for i in range(fixed.rows)], whole),
            self.reward("reward step", pairs),
        ]
        if self.plan.ppo_rows:
            programs += [self.score(), self.update(), self.ppo("PPO iteration", fixed)]
        programs.append(self.sft_packed())
        if self.plan.ppo_rows:
            programs.append(self.ppo("PPO iteration, real lengths", self.real()))
        return programs

    def real(self) -> Workload:
        """Rows of the bucket that most posts are in."""
        bucket, _ = self.usual()
        return dataclasses.replace(self.fixed, real=True, query_tokens=bucket)

    def usual(self) -> tuple[int, np.ndarray]:
        bucket, sizes = shapes.usual_bucket(shapes.lengths())
        return (bucket // 16, toy_lengths(sizes)) if self.dry else (bucket, sizes)

    def _rows(self, workload: Workload) -> list[workloads.Example]:
        return workloads.draw(workload, self.usual()[1] if workload.real else None, batches=1)

    def _arrays(self, suite: str, workload: Workload, examples: list[workloads.Example]):
        placed = workloads.Placed(examples, workload.query_tokens, workload.response_tokens)
        return workloads.arrays(suite, workload, placed)

    def network(self, name: str):
        return shapes.network(name, self.fixed)

    def state(self, name: str) -> TrainState:
        return TrainState.create(self.network(name), self.optimizer)

    def generation(self, name: str, workload: Workload) -> Program:
        examples = self._rows(workload)

        def write(weights, query, key):
            return generate(
                weights,
                workload.model,
                query,
                key,
                response_tokens=workload.response_tokens,
                eos_ids=(EOS,),
                pad_id=workload.pad,
                temperature=workload.temperature,
            )

        query = to_devices(self._arrays("generation", workload, examples)["query"], self.mesh)
        small = query, jax.random.key(0)
        useful = flops.useful("generation", workload, examples)
        return Program(
            name, jax.jit(write), lambda: (self.network("policy"),), small, False, tokens(examples), useful
        )

    def sft(self, name: str, rows: list[list[int]], examples: list[workloads.Example]) -> Program:
        """The step of stage sft on rows of several examples each."""
        width = self.fixed.query_tokens + self.fixed.response_tokens
        batch = workloads.segmented(self.fixed, examples, rows, width)
        targets = int(batch["targets_mask"].sum(1).max())
        step = sft.jitted_step(self.model, targets, len(rows) // self.plan.step_rows)
        useful = flops.useful("sft", self.fixed, examples)
        small = (to_devices(batch, self.mesh),)
        return Program(name, step, lambda: (self.state("policy"),), small, True, tokens(examples), useful)

    def sft_packed(self) -> Program:
        """As many posts of all lengths as fill the rows of a batch."""
        workload = dataclasses.replace(self.fixed, rows=4 * self.fixed.rows, real=True)
        sizes = toy_lengths(shapes.lengths()) if self.dry else shapes.lengths()
        examples = workloads.draw(workload, sizes, batches=1)
        width = self.fixed.query_tokens + self.fixed.response_tokens

        def rows_of(count: int) -> list[list[int]]:
            lengths = [len(example.query) + len(example.response) for example in examples[:count]]
            return workloads.pack_rows(lengths, width, range(count))

        count = max(n for n in range(1, len(examples) + 1) if len(rows_of(n)) <= self.fixed.rows)
        rows = rows_of(count)
        rows += [[]] * (self.fixed.rows - len(rows))
        return self.sft("SFT step, packed rows of real lengths", rows, examples[:count])

    def reward(self, name: str, workload: Workload) -> Program:
        examples = self._rows(workload)
        step = reward.jitted_step(self.model, workload.pad, 2 * workload.rows // self.plan.step_rows)
        small = (to_devices(self._arrays("reward", workload, examples), self.mesh),)
        useful = flops.useful("reward", workload, examples)
        count = tokens(examples) + sum(len(example.other) for example in examples)
        return Program(name, step, lambda: (self.state("value"),), small, True, count, useful)

    def setting(self, workload: Workload) -> ppo.Setting:
        options = PpoConfig(
            batch_size=workload.rows,
            epochs=workload.epochs,
            microbatches=workload.rows // self.plan.ppo_rows,
            temperature=workload.temperature,
            no_eos="none",
        )
        return ppo.Setting(self.model, options, workload.response_tokens, (EOS,), workload.pad)

    def score(self) -> Program:
        """What the four networks say of sampled responses."""
        workload, examples = self.fixed, self._rows(self.fixed)
        arrays = self._arrays("update", workload, examples)

        def read(policy, reference, value, score, query, response):
            rows, temperature = (query, response, workload.pad), workload.temperature
            logp = [response_logprobs(w, self.model, *rows, temperature)[0] for w in (policy, reference)]
            return *logp, heads.values(value, self.model, *rows), heads.score(score, self.model, *rows)

        def large() -> tuple:
            policy, value = self.network("policy"), self.network("value")
            return policy, self.network("reference"), value, self.network("reward")

        small = tuple(to_devices(arrays[name], self.mesh) for name in ("query", "response"))
        parts = (flops.useful(suite, workload, examples) for suite in ("ppo", "generation", "update"))
        whole, *others = parts
        return Program("scoring", jax.jit(read), large, small, False, tokens(examples), whole - sum(others))

    def update(self) -> Program:
        workload, examples = self.fixed, self._rows(self.fixed)
        arrays = self._arrays("update", workload, examples)
        zeros = np.zeros_like(arrays["logp"])
        unread = {"ref_logp": zeros, "rewards": zeros, "score": zeros[:, 0], "value_mask": arrays["mask"]}
        episodes = Rollout(**to_devices(arrays | unread, self.mesh))
        function = jax.jit(functools.partial(ppo.update, setting=self.setting(workload)), donate_argnums=0)
        useful = flops.useful("update", workload, examples)
        small = episodes, jax.random.key(0)

        def large() -> tuple:
            return ({name: self.state(name) for name in ("policy", "value")},)

        return Program("update", function, large, small, True, tokens(examples), useful)

    def ppo(self, name: str, workload: Workload) -> Program:
        examples, setting = self._rows(workload), self.setting(workload)
        query = to_devices(self._arrays("ppo", workload, examples)["query"], self.mesh)

        def large() -> tuple:
            state = ppo.PpoState(
                self.state("policy"), self.state("value"), jnp.float32(0.05), jax.random.key(0)
            )
            return state, self.network("reference"), self.network("reward")

        useful = flops.useful("ppo", workload, examples)
        function = ppo.jitted_iteration(setting)
        return Program(name, function, large, (query,), True, tokens(examples), useful)


def toy_lengths(sizes: np.ndarray) -> np.ndarray:
    return np.maximum(sizes // 16, 2)


def tokens(examples: list[workloads.Example]) -> int:
    """Of queries and their responses."""
    return sum(len(example.query) + len(example.response) for example in examples)


# Times ---------------------------------------------------------------------------------------


def size(part: Part) -> None:
    """Compiles and times the programs of the size that the group is named after."""
    plan = TOY if part.dry else PLANS[part.group]
    vocabulary = shapes.TOY_VOCABULARY if part.dry else shapes.PYTHIA_VOCABULARY
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    with jax.set_mesh(mesh), ThreadPoolExecutor(8) as pool:
        programs = Programs(plan, vocabulary, part.dry).all()
        compiled = {program.name: pool.submit(compile_for, program, mesh) for program in programs}
        wait(compiled.values(), timeout=max(part.left / 2, 0))
        for program in programs:
            work = functools.partial(timed, part, program, compiled[program.name])
            if part.measure(program.name, work) and program.name == "generation":
                part.measure("decoding", functools.partial(decoding, part, plan, vocabulary, program))
    if not plan.ppo_rows:
        part.note("PPO iteration", NOT_REACHED, error=TOO_LARGE)


def compile_for(program: Program, mesh: Mesh) -> tuple[jax.stages.Compiled, float]:
    """With the seconds that it took."""
    start = time.monotonic()
    with jax.set_mesh(mesh):
        lowered = program.function.lower(*jax.eval_shape(program.large), *program.small)
    return lowered.compile(), time.monotonic() - start


def timed(part: Part, program: Program, compiled: Future) -> dict[str, Any]:
    """A row: the median of the repetitions after the first one, and what follows from it."""
    executable, compile_seconds = compiled.result(timeout=max(part.left, 0))
    large, times = program.large(), []
    for _ in range(REPEATS + 1):
        start = time.monotonic()
        out = jax.block_until_ready(executable(*large, *program.small))
        times.append(time.monotonic() - start)
        large = (out[0], *large[1:]) if program.carries else large
    seconds = median(times[1:])
    return {
        "seconds": seconds,
        "least": min(times[1:]),
        "most": max(times[1:]),
        "compile_seconds": compile_seconds,
        "tokens_per_second": program.tokens / seconds,
        "flops": program.flops,
        "of_product": _share(part, "product", "flops_per_second", program.flops / seconds),
        "planned_bytes": memory(executable.memory_analysis())["peak"],
    }


def decoding(part: Part, plan: Plan, vocabulary: int, program: Program) -> dict[str, Any]:
    """Generation without its prefill: the bytes that each step must read, and how fast that was."""
    whole, prefill = (part.found(part.group, name) for name in ("generation", "prefill"))
    assert whole and prefill, "prefill was not measured"
    rows, query = program.small[0].shape
    response = TOY_RESPONSE if part.dry else 53
    net = Placed(plan.model, vocabulary, 1, 1, 1)
    _, phase = sample(net, rows, query, response, 1)
    seconds, steps = whole["seconds"] - prefill["seconds"], response - 1
    return {
        "seconds": seconds,
        "seconds_per_step": seconds / steps,
        "tokens_per_second": rows * steps / seconds,
        "least_bytes_per_step": phase.traffic / steps,
        "of_copy": _share(part, "copy", "bytes_per_second", phase.traffic / seconds),
    }


def _share(part: Part, name: str, field: str, rate: float) -> float | None:
    """Of what the card was measured to do at best; None where that was not measured."""
    best = part.found("card", name)
    return rate / best[field] if best else None


ALONE = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.93"}  # no other process needs the card
GROUPS = {"card": Group(card)} | {name: Group(size, environment=ALONE) for name in PLANS}

if __name__ == "__main__":
    sys.exit(main(sys.argv, __doc__, GROUPS))

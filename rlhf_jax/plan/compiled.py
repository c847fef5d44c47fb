"""One program of one stage, compiled for a machine: does it fit, and how fast could it be at best?"""

import math
import time
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax import inference
from rlhf_jax.config import Config, DpoConfig, ModelConfig, RewardConfig
from rlhf_jax.data import task as tasks
from rlhf_jax.mesh import make_mesh, row_shards
from rlhf_jax.model import heads, lora, params, transformer
from rlhf_jax.pipeline import ensemble, stages
from rlhf_jax.plan import flops
from rlhf_jax.plan.collectives import received_bytes
from rlhf_jax.plan.topologies import PlanError, Topology
from rlhf_jax.training.state import TrainState

TOO_LARGE = "RESOURCE_EXHAUSTED"  # how a compiler's refusal of a program that does not fit begins
BY_CUBLAS = "products by cuBLAS alone"  # what a plan says of its compiler where that failed otherwise
UTILISATIONS = (1.0, 0.5, 0.3)  # of the bound, for chip-hours
OTHERS = 4  # texts that evaluation scores, of no policy of the run: reference, title, lead, pretrained model


@dataclass
class Compiled:
    """What a compiler says of a program; bytes are those of one device. Compiled, not run."""

    program: str
    topology: str
    devices: int
    compiler: str
    mesh: dict[str, int]
    microbatches: int
    rematerialize: bool
    model_parameters: int
    parameters: int  # of the trained networks and the frozen ones
    optimizer_bytes: int  # of all devices together
    flops: float  # useful ones of a step, all devices together
    steps: int  # of the configured run
    fits: bool = False
    reason: str = ""  # why it does not fit, in the compiler's words where it refused
    memory_fraction: float = 0.0  # to set as XLA_PYTHON_CLIENT_MEM_FRACTION; 0: it fits without
    compile_seconds: float = 0.0
    memory: dict[str, int] = field(default_factory=dict)
    collectives: dict[str, float] = field(default_factory=dict)  # bytes received in a step, by kind
    bound: dict[str, float] = field(default_factory=dict)  # seconds of a step, at the least; where compiled
    chip_hours: dict[str, float] = field(default_factory=dict)  # by utilisation of the bound


def programs(config: Config) -> dict[str, list[str]]:
    """Stage → the programs that it runs, of stages that have any.

    Where no reward model is among the rewards of PPO, evaluation does not read by one.
    """
    unread = () if stages.scores_by_model(config) else ("eval.read",)
    every = {stage.name: [name for name in stage.programs if name not in unread] for stage in stages.STAGES}
    return {stage: found for stage, found in every.items() if found}


def compile_program(
    program: str, config: Config, model: ModelConfig, vocabulary: int, topology: Topology
) -> Compiled:
    """Traces, lowers and compiles `program` with the batch sizes of `config`.

    Raises ConfigError where the mesh does not take the model's tensors or the rows of a batch. A
    program that is too large is no error: the plan says so.
    """
    mesh = make_mesh(config.mesh, topology.devices)
    phases = flops.phases(program, config, model, vocabulary, mesh.shape)
    networks = _networks(program, config, model, vocabulary)
    options: Any = getattr(config, program, None)
    plan = Compiled(
        program=program,
        topology=topology.name,
        devices=mesh.size,
        compiler=topology.compiler,
        mesh=dict(mesh.shape),
        microbatches=options.microbatches if options else 1,
        rematerialize=model.rematerialize,
        model_parameters=params.count(transformer.specs(model, vocabulary)),
        parameters=sum(networks),
        optimizer_bytes=0,
        flops=sum(phase.flops for phase in phases),
        steps=steps(program, config, row_shards(mesh)),
    )
    start = time.monotonic()
    try:
        with jax.set_mesh(mesh):
            traced = stages.programs()[program](config, model, vocabulary)
            plan.optimizer_bytes = kept_by_optimizers(traced)
            compiled = _compile(traced.lower(lowering_platforms=(topology.platform,)), plan, topology)
    except jax.errors.JaxRuntimeError as error:
        words = " ".join(str(error).split())[:400]
        if TOO_LARGE not in words:
            raise PlanError(f"{program} on {topology.name}: {plan.compiler} gives up: {words}") from None
        plan.reason = words
        return plan
    finally:
        plan.compile_seconds = round(time.monotonic() - start, 1)
    plan.memory = memory(compiled.memory_analysis())
    shards = mesh.shape["fsdp"] * mesh.shape["tensor"]
    plan.memory["beside"] = (
        jnp.dtype(model.weights).itemsize * _beside(program, config, networks[0]) // shards
    )
    text = compiled.as_text()
    assert text
    plan.collectives = received_bytes(text)
    plan.reason = _excess(plan.memory, topology)
    plan.fits = not plan.reason
    if topology.chip and plan.fits and needed(plan.memory) > topology.chip.taken * topology.chip.memory:
        plan.memory_fraction = topology.chip.usable
    if topology.chip:
        plan.bound = bound(phases, plan, topology)
        hours = plan.steps * plan.bound["seconds"] * plan.devices / 3600
        plan.chip_hours = {f"{share:.0%}": hours / share for share in UTILISATIONS}
    return plan


def _compile(lowered: jax.stages.Lowered, plan: Compiled, topology: Topology) -> jax.stages.Compiled:
    """By the compiler as it is; where that fails on a GPU's product, with all products by cuBLAS.

    On a GPU the autotuner passes over kernels that cannot be compiled. Here there is none to try them on, so
    the first may be one of those; the plan then says that it was left out.
    """
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if TOO_LARGE in str(error) or topology.platform != "cuda":
            raise
    compiled = lowered.compile(compiler_options={"xla_gpu_enable_triton_gemm": False})
    plan.compiler += f", {BY_CUBLAS}"
    return compiled


def kept_by_optimizers(program: jax.stages.Traced) -> int:
    """Bytes that optimizers keep of what the program trains, without the counts of their updates."""

    def is_state(x) -> bool:
        return isinstance(x, TrainState)

    arguments, _ = program.args_info
    states = filter(is_state, jax.tree.leaves(arguments, is_leaf=is_state))
    kept = [x for state in states for x in jax.tree.leaves(state.opt_state) if x.dtype != jnp.int32]
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in kept)


def memory(analysis) -> dict[str, int]:
    """Bytes of a device: by purpose, the compiler's own `peak`, and `total`, the sum with aliases once."""
    found = {
        "arguments": analysis.argument_size_in_bytes,
        "outputs": analysis.output_size_in_bytes,
        "temporaries": analysis.temp_size_in_bytes,
        "aliased": analysis.alias_size_in_bytes,
        "code": analysis.generated_code_size_in_bytes,
    }
    total = sum(found.values()) - 2 * found["aliased"]
    return found | {"peak": analysis.peak_memory_in_bytes, "total": total}


def needed(found: dict[str, int]) -> int:
    """Bytes that a device must have: those of the program, and what stays there while it runs."""
    return found["peak"] + found["beside"]


def _excess(found: dict[str, int], topology: Topology) -> str:
    """What is too much for a device beyond what its compiler refuses; empty where all fits."""
    if not topology.chip:
        return ""
    usable = topology.chip.usable * topology.chip.memory
    if needed(found) <= usable:
        return ""
    return (
        f"{needed(found) / 2**30:.1f} GiB a device exceed the {usable / 2**30:.1f} GiB "
        f"({topology.chip.usable:.0%} of its memory) that JAX can take"
    )


def bound(phases: list[flops.Phase], plan: Compiled, topology: Topology) -> dict[str, float]:
    """Seconds that one step takes at the least, from published figures of the chip (roofline).

    A phase takes the longer of its computation, recomputation included, and its memory traffic; phases
    follow each other. All links at full speed may overlap with all of it: the bound is the longer of both.
    """
    chip = topology.chip
    assert chip
    compute = [(phase.flops + phase.recomputed) / (plan.devices * chip.flops) for phase in phases]
    traffic = [phase.traffic / chip.bandwidth for phase in phases]
    on_device = sum(max(pair) for pair in zip(compute, traffic, strict=True))
    links = sum(plan.collectives.values()) / chip.links
    seconds = max(on_device, links)
    return {"seconds": seconds, "compute": sum(compute), "memory": sum(traffic), "links": links}


def steps(program: str, config: Config, shards: int) -> int:
    """Of the configured run, evaluation in batches for so many row shards.

    Sizes of data are those that their task expects, before any filter. A batch of greedy summaries, or of
    the texts of all policies, counts as one of best-of-N.
    """
    (posts, pairs), options = tasks.find(config.data, config.seed).expected, config.eval
    seeds = {"reward": config.reward.seeds, "dpo": 1}
    if program == "sft":
        return max(1, round(config.sft.epochs * (posts // config.sft.batch_size)))
    if program == "distill":
        again = config.distill
        return again.rounds * max(1, round(again.epochs * (min(posts, again.prompts) // again.batch_size)))
    if program in seeds:
        learned: RewardConfig | DpoConfig = getattr(config, program)
        return seeds[program] * max(1, round(learned.epochs * (pairs // learned.batch_size)))
    if program == "ppo":
        return config.ppo.episodes // config.ppo.batch_size

    def batches(texts: int) -> int:
        return math.ceil(options.posts / inference.batch_size(shards, texts))

    best, greedy = batches(options.best_of), 1 + len(config.policies)
    return best + (greedy * batches(1) if program == "eval.write" else batches(OTHERS + greedy))


def _networks(program: str, config: Config, model: ModelConfig, vocabulary: int) -> list[int]:
    """Parameters of each network that a program holds, the trained ones first, and a frozen base last."""
    whole, whole_scalar = transformer.specs(model, vocabulary), heads.specs(model, vocabulary)
    policy, scalar = (params.count(lora.trained(specs, model.lora)) for specs in (whole, whole_scalar))
    value = [scalar] if config.ppo.has_value_network else []
    reward = [scalar] * len(ensemble.scoring(config))
    networks = {
        "sft": [policy],
        "reward": [scalar],
        "dpo": [policy],
        "distill": [policy],
        "ppo": [policy, *value, policy, *reward],
        "eval.write": [policy],
        "eval.read": [scalar],
    }
    return networks[program] + ([params.count(whole)] if model.lora.rank else [])


def _beside(program: str, config: Config, parameters: int) -> int:
    """Parameters that the stage keeps on the devices while the program runs, outside of its arguments.

    Reward models of earlier seeds, and in evaluation a policy beside the reward model, where there is one.
    """
    scored = stages.scores_by_model(config)
    networks = {"reward": config.reward.seeds - 1, "eval.write": int(scored), "eval.read": 1}
    return networks.get(program, 0) * parameters

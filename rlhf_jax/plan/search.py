"""Which meshes, microbatches and rematerialisation let a program fit, and which of them bounds it lowest?"""

import dataclasses
import math
from collections.abc import Iterator

from rlhf_jax.config import Config, ConfigError, MeshConfig, ModelConfig
from rlhf_jax.plan.compiled import Compiled, compile_program
from rlhf_jax.plan.topologies import Topology

MOST_TENSOR = 8  # beyond it, the parts of a head or a layer are small and links decide


def meshes(devices: int) -> Iterator[MeshConfig]:
    """All three axes in powers of two, the tensor axis up to `MOST_TENSOR`."""
    tensor = 1
    while tensor <= MOST_TENSOR and devices % tensor == 0:
        replica = 1
        while (devices // tensor) % replica == 0:
            yield MeshConfig(replica, devices // (tensor * replica), tensor)
            replica *= 2
        tensor *= 2


def search(
    program: str, config: Config, model: ModelConfig, vocabulary: int, topology: Topology
) -> Iterator[Compiled]:
    """Plans as they are compiled, those that do not fit too.

    For every mesh, activations kept and recomputed, microbatches double until the program fits, or until
    they save nothing: more of them only cost. Meshes that do not take the model or the rows are left out.
    """
    for mesh in meshes(len(topology.devices)):
        for rematerialize in (False,) if program.startswith("eval") else (False, True):
            trial = dataclasses.replace(config, mesh=mesh)
            tried = dataclasses.replace(model, rematerialize=rematerialize)
            before = math.inf
            for parts in _parts(program, config):
                if parts:
                    options = dataclasses.replace(getattr(config, program), microbatches=parts)
                    trial = dataclasses.replace(trial, **{program: options})
                try:
                    plan = compile_program(program, trial, tried, vocabulary, topology)
                except ConfigError:
                    break
                yield plan
                needed = plan.memory.get("total", 0.0)  # nothing where the compiler gave up before it told
                if plan.fits or needed > 0.99 * before:
                    break
                before = needed or before


def best_first(plans: list[Compiled]) -> list[Compiled]:
    """Those that fit, the lowest bound of a step first; without a chip's figures, the least memory first."""
    fitting = [plan for plan in plans if plan.fits]
    return sorted(fitting, key=lambda plan: (plan.bound.get("seconds", 0.0), plan.memory["total"]))


def _parts(program: str, config: Config) -> list[int]:
    """Microbatches to try; 0 stands for a program that has none."""
    if program.startswith("eval"):
        return [0]
    rows = getattr(config, program).batch_size
    return [2**i for i in range(rows.bit_length()) if rows % 2**i == 0]

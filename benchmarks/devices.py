"""Work and traffic of one device in a PPO iteration on 1 to 8 devices, read from compiled programs.

`benchmarks.growth` runs it as a process of its own, in which eight devices are simulated.
"""

import json
import math
import re

import jax

from rlhf_jax.config import Config, DataConfig, MeshConfig, ModelConfig, PpoConfig
from rlhf_jax.mesh import make_mesh
from rlhf_jax.pipeline import ppo
from rlhf_jax.plan import collectives

DEVICES = (1, 2, 4, 8)
VOCABULARY = 8192
CONFIG = Config(
    model=ModelConfig(layer_loop="unroll"),
    data=DataConfig(query_tokens=256, query_buckets=(256,), response_tokens=32),
    ppo=PpoConfig(batch_size=16, epochs=1),
)


def compiled_text(devices: int) -> str:
    with jax.set_mesh(make_mesh(MeshConfig(1, devices, 1), jax.devices()[:devices])):
        return ppo.traced(CONFIG, CONFIG.model, VOCABULARY).lower().compile().as_text()


def dot_flops(text: str) -> float:
    """Operations of all matrix products of one device in one run of the program, turns of loops included."""
    computations, entry = collectives.parse(text)
    return _dot_flops(computations, entry)


def _dot_flops(computations: dict[str, list[collectives.Instruction]], name: str) -> float:
    results = {instruction.name: instruction.result for instruction in computations[name]}
    return sum(dot_flops_of(computations, instruction, results) for instruction in computations[name])


def dot_flops_of(
    computations: dict[str, list[collectives.Instruction]],
    instruction: collectives.Instruction,
    results: dict[str, str],
) -> float:
    """Of one instruction with what it calls; `results` are the types in its computation by name."""
    total = 0.0
    if instruction.operation == "dot":
        operand = re.search(r"%([\w.-]+)", instruction.rest)
        axes = re.search(r"lhs_contracting_dims=\{([\d,]+)\}", instruction.rest)
        assert operand and axes
        left = sizes(results[operand[1]])
        contracted = math.prod(left[int(i)] for i in axes[1].split(","))
        total = 2.0 * math.prod(sizes(instruction.result)) * contracted
    if instruction.operation == "conditional":
        return max(_dot_flops(computations, called) for called in collectives.called_by(instruction))
    turns = collectives.turns(computations, instruction) if instruction.operation == "while" else 1
    for called in re.findall(r"(?:calls|to_apply|body)=%?([\w.-]+)", instruction.rest):
        total += turns * _dot_flops(computations, called)
    return total


def sizes(result: str) -> list[int]:
    """Of a type such as 'f32[8,16]{1,0}'."""
    found = re.search(r"\[([\d,]*)\]", result)
    assert found
    return [int(size) for size in found[1].split(",") if size]


def main() -> None:
    points = []
    for devices in DEVICES:
        text = compiled_text(devices)
        received = sum(collectives.received_bytes(text).values())
        points.append({"value": devices, "gflop": dot_flops(text) / 1e9, "megabytes": received / 1e6})
    print(json.dumps(points))


if __name__ == "__main__":
    main()

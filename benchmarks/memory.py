"""Bytes of memory for each parameter of a model, by settings: the table of docs/howto/memory.md.

python -m benchmarks.memory

Counted from shapes and types, without compiling anything, for the paper's model of 1.3 billion parameters.
"""

import dataclasses
import functools
import sys
from typing import Any

import jax
from absl import flags

from rlhf_jax.command_line import command, parse_flags
from rlhf_jax.config import (
    DataConfig,
    HealthConfig,
    LoraConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    PpoConfig,
)
from rlhf_jax.mesh import make_mesh
from rlhf_jax.model import heads, params, transformer
from rlhf_jax.pipeline import ppo
from rlhf_jax.recipes import PAPER_SIZES, VOCABULARY
from rlhf_jax.training import adapters
from rlhf_jax.training.state import starting, without_values

MODEL = dataclasses.replace(PAPER_SIZES["1.3b"], dtype="bfloat16")
ADAPTERS = LoraConfig(rank=16)
ROWS: list[tuple[str, dict[str, Any], str]] = [
    ("as it is", {}, "adamw"),
    ("`optimizer.name=adamw_8bit`", {}, "adamw_8bit"),
    ("`optimizer.name=adafactor`", {}, "adafactor"),
    ("`optimizer.name=muon`", {}, "muon"),
    ("`model.weights=bfloat16`", {"weights": "bfloat16"}, "adamw"),
    ("`model.weights=bfloat16` and `adamw_8bit`", {"weights": "bfloat16"}, "adamw_8bit"),
    ("`model.lora.rank=16`", {"lora": ADAPTERS}, "adamw"),
    ("with `model.lora.base=int8`", {"lora": dataclasses.replace(ADAPTERS, base="int8")}, "adamw"),
    ("with `model.lora.base=nf4`", {"lora": dataclasses.replace(ADAPTERS, base="nf4")}, "adamw"),
]


def main(argv: list[str]) -> int:
    return command(argv, lambda: run(argv))


def run(argv: list[str]) -> None:
    parse_flags(argv, flags.FlagValues())
    print("| | fine-tuning | and gradients | PPO | and gradients |\n|---|---|---|---|---|")
    for name, fields, optimizer in ROWS:
        counted = bytes_a_parameter(
            dataclasses.replace(MODEL, **fields), OptimizerConfig(name=optimizer), VOCABULARY
        )
        print(f"| {name} | {' | '.join(f'{number:.2f}' for number in counted)} |", flush=True)


def bytes_a_parameter(model: ModelConfig, optimizer: OptimizerConfig, vocabulary: int) -> list[float]:
    """What stays on one device between steps of fine-tuning, the same and gradients, and both of PPO."""
    whole = transformer.specs(model, vocabulary)
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    with jax.set_mesh(mesh):
        create = starting(optimizer, 1, HealthConfig())
        policy, scalar = (
            adapters.abstract_trained(specs, model, mesh) for specs in (whole, heads.specs(model, vocabulary))
        )
        base = adapters.abstract_base(model, vocabulary, mesh)
        of_policy, of_value = (without_values(create, network) for network in (policy, scalar))
        setting = ppo.Setting(model, PpoConfig(), DataConfig().response_tokens, (0,), vocabulary)
        frozen = jax.eval_shape(functools.partial(ppo.frozen, setting=setting), policy, scalar)
    held = [(of_policy, base), (of_policy, of_value, frozen, base)]
    gradients = [policy, (policy, scalar)]
    counted = [size for pair in zip(held, gradients, strict=True) for size in (pair[0], pair)]
    return [bytes_of(each) / params.count(whole) for each in counted]


def bytes_of(tree) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


if __name__ == "__main__":
    sys.exit(main(sys.argv))

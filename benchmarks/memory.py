"""Bytes of memory for each parameter of a model, by settings: the table of docs/howto/memory.md.

python -m benchmarks.memory

Compiled for one simulated device and not run. The model is small and its batch tiny, so that a byte of
activations weighs little beside those of weights: 8 layers of width 512, 29 million parameters.
"""

import dataclasses
import sys
from typing import Any

import jax
from absl import flags

from rlhf_jax.command_line import command, parse_flags
from rlhf_jax.config import (
    Config,
    DataConfig,
    LoraConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    PpoConfig,
    SftConfig,
)
from rlhf_jax.mesh import make_mesh
from rlhf_jax.model import params, transformer
from rlhf_jax.pipeline import ppo, sft

MODEL = ModelConfig(width=512, layers=8, heads=8, context=64, dtype="bfloat16", layer_loop="scan")
DATA = DataConfig(vocabulary=8192, query_tokens=24, query_buckets=(24,), response_tokens=8)
ADAPTERS = LoraConfig(rank=16)
INT8 = dataclasses.replace(ADAPTERS, base="int8")
ROWS: list[tuple[str, dict[str, Any], str]] = [
    ("as it is", {}, "adamw"),
    ("`optimizer.name=adamw_8bit`", {}, "adamw_8bit"),
    ("`optimizer.name=adafactor`", {}, "adafactor"),
    ("`model.weights=bfloat16`", {"weights": "bfloat16"}, "adamw"),
    ("`model.weights=bfloat16`, `optimizer.name=adamw_8bit`", {"weights": "bfloat16"}, "adamw_8bit"),
    ("`model.lora.rank=16`", {"lora": ADAPTERS}, "adamw"),
    ("`model.lora.rank=16`, `model.lora.base=int8`", {"lora": INT8}, "adamw"),
]


def main(argv: list[str]) -> int:
    return command(argv, lambda: run(argv))


def run(argv: list[str]) -> None:
    parse_flags(argv, flags.FlagValues())
    print("| | held in fine-tuning | and while gradients are there | held in PPO |\n|---|---|---|---|")
    for name, fields, optimizer in ROWS:
        model = dataclasses.replace(MODEL, **fields)
        numbers = " | ".join(f"{number:.1f}" for number in measured(model, OptimizerConfig(name=optimizer)))
        print(f"| {name} | {numbers} |", flush=True)


def measured(model: ModelConfig, optimizer: OptimizerConfig) -> tuple[float, float, float]:
    """Bytes a parameter: arguments of a step of fine-tuning, they and temporaries, and arguments of PPO's."""
    config = Config(
        mesh=MeshConfig(1, 1, 1),
        data=DATA,
        sft=SftConfig(batch_size=1, pack=False, optimizer=optimizer),
        ppo=PpoConfig(batch_size=1, optimizer=optimizer),
    )
    with jax.set_mesh(make_mesh(config.mesh, jax.devices()[:1])):
        of_sft = sft.traced(config, model, DATA.vocabulary)
        of_ppo = ppo.traced(config, model, DATA.vocabulary)
        temporaries = of_sft.lower().compile().memory_analysis().temp_size_in_bytes
    count = params.count(transformer.specs(model, DATA.vocabulary))
    return held(of_sft) / count, (held(of_sft) + temporaries) / count, held(of_ppo) / count


def held(program: jax.stages.Traced) -> int:
    """Bytes of the arguments: what stays on a device between steps."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(program.in_avals))


if __name__ == "__main__":
    sys.exit(main(sys.argv))

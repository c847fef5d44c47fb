"""Models and rows that are measured: published shapes with random weights, and lengths of real posts."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import numpy as np

from benchmarks.workloads import Workload
from rlhf_jax.config import ModelConfig, RotaryConfig
from rlhf_jax.model import heads, params, transformer

NEOX = ModelConfig(
    positions="rotary",
    rotary=RotaryConfig(0.25),
    activation="gelu",
    parallel_residual=True,
    tied_head=False,
    dtype="bfloat16",
)
PYTHIA = {
    "160M": dataclasses.replace(NEOX, width=768, layers=12, heads=12),
    "1B": dataclasses.replace(NEOX, width=2048, layers=16, heads=8),
    "2.8B": dataclasses.replace(NEOX, width=2560, layers=32, heads=32),
}
PYTHIA_VOCABULARY = 50_304
SMOLLM2 = ModelConfig(
    width=576,
    layers=30,
    heads=9,
    kv_heads=3,
    ff=1536,
    norm="rms",
    positions="rotary",
    rotary=RotaryConfig(base=100_000.0),
    activation="silu",
    gated=True,
    attention_bias=False,
    mlp_bias=False,
    dtype="bfloat16",
)
TOY = dataclasses.replace(NEOX, width=32, layers=1, heads=2)
TOY_VOCABULARY = 320
BUCKETS = (128, 256, 384, 512)  # padded lengths, the same in every version of the figures
LENGTHS = Path(__file__).with_name("lengths.json")


def lengths() -> np.ndarray:
    """Tokens [N, 2] of queries and responses of real posts, as `workloads.real_lengths` counts them."""
    return np.array(json.loads(LENGTHS.read_text(encoding="utf-8")))


def usual_bucket(sizes: np.ndarray) -> tuple[int, np.ndarray]:
    """The padded query length that most of the posts of `sizes` [N, 2] have, and the sizes of these."""
    bucket = np.searchsorted(BUCKETS, sizes[:, 0])
    most = int(np.argmax(np.bincount(bucket)))
    return BUCKETS[most], sizes[bucket == most]


def network(name: str, workload: Workload):
    """Random float32 weights: of a transformer, or with a scalar head for `value` and `reward`."""
    return _creator(name in ("value", "reward"), workload.model, workload.vocabulary)(len(name))


@functools.cache
def _creator(scalar: bool, model: ModelConfig, vocabulary: int):
    """Compiled once; the weights are a function of the seed."""
    specs = (heads if scalar else transformer).specs(model, vocabulary)
    return jax.jit(lambda seed: params.init(specs, jax.random.key(seed)))

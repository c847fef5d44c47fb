"""Frozen matrices in eight bits: what the base of adapters may be held in.

The matrices of the layers alone are quantized; embeddings, norms and biases stay as they are.
model/products.py makes a matrix whole where it multiplies by it, so that of a loop over layers one layer is
whole at a time. Nothing that is quantized is trained.
"""

from typing import Any

import jax.numpy as jnp
from flax import struct
from jax.typing import DTypeLike
from jaxtyping import Array

from rlhf_jax.model.lora import SUMMED


class Int8(struct.PyTreeNode):
    """W ≈ q · s of a matrix [*in, *out]; in a stack of layers, with their axis in front.

    s is the largest |w| of an output channel over 127, and q = round(w / s): off by s / 2 at most (Dettmers
    et al., 2022, without what they do for outliers among the activations).
    """

    q: Any  # int8 [*in, *out], −127 … 127
    scale: Any  # float32 [1 for each of *in, *out]

    @classmethod
    def of(cls, stack: Array, inputs: int) -> "Int8":
        """Of a stack [L, *in, *out] with so many axes of inputs."""
        largest = jnp.abs(stack).max(axis=tuple(range(1, 1 + inputs)), keepdims=True).astype(jnp.float32)
        scale = jnp.where(largest > 0, largest, 1.0) / 127
        return cls(jnp.round(stack / scale).astype(jnp.int8), scale)

    def whole(self, dtype: DTypeLike) -> Array:
        return (self.q.astype(jnp.float32) * self.scale).astype(dtype)


FORMATS = {"int8": Int8}
Quantized = Int8


def hold(name: str, stack: Array, kind: str) -> Array | Quantized:
    """What is held of a transformer's leaf such as "layers.mlp.up", in one of FORMATS or as "whole"."""
    matrix = name.rpartition(".")[2]
    if kind == "whole" or not name.startswith("layers.") or matrix not in SUMMED:
        return stack
    return FORMATS[kind].of(stack, SUMMED[matrix])


def is_quantized(x: Any) -> bool:
    return isinstance(x, Quantized)

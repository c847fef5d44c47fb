"""Frozen matrices in eight bits or in four: what the base of adapters may be held in.

The matrices of the layers alone are quantized; embeddings, norms and biases stay as they are.
model/products.py makes a matrix whole where it multiplies by it, so that of a loop over layers one layer is
whole at a time. Nothing that is quantized is trained.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8

from rlhf_jax.config import ConfigError
from rlhf_jax.mesh import layout
from rlhf_jax.model.lora import SUMMED

BLOCK = 64  # weights of NF4 that share a scale, as in the paper; fewer where they do not divide a row
# Quantiles of a normal distribution over the largest of them; 0 and ±1 are among them (QLoRA, appendix E).
NORMAL_FLOATS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


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


class Nf4(struct.PyTreeNode):
    """Four bits a weight (Dettmers et al., 2023, "QLoRA", whose scales are quantized once more).

    A weight is the nearest of 16 numbers, which normally distributed weights take equally often, times the
    largest |w| of its block: neighbours along the last axis.
    """

    codes: Any  # uint8 [..., N / 2], two weights a byte, the first in the lower bits
    largest: Any  # float32 [..., N / block]

    @classmethod
    def of(cls, stack: Array, inputs: int) -> "Nf4":
        """Of a stack [L, ..., N]. Raises ConfigError where the mesh would split a block."""
        del inputs
        block = math.gcd(stack.shape[-1], BLOCK)
        *others, axis = _axes(stack)
        shards = jax.sharding.get_abstract_mesh().shape[axis] if axis else 1
        if block % 2 or stack.shape[-1] // block % shards:
            raise ConfigError(
                f"model.lora.base: nf4 holds blocks of {block} weights, and mesh.{axis}={shards} does not "
                f"divide the {stack.shape[-1] // block} of a row of this model: take int8, or another mesh"
            )
        blocks = _reshaped(stack.astype(jnp.float32), (-1, block), *others, axis, None)
        largest = jnp.abs(blocks).max(axis=-1)
        share = blocks / jnp.where(largest > 0, largest, 1.0)[..., None]
        middles = [(low + high) / 2 for low, high in zip(NORMAL_FLOATS, NORMAL_FLOATS[1:], strict=False)]
        code = jnp.zeros_like(share, jnp.uint8)
        for middle in middles:
            code += (share > middle).astype(jnp.uint8)
        pairs = _reshaped(code, (-1, 2), *others, axis, None, given=2)
        return cls(pairs[..., 0] | pairs[..., 1] << 4, largest)

    def whole(self, dtype: DTypeLike) -> Array:
        *others, axis = _axes(self.codes)
        code = jnp.stack([self.codes & 15, self.codes >> 4], axis=-1)
        block = 2 * self.codes.shape[-1] // self.largest.shape[-1]
        code = _reshaped(code, (-1, block), *others, axis, None, given=2)
        return _reshaped(_normal_float(code) * self.largest[..., None], (-1,), *others, axis, given=2).astype(
            dtype
        )


def _normal_float(code: UInt8[Array, "*shape"]) -> Float[Array, "*shape"]:
    """By comparing: a look-up of each would be slow."""
    value = jnp.full_like(code, NORMAL_FLOATS[0], jnp.float32)
    for i, number in enumerate(NORMAL_FLOATS[1:], 1):
        value = jnp.where(code == i, number, value)
    return value


def _axes(x: Array) -> tuple[str | None, ...]:
    """By which axes of the mesh each of its own is split."""
    spec = () if layout() is None else jax.typeof(x).sharding.spec
    return (*spec, *[None] * (x.ndim - len(spec)))


def _reshaped(x: Array, last: tuple[int, ...], *axes: str | None, given: int = 1) -> Array:
    """x with other axes in the place of its last `given` ones, split by these axes of the mesh."""
    return x.reshape(*x.shape[:-given], *last, out_sharding=layout(*axes))


FORMATS: dict[str, type[Int8 | Nf4]] = {"int8": Int8, "nf4": Nf4}
Quantized = Int8 | Nf4


def hold(name: str, stack: Array, kind: str) -> Array | Quantized:
    """What is held of a transformer's leaf such as "layers.mlp.up", in one of FORMATS or as "whole"."""
    matrix = name.rpartition(".")[2]
    if kind == "whole" or not name.startswith("layers.") or matrix not in SUMMED:
        return stack
    return FORMATS[kind].of(stack, SUMMED[matrix])


def is_quantized(x: Any) -> bool:
    return isinstance(x, Quantized)

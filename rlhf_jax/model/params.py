"""Declaring parameters: shape, layout and initial value of a tensor stand in one place.

A model is described by a pytree of `ParamSpec`; everything else (values, abstract arrays,
shardings, counts) is derived from it.
"""

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from rlhf_jax.config import ConfigError
from rlhf_jax.mesh import layout

Initializer = Callable[[jax.Array, tuple[int, ...], P | None], jax.Array]


@dataclass(frozen=True)
class ParamSpec:
    """One tensor: its shape, how the mesh splits it, and its initial values."""

    shape: tuple[int, ...]
    partition: P
    init: Initializer


def normal(std: float) -> Initializer:
    def draw(key, shape, out_sharding):
        return std * jax.random.normal(key, shape, jnp.float32, out_sharding=out_sharding)

    return draw


def constant(value: float) -> Initializer:
    def fill(key, shape, out_sharding):
        del key
        return jnp.full(shape, value, jnp.float32, out_sharding=out_sharding)

    return fill


def _is_spec(x) -> bool:
    return isinstance(x, ParamSpec)


def init(specs, key: jax.Array):
    """Float32 values. A tensor's numbers depend on `key` and its name, not on its neighbours."""

    def draw(path, spec: ParamSpec):
        name = jax.tree_util.keystr(path)
        own_key = jax.random.fold_in(key, zlib.crc32(name.encode()))
        return spec.init(own_key, spec.shape, layout(*spec.partition))

    return jax.tree_util.tree_map_with_path(draw, specs, is_leaf=_is_spec)


def abstract(specs, mesh: Mesh, dtype: DTypeLike = jnp.float32):
    """Shapes and shardings without values: what checkpoints restore into.

    Raises ConfigError where a tensor does not divide over the mesh.
    """

    def describe(path, spec: ParamSpec):
        for size, axes in zip(spec.shape, spec.partition, strict=False):
            shards = mesh.shape[axes] if axes else 1
            if size % shards:
                name = jax.tree_util.keystr(path, simple=True, separator=".")
                raise ConfigError(f"mesh.{axes}: {size} of {name} {spec.shape} is not divisible by {shards}")
        return jax.ShapeDtypeStruct(spec.shape, dtype, sharding=NamedSharding(mesh, spec.partition))

    return jax.tree_util.tree_map_with_path(describe, specs, is_leaf=_is_spec)


def count(specs) -> int:
    """Number of parameters."""
    return sum(math.prod(spec.shape) for spec in jax.tree.leaves(specs, is_leaf=_is_spec))


def stack(specs, layers: int):
    """The specs of `layers` equal layers, stacked on a new leading axis that is never split."""

    def widen(spec: ParamSpec):
        return ParamSpec((layers, *spec.shape), P(None, *spec.partition), spec.init)

    return jax.tree.map(widen, specs, is_leaf=_is_spec)

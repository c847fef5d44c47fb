"""From layer to layer: by a loop, which is compiled as one of its steps, or one by one.

Kinds of layers repeat by a period (Gemma 2: local, global, local, …), and a step of the loop is one period.
What whole periods leave over follows one by one. On a CPU, where a loop is slower, all layers do.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rlhf_jax.config import ModelConfig
from rlhf_jax.model.products import unrolled


class Layers(NamedTuple):
    """What each layer has of its own: its weights, or its cache."""

    looped: tuple  # for each layer of a period, stacked over the periods
    single: list  # for each layer after the loop


def split_layers(stacked, config: ModelConfig) -> Layers:
    """Of a tree whose leaves have an axis of all layers in front."""
    period = len(config.kinds)
    in_loop = 0 if unrolled(config) else config.layers // period * period
    if in_loop and period == 1:  # the stack as it is
        return Layers((stacked,), [])
    places = range(min(period, in_loop))
    looped = tuple(jax.tree.map(lambda x, i=i: x[i:in_loop:period], stacked) for i in places)
    leaves, structure = jax.tree.flatten(stacked)
    single = zip(*(jnp.unstack(x[in_loop:]) for x in leaves), strict=True)
    return Layers(looped, [jax.tree.unflatten(structure, layer) for layer in single])


def all_positions(x: Array) -> Array:
    """`select` where the output of a layer is needed whole."""
    return x


def through_layers(step, x, layers: Layers, config: ModelConfig, caches=(), select=all_positions):
    """The output of the last layer where `select` takes it out of [B, T, …], and the layers' new cache.

    `step(w, x, caches, kind, select) -> (x, cache)` is one layer, with its own of each of `caches`, which are
    `Layers`. Only a last layer outside of the loop is told to compute no more than is selected.
    """

    def one_period(x, parts):
        made = []
        for kind, (w, *own) in zip(config.kinds, zip(*parts, strict=True), strict=True):
            x, cache = step(w, x, own, kind, all_positions)
            made.append(cache)
        return x, tuple(made)

    looped, single = (), []
    if layers.looped:
        x, looped = jax.lax.scan(one_period, x, tuple(part.looped for part in (layers, *caches)))
    for i, (w, *own) in enumerate(zip(*(part.single for part in (layers, *caches)), strict=True)):
        is_last = i == len(layers.single) - 1
        x, cache = step(w, x, own, config.kinds[i % len(config.kinds)], select if is_last else all_positions)
        single.append(cache)
    return x if single else select(x), Layers(looped, single)

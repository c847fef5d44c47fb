"""Adam with moments of a byte each: Dettmers et al. (2022), "8-bit Optimizers via Block-wise Quantization".

A byte is one of 256 numbers between −1 and 1, or between 0 and 1, that lie the closer the smaller they are,
so that entries of very different sizes are kept. They are shares of the largest entry of their block. Here a
block is a row, the last axis of an array: its largest entry is found however the mesh splits the row, and
nothing is gathered.

One departure: of the second moment the root is kept. Squares cover twice the decades, and where they became
0 an update would be divided by ε alone.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int

from rlhf_jax.training.layerwise import layer_by_layer

SMALL = 4096  # entries; an array with fewer keeps float32 moments, as in bitsandbytes


class Rows(struct.PyTreeNode):
    """Numbers [..., N], a byte each."""

    codes: Any  # uint8 [..., N]: of which of the 256 numbers
    largest: Any  # float32 [..., 1]: what they are shares of


def is_stored(x: Any) -> bool:
    return isinstance(x, Rows)


class Adam8bitState(struct.PyTreeNode):
    """Each moment as the parameters: `Rows`, or float32 of a small array."""

    count: Int[Array, ""]  # updates made
    mu: Any  # mean of gradients
    root_nu: Any  # root of the mean of their squares


def scale_by_adam_8bit(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """`optax.scale_by_adam`, with moments of 8 bits between updates; an update is computed in float32."""

    def init(params) -> Adam8bitState:
        def zeros(signed):
            def of_one(x):
                zero = jnp.zeros_like(x, jnp.float32)
                return zero if x.size < SMALL else stored(zero, signed)

            return jax.tree.map(of_one, params)

        return Adam8bitState(jnp.zeros((), jnp.int32), zeros(signed=True), zeros(signed=False))

    def update(gradients, state: Adam8bitState, params=None):
        del params
        count = optax.safe_increment(state.count)

        def of_layer(i, given, mu, root_nu):
            del i
            gradient = given.astype(jnp.float32)
            mean = b1 * read(mu, signed=True) + (1 - b1) * gradient
            square = b2 * jnp.square(read(root_nu, signed=False)) + (1 - b2) * jnp.square(gradient)
            step = mean / (1 - b1**count) / (jnp.sqrt(square / (1 - b2**count)) + eps)
            step, root = step.astype(given.dtype), jnp.sqrt(square)
            if not is_stored(mu):
                return step, mean, root
            return step, stored(mean, signed=True), stored(root, signed=False)

        leaves, structure = jax.tree.flatten(gradients)
        moments = (jax.tree.leaves(x, is_leaf=is_stored) for x in (state.mu, state.root_nu))
        made = (layer_by_layer(of_layer, *each) for each in zip(leaves, *moments, strict=True))
        steps, mu, root_nu = (jax.tree.unflatten(structure, each) for each in zip(*made, strict=True))
        return steps, Adam8bitState(count, mu, root_nu)

    return optax.GradientTransformation(init, update)


def stored(x: Float[Array, "*rows N"], signed: bool) -> Rows:
    """Each entry as a number, off by half a part of its decade at most.

    Decade i = 0 … 6 are the shares in (0.1, 1] · 10^(i − 6). It is cut into 2ⁱ equal parts, or twice as many
    where no byte is spent on signs, whose middles are its numbers: the larger they are, the denser they lie.
    Number 0 is 0, and the last one 1. The byte of a negative number k is 128 + k, and −1 is not among them.
    """
    largest = jnp.abs(x).max(axis=-1, keepdims=True)
    share = jnp.abs(x) / jnp.where(largest > 0, largest, 1.0)
    number = jnp.zeros_like(share)
    for i, first, parts in _decades(signed):
        part = jnp.floor((share * 10.0 ** (6 - i) - 0.1) / 0.9 * parts)
        number = jnp.where(share > 10.0 ** (i - 7), first + jnp.clip(part, 0, parts - 1), number)
    nearer_to_one = share > 1 - 0.9 / parts / 4  # than to the last middle
    number = jnp.where(nearer_to_one, first + parts, number)
    if signed:
        number = jnp.where((x < 0) & (number > 0), 128 + jnp.minimum(number, 127), number)
    return Rows(number.astype(jnp.uint8), largest)


def read(moment: Any, signed: bool) -> Float[Array, "*rows N"]:
    """What is stored, in float32; other arrays as they are."""
    if not is_stored(moment):
        return moment
    code = moment.codes.astype(jnp.float32)
    negative = code > 128 if signed else jnp.zeros_like(code, bool)
    number = jnp.where(negative, code - 128, code)
    share = jnp.zeros_like(number)
    for i, first, parts in _decades(signed):
        middle = (0.1 + 0.9 * (number - first + 0.5) / parts) * 10.0 ** (i - 6)
        share = jnp.where(number >= first, middle, share)
    share = jnp.where(number == first + parts, 1.0, share)
    return jnp.where(negative, -share, share) * moment.largest


def _decades(signed: bool) -> Iterator[tuple[int, int, int]]:
    """(i, the first of its numbers, how many they are)."""
    first = 1
    for i in range(7):
        parts = 2**i if signed else 2 * 2**i
        yield i, first, parts
        first += parts

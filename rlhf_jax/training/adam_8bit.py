"""Adam whose two moments take a byte each (Dettmers et al., 2022, "8-bit Optimizers via Block-wise Quantization").

A byte is one of 256 numbers from −1 to 1, or from 0 to 1, that lie the closer the smaller they are: so large
and small entries are both kept to a few percent. They are shares of the largest entry of their block. Here a
block is a row, the last axis of an array: its largest entry can be found wherever the row is split over the
mesh, and nothing is gathered.

One departure: of the second moment the root is kept. Squares cover twice the decades, and those that a byte
cannot tell from 0 would leave an update divided by ε alone.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Float, Int

SMALL = 4096  # entries; smaller arrays keep float32 moments, as in bitsandbytes


class Rows(struct.PyTreeNode):
    """Numbers [..., N], one byte each."""

    codes: Any  # uint8 [..., N]: which of the 256 numbers
    largest: Any  # float32 [..., 1]: by what they are multiplied


class Adam8bitState(NamedTuple):
    """Each moment as the parameters: `Rows`, or float32 of a small array."""

    count: Int[Array, ""]  # updates made
    mu: Any  # mean of gradients
    root_nu: Any  # root of the mean of their squares


def scale_by_adam_8bit(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """`optax.scale_by_adam`, with moments in 8 bits between updates; an update itself is computed in float32."""

    def init(params) -> Adam8bitState:
        zeros = optax.tree.zeros_like(params, dtype=jnp.float32)
        moments = (jax.tree.map(lambda x, kind=kind: store(x, kind), zeros) for kind in (SIGNED, UNSIGNED))
        return Adam8bitState(jnp.zeros((), jnp.int32), *moments)

    def update(gradients, state: Adam8bitState, params=None):
        del params
        count = optax.safe_increment(state.count)

        def of_one(gradient, mu, root_nu):
            mu = b1 * read(mu, SIGNED) + (1 - b1) * gradient
            nu = b2 * jnp.square(read(root_nu, UNSIGNED)) + (1 - b2) * jnp.square(gradient)
            step = mu / (1 - b1**count) / (jnp.sqrt(nu / (1 - b2**count)) + eps)
            return step, store(mu, SIGNED), store(jnp.sqrt(nu), UNSIGNED)

        made = jax.tree.map(of_one, gradients, state.mu, state.root_nu)
        steps, mu, root_nu = jax.tree.transpose(jax.tree.structure(gradients), jax.tree.structure((0,) * 3), made)
        return steps, Adam8bitState(count, mu, root_nu)

    return optax.GradientTransformation(init, update)


def dynamic_numbers(signed: bool) -> Float[np.ndarray, "256"]:
    """The numbers that a byte may stand for, in order: 0, 1, and in each decade down to 10⁻⁷ a half as many.

    Within a decade they lie evenly: the middles of 2ⁱ equal parts of [0.1, 1] · 10^(i − 6), i = 0 … 6, with
    both signs; without signs twice as many.
    """
    decades = []
    for i in range(7):
        edges = np.linspace(0.1, 1, 2**i * (1 if signed else 2) + 1) * 10.0 ** (i - 6)
        decades.append((edges[:-1] + edges[1:]) / 2)
    positive = np.concatenate(decades)
    return np.sort(np.concatenate([-positive if signed else [], [0.0], positive, [1.0]])).astype(np.float32)


SIGNED, UNSIGNED = dynamic_numbers(signed=True), dynamic_numbers(signed=False)


def store(x: Float[Array, "*rows N"], numbers: Float[np.ndarray, "256"]) -> Rows | Float[Array, "*rows N"]:
    """Each entry as the nearest of `numbers`, times the largest of its row; a small array stays as it is."""
    if x.size < SMALL:
        return x
    largest = jnp.abs(x).max(axis=-1, keepdims=True)
    share = x / jnp.where(largest > 0, largest, 1.0)
    middles = jnp.asarray((numbers[:-1] + numbers[1:]) / 2)
    code = jnp.zeros_like(share, jnp.uint8)
    for bit in (128, 64, 32, 16, 8, 4, 2, 1):  # how many of the middles are smaller, by bisection
        code += jnp.where(share > _look_up(middles, code + (bit - 1)), jnp.uint8(bit), jnp.uint8(0))
    return Rows(code, largest)


def read(stored: Rows | Float[Array, "*rows N"], numbers: Float[np.ndarray, "256"]) -> Float[Array, "*rows N"]:
    if not isinstance(stored, Rows):
        return stored
    return _look_up(jnp.asarray(numbers), stored.codes) * stored.largest


def _look_up(table: Float[Array, "M"], index: Int[Array, "*rows N"]) -> Float[Array, "*rows N"]:
    """Where the indices are; the table is everywhere."""
    split = None if jax.sharding.get_abstract_mesh().empty else jax.typeof(index).sharding
    return table.at[index].get(out_sharding=split, mode="promise_in_bounds")

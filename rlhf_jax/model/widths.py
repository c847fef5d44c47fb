"""Computing responses to the longest of them, and not to their limit, within one compiled program."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from rlhf_jax.data.widths import halves

SHORTEST = 12  # slots; fewer save less than a branch of the program costs
Result = TypeVar("Result")


def to_longest(compute: Callable[[int], Result], slots: Bool[Array, "*rows R"]) -> Result:
    """`compute(width)` for the least of `halves(R)` that holds the slots of every row, SHORTEST at least.

    The program has a branch for every width, of which it runs one: results must have the same shapes.
    Differentiate within `compute`: the gradient of a choice keeps what every branch would have kept.
    """
    *shorter, limit = halves(slots.shape[-1])
    widths = [*(width for width in shorter if width >= SHORTEST), limit]
    if len(widths) == 1:
        return compute(widths[0])
    longest = jnp.max(jnp.sum(slots, axis=-1))
    shortest = jnp.sum(longest > jnp.array(widths))
    return jax.lax.switch(shortest, [partial(compute, width) for width in widths])

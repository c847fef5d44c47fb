"""Computing responses to the longest of them, and not to their limit, within one compiled program."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

SHORTEST = 12  # slots; fewer save less than a branch of the program costs
WORTH = 0.1  # share of the tokens, prompts included, that a branch saves at least
Result = TypeVar("Result")


def to_longest(
    compute: Callable[[int], Result], query: Int[Array, "P Q"], slots: Bool[Array, "B R"]
) -> Result:
    """`compute(width)` for the least of `widths` that holds the slots of every row.

    The program has a branch for every width, of which it runs one: results must have the same shapes.
    Differentiate within `compute`: the gradient of a choice keeps what every branch would have kept.
    """
    rows, limit = slots.shape
    choices = widths(limit, query.size / rows)
    if len(choices) == 1:
        return compute(limit)
    longest = jnp.max(jnp.sum(slots, axis=1))
    shorter = jnp.sum(longest > jnp.array(choices))
    return jax.lax.switch(shorter, [partial(compute, width) for width in choices])


def widths(limit: int, beside: float) -> list[int]:
    """The limit, before it its half and its quarter, each if it is worth it with so many tokens beside."""
    found = [limit]
    for width in (limit // 2, limit // 4):
        if width < SHORTEST or found[0] - width < WORTH * (found[0] + beside):
            break
        found.insert(0, width)
    return found

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.model.widths import to_longest


@pytest.mark.parametrize(
    ("limit", "longest", "width"),
    [(53, 13, 13), (53, 14, 26), (53, 26, 26), (53, 27, 53), (24, 3, 12), (23, 3, 23)],
)
def test_rows_are_computed_to_the_half_or_quarter_that_holds_the_longest(limit, longest, width):
    lengths = np.array([1, longest, 2])
    slots = np.arange(limit) < lengths[:, None]
    assert jax.jit(lambda slots: to_longest(jnp.int32, slots))(slots) == width

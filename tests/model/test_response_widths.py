import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.model.response_widths import to_longest, widths


@pytest.mark.parametrize(
    ("limit", "longest", "width"),
    [(53, 13, 13), (53, 14, 26), (53, 26, 26), (53, 27, 53), (24, 3, 12), (23, 3, 23)],
)
def test_rows_are_computed_to_the_half_or_quarter_that_holds_the_longest(limit, longest, width):
    query, lengths = np.zeros((3, 5)), np.array([1, longest, 2])
    slots = np.arange(limit) < lengths[:, None]
    assert jax.jit(lambda slots: to_longest(jnp.int32, query, slots))(slots) == width


@pytest.mark.parametrize(
    ("beside", "found"), [(48, [13, 26, 53]), (128, [26, 53]), (217, [26, 53]), (218, [53]), (512, [53])]
)
def test_beside_a_long_prompt_no_branch_is_worth_it(beside, found):
    """27 slots fewer are a tenth of 53 + 217; 13 fewer are a tenth of 26 + 104."""
    assert widths(53, beside) == found

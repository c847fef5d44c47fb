import itertools

import numpy as np
import pytest

from rlhf_jax.data.widths import WORTH, fitting, rounded


def tokens(lengths, widths):
    """Of all texts, each padded to the shortest width that holds it."""
    return sum(min(width for width in widths if width >= length) for length in lengths)


def test_widths_have_steps_of_eight_and_then_four_to_an_octave():
    every = sorted({rounded(length) for length in range(1, 513)})
    assert every == [*range(8, 65, 8), 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512]
    assert all(length <= rounded(length) < length + max(8, length / 4 + 1) for length in range(1, 513))


def test_widths_by_hand():
    """Ten texts of 16 tokens and two of 60: two widths compute 288 tokens, one 768."""
    assert fitting([16] * 10 + [60, 57], 512) == (16, 64)
    assert fitting([16] * 10 + [60, 57], 512, most=1) == (64,)
    assert fitting([16] * 10 + [60, 57], 60) == (16, 60)
    assert fitting([512] * 3, 512) == (512,)
    assert fitting([], 512) == (512,)


@pytest.mark.parametrize("most", [2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_no_other_widths_pad_less(most, seed):
    lengths = np.random.default_rng(seed).integers(1, 130, 40)
    widths = fitting(lengths, 512, most)
    *shorter, longest = sorted({rounded(int(length)) for length in lengths})
    others = [(*some, longest) for some in itertools.combinations(shorter, len(widths) - 1)]
    assert tokens(lengths, widths) == min(tokens(lengths, other) for other in others)


def test_another_width_saves_its_share():
    lengths = np.random.default_rng(0).integers(1, 500, 300)
    found = [tokens(lengths, fitting(lengths, 512, most)) for most in range(1, 5)]
    assert all(more < (1 - WORTH) * fewer for fewer, more in itertools.pairwise(found))
    nearly_equal = [497] * 50 + [440] * 5  # 448 for five of 55: 0.1% of the tokens
    assert fitting(nearly_equal, 512) == (512,)

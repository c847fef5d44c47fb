"""The lengths that texts are padded to: few, as each is compiled once, and near the texts, as padding costs.

Lengths of prompts are known before anything is compiled, and widths are chosen to fit them. Those of
sampled responses are not, and get the halves of their limit.
"""

from collections.abc import Sequence

import numpy as np

STEP = 8  # tokens, between the shortest widths
MOST = 4  # widths of prompts
WORTH = 0.05  # share of the padded tokens that one more width must save


def rounded(length: int) -> int:
    """The next of 8, 16, 24, … 64, 80, … 128, 160, …: up to 64 in steps of 8, then four to an octave."""
    step = max(STEP, 2 ** ((length - 1).bit_length() - 3))
    return -(-length // step) * step


def fitting(lengths: Sequence[int], limit: int, most: int = MOST) -> tuple[int, ...]:
    """Widths for texts of these lengths, all at most `limit`: those that pad the least of all so many.

    Every width is one of `rounded`, or the limit, as the only one is where there are no texts. There is one
    more wherever that saves WORTH of the tokens, up to `most`.
    """
    if not len(lengths):
        return (limit,)
    widths, of_text = np.unique([min(rounded(int(length)), limit) for length in lengths], return_inverse=True)
    texts = np.concatenate([[0], np.cumsum(np.bincount(of_text))])  # that the first so many widths hold
    # between[i, j]: tokens of the texts beyond width i − 1 that width j holds, padded to it.
    between = np.where(np.tri(len(widths), dtype=bool).T, widths * (texts[1:] - texts[:-1, None]), np.inf)
    least, chosen = between[0], [(int(width),) for width in widths]  # tokens and widths up to each width
    for _ in range(min(most, len(widths)) - 1):
        totals = least[:-1, None] + between[1:]
        last = totals.argmin(axis=0)
        more = totals.min(axis=0)
        if more[-1] > (1 - WORTH) * least[-1]:
            break
        chosen = [(*chosen[i], int(width)) for i, width in zip(last, widths, strict=True)]
        least = more
    return chosen[-1]


def halves(limit: int) -> tuple[int, int, int]:
    """A quarter of the limit, half of it and the limit."""
    return limit // 4, limit // 2, limit

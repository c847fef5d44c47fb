"""How much of a summary is copied from its post."""

import re
from collections import defaultdict
from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import pairwise


def copying(summary: str, post: str) -> float:
    """Longest common subsequence of bigrams with the post, over the bigrams of the summary: 0 to 1.

    The measure of the paper's section on extractiveness. Words are lower-cased runs of letters and
    digits; a summary of fewer than two words copies nothing.
    """
    ours, theirs = (list(pairwise(words(text))) for text in (summary, post))
    return common_subsequence(ours, theirs) / len(ours) if ours else 0.0


def longest_run(summary: str, post: str) -> int:
    """Words of the longest run of the summary that stands in the post word by word."""
    ours, theirs = words(summary), words(post)
    return SequenceMatcher(None, ours, theirs, autojunk=False).find_longest_match().size


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def common_subsequence(a: Sequence, b: Sequence) -> int:
    """Length of the longest common subsequence of `a` and `b`.

    A column of the usual table grows by 0 or 1 a row, so one integer holds it, with a 0 bit at each
    place of `a` where it grows (Hyyrö 2004, "Bit-parallel LCS-length computation revisited").
    """
    places: defaultdict = defaultdict(int)
    for i, item in enumerate(a):
        places[item] |= 1 << i
    full = column = (1 << len(a)) - 1
    for item in b:
        matches = column & places[item]
        column = (column + matches) | (column - matches)
    return (~column & full).bit_count()

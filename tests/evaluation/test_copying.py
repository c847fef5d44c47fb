import random

import pytest

from rlhf_jax.evaluation.copying import common_subsequence, copying, longest_run


@pytest.mark.parametrize(
    ("summary", "share"),
    [
        ("My boss fired me!", 1.0),  # verbatim, but for case and punctuation
        ("my boss fired kim", 2 / 3),  # (my boss) and (boss fired) of three
        ("fired boss my", 0.0),  # the words, but no bigram
        ("my boss at work", 2 / 3),  # a subsequence skips: (my boss), (at work), but not (boss at)
        ("at work my boss", 1 / 3),  # and keeps the order: (my boss) comes first in the post
        ("boss", 0.0),
        ("", 0.0),
    ],
)
def test_hand_counted_shares(summary, share):
    assert copying(summary, "my boss fired me at work") == pytest.approx(share)


def longest(a, b):
    if not a or not b:
        return 0
    if a[0] == b[0]:
        return 1 + longest(a[1:], b[1:])
    return max(longest(a[1:], b), longest(a, b[1:]))


def test_agrees_with_the_definition_by_recursion():
    generator = random.Random(0)
    for _ in range(200):
        a, b = ("".join(generator.choices("xyz", k=generator.randrange(8))) for _ in "ab")
        assert common_subsequence(a, b) == longest(a, b), (a, b)


def test_the_longest_run_stands_in_the_post_word_by_word():
    post = "My boss fired me at work, and me at home"
    assert longest_run("so my boss fired kim at work", post) == 3
    assert longest_run("fired me at home", post) == 3  # "me at home"
    assert longest_run("", post) == longest_run("nobody knows", post) == 0

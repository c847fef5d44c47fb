"""Minimal pairs: the false statement is false in one thing, and neither its words nor its form tell."""

import re
from collections import defaultdict

import numpy as np
import pytest

from rlhf_jax.data.mini import posts as mini
from rlhf_jax.data.mini.changes import changes
from rlhf_jax.data.mini.errors import errors
from rlhf_jax.data.mini.form import form
from rlhf_jax.data.mini.judge import judge
from rlhf_jax.data.mini.world import CHANGES, DEEDS
from rlhf_jax.data.records import Post

POSTS = mini.posts(0, "test", 400)
NAMES = {other: deed for deed, other in DEEDS.items()}


@pytest.fixture(scope="module")
def pairs():
    rng, found = np.random.default_rng(0), defaultdict(list)
    for post in POSTS:
        for kind, (true, false) in changes(post, rng).items():
            found[kind].append((post, true, false))
    return found


@pytest.mark.parametrize("kind", [*CHANGES, "question"])
def test_one_thing_is_false_and_the_judge_says_so(pairs, kind):
    assert len(pairs[kind]) >= 100
    for post, true, false in pairs[kind]:
        assert judge(post, true).overall > judge(post, false).overall
        assert errors(post, true) == frozenset()
        assert errors(post, false) == {kind}


@pytest.mark.parametrize("kind", [*CHANGES, "question"])
def test_no_word_and_no_form_tells_which_is_false(pairs, kind):
    """Both deny or both do not, but where this is the change: there the true one denies as often."""
    for post, true, false in pairs[kind]:
        assert form(true).replace("never ", "") == form(false).replace("never ", "")
        if kind != "denied":
            assert form(true) == form(false)
            assert words(false) - words(true) <= words(post.text)
    if kind == "denied":
        assert 0.42 < np.mean(["never" in true for _, true, _ in pairs[kind]]) < 0.58


def words(text):
    """A deed by its first word, whichever stands there."""
    return {NAMES.get(word, word) for word in re.findall(r"\w+", text)}


def test_a_text_that_tells_no_story_has_nothing_to_change():
    assert changes(Post("1", "drama", "", "my boss fired me"), np.random.default_rng(0)) == {}

import numpy as np
import pytest

from rlhf_jax.config import DataConfig
from rlhf_jax.data.mini import posts as mini
from rlhf_jax.data.mini.judge import ideal, judge
from rlhf_jax.data.mini.world import CHANGES
from rlhf_jax.data.records import Post
from rlhf_jax.data.tasks.mini import Mini, rate
from rlhf_jax.data.tasks.tldr import Tldr
from rlhf_jax.evaluation.alterations import WORSE, better, changed, shortened, swapped_roles, worse
from rlhf_jax.evaluation.judges import gaps

RNG = np.random.default_rng(0)
POSTS = mini.posts(0, "test", 60)


@pytest.mark.parametrize(
    ("text", "swapped"),
    [
        ("adam hit ben at work. what now", "ben hit adam at work. what now"),
        ("ben wept because he was never hit by cora.", "ben wept because cora was never hit by him."),
        ("adam came. he hit her and ben aided adam.", "adam came. she hit him and adam aided ben."),
    ],
)
def test_roles_of_facts_are_exchanged_and_exchanged_again(text, swapped):
    assert swapped_roles(POSTS[0], text, RNG) == swapped
    assert swapped_roles(POSTS[0], swapped, RNG) == text


def test_roles_of_people_are_exchanged_and_exchanged_again():
    post = Post("1", "relationships", "t", "p")
    text = "my girlfriend left me, she says he is better"
    swapped = swapped_roles(post, text, RNG)
    assert swapped == "my boyfriend left me, he says she is better"
    assert swapped_roles(post, swapped, RNG) == text


def test_half_of_the_words_are_left():
    assert shortened(POSTS[0], "one two three four five", RNG) == "one two three"


@pytest.mark.parametrize("name", WORSE)
def test_the_judge_calls_it_worse(name):
    pairs = worse(WORSE[name], POSTS, [ideal(post) for post in POSTS])
    assert len(pairs) >= 59
    assert (gaps(rate, pairs) > 0).mean() > 0.98


def test_the_words_of_a_shuffled_summary_are_the_same():
    pairs = worse(WORSE["shuffled"], POSTS, [post.summary for post in POSTS])
    for _, text, other in pairs:
        assert text != other and sorted(text.split()) == sorted(other.split())


def test_what_an_editor_leaves_as_it_was_is_no_pair():
    def revise(post, text, rng):
        return ideal(post) if post.id.endswith("0") else text

    pairs = better(revise, POSTS)
    assert [pair.info.id for pair in pairs] == [post.id for post in POSTS[::10]]
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [(ideal(p), p.summary) for p in POSTS[::10]]


def test_what_an_alteration_leaves_as_it_was_is_no_pair():
    assert worse(lambda info, text, rng: text, POSTS, ["same"] * 60) == []


def test_one_thing_of_each_kind_is_changed_in_as_many_pairs_as_asked_for():
    pairs = changed(Mini(DataConfig()), POSTS, 10)
    assert pairs.keys() == {*CHANGES, "question"}
    assert {len(found) for found in pairs.values()} == {10}
    for found in pairs.values():
        for post, true, false in found:
            assert judge(post, true).overall > judge(post, false).overall
    assert pairs == changed(Mini(DataConfig()), POSTS, 10)


def test_a_task_that_cannot_tell_what_is_true_has_none():
    assert changed(Tldr(DataConfig()), POSTS, 10) == {}

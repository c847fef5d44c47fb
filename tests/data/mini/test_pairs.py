"""Pairs differ in what they say about the post; who has not read it can hardly tell the better one."""

import re
from collections import Counter
from functools import cache

import numpy as np

from rlhf_jax.data import comparisons
from rlhf_jax.data.mini.judge import FACT, has_key_fact, ideal, judge, read_summary
from rlhf_jax.data.mini.pairs import MIN_GAP, Unlabelled, pairs
from rlhf_jax.data.mini.posts import posts
from rlhf_jax.evaluation.blind import blind_margins


@cache
def made(split="train", count=4000):
    return pairs(posts(0, split, count // 4), count, 1)


def gap(pair):
    return judge(pair.post, pair.text_a).overall - judge(pair.post, pair.text_b).overall


def form(text):
    """The text without names, verbs, places and actions."""
    text = re.sub(r"should i [a-z ]+\?", "Q", FACT.sub("F", text))
    return text if {"F", "Q"} & set(re.findall(r"\w+", text)) else f"{len(text.split())} words"


def test_pairs_depend_on_posts_and_seed_alone():
    some = posts(0, "valid", 40)
    assert pairs(some, 100, 7) == pairs(some, 100, 7)
    assert pairs(some, 100, 7) != pairs(some, 100, 8)
    assert len(pairs(some, 100, 7)) == 100


def test_the_judge_sees_a_difference_and_neither_place_is_better():
    gaps = np.array([gap(pair) for pair in made()])
    assert np.all(np.abs(gaps) >= MIN_GAP)
    assert abs(np.mean(gaps > 0) - 0.5) < 0.03


def test_posts_are_used_evenly():
    used = Counter(pair.post.id for pair in made())
    assert len(used) > 990 and max(used.values()) <= 12


def test_most_pairs_have_the_same_form():
    assert np.mean([form(pair.text_a) == form(pair.text_b) for pair in made()]) >= 0.7


def test_pairs_cover_what_an_optimizer_would_try():
    texts = [(pair.post, text) for pair in made() for text in (pair.text_a, pair.text_b)]

    def share(condition):
        return np.mean([condition(post, text, read_summary(text)) for post, text in texts])

    assert share(lambda post, text, reading: has_key_fact(post, text)) > 0.3
    assert share(lambda post, text, reading: judge(post, text).accuracy < 3) > 0.15
    assert share(lambda post, text, reading: not reading.finished) > 0.02
    assert share(lambda post, text, reading: len(set(reading.facts)) < len(reading.facts)) > 0.01
    assert share(lambda post, text, reading: not reading.facts and not reading.questions) > 0.01
    assert share(lambda post, text, reading: text and post.post.startswith(text)) > 0.005


def test_samples_of_a_policy_are_compared_and_changed():
    some = posts(0, "train", 50)
    sampled = {post.id: [(ideal(post), "sft"), (f"{ideal(post)} pizza", "ppo")] for post in some}
    policies = Counter(
        name for pair in pairs(some, 300, 0, sampled) for name in (pair.policy_a, pair.policy_b)
    )
    assert policies["sft"] > 30 and policies["ppo"] > 30 and policies["altered"] > 30


def blind_accuracy(train, held_out):
    """Of a scorer that is told the judge's choice in every pair of `train`."""

    def judged(some):
        return [
            comparisons.Pair(pair.post, *((pair.text_a, pair.text_b)[:: 1 if gap(pair) > 0 else -1]))
            for pair in some
        ]

    return np.mean(blind_margins(judged(train), judged(held_out)) > 0)


def test_a_scorer_that_does_not_see_the_post_is_right_at_most_six_times_in_ten():
    assert blind_accuracy(made(), made("valid", 1500)) < 0.58


def test_that_scorer_finds_form_where_form_tells():
    some = posts(0, "train", 300)
    told = [Unlabelled(post, ideal(post), post.summary, "", "") for post in some]
    assert blind_accuracy(told[:200], told[200:]) > 0.7

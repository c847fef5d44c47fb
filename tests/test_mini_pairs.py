"""Pairs differ in what they say about the post; who has not read it can hardly tell the better one."""

import re
from collections import Counter
from functools import cache
from itertools import pairwise

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_matrix

from rlhf_jax.data.mini.judge import FACT, has_key_fact, ideal, judge, read_summary
from rlhf_jax.data.mini.pairs import MIN_GAP, Pair, pairs
from rlhf_jax.data.mini.posts import posts


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


def features(text, bigrams):
    """What can be known of a text without its post."""
    words = re.findall(r"\w+|[^\w\s]", text)
    counts = Counter(words)
    counts["length"] = len(words) / 10
    counts["different words"] = len(set(words)) / 10
    counts.update([f"first {words[:1]}", f"last {words[-1:]}", f"form {form(text)}"])
    if bigrams:
        counts.update(f"{one} {two}" for one, two in pairwise(words))
    return counts


def blind_accuracy(train, held_out, bigrams):
    def difference(pair):
        counts = features(pair.text_a, bigrams)
        counts.subtract(features(pair.text_b, bigrams))
        return counts

    seen = [difference(pair) for pair in train]
    often = Counter(name for counts in seen for name in counts)
    columns = {name: i for i, (name, n) in enumerate(often.items()) if n >= 3}

    def matrix(rows):
        entries = [(x, i, columns[k]) for i, row in enumerate(rows) for k, x in row.items() if k in columns]
        values, i, j = zip(*entries, strict=True)
        return csr_matrix((values, (i, j)), shape=(len(rows), max(columns.values()) + 1))

    x, won = matrix(seen), np.array([gap(pair) > 0 for pair in train])

    def loss(w):
        z = x @ w
        slope = x.T @ (1 / (1 + np.exp(-z)) - won) + 10 * w
        return np.logaddexp(0, np.where(won, -z, z)).sum() + 5 * w @ w, slope

    w = minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 60}).x
    predicted = matrix([difference(pair) for pair in held_out]) @ w > 0
    return np.mean(predicted == np.array([gap(pair) > 0 for pair in held_out]))


def test_a_scorer_that_does_not_see_the_post_is_right_at_most_six_times_in_ten():
    for bigrams in (False, True):
        assert blind_accuracy(made(), made("valid", 1500), bigrams) < 0.58


def test_that_scorer_finds_form_where_form_tells():
    some = posts(0, "train", 300)
    rng = np.random.default_rng(0)
    told = [Pair(post, ideal(post), post.summary, "", "") for post in some]
    told = [Pair(p.post, p.text_b, p.text_a, "", "") if rng.random() < 0.5 else p for p in told]
    assert blind_accuracy(told[:200], told[200:], False) > 0.7

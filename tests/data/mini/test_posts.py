"""Posts of the miniature tell what their stories hold, and no split knows another's facts."""

import re
from collections import Counter
from dataclasses import astuple
from functools import cache

import numpy as np
import pytest

from rlhf_jax.config import DataConfig
from rlhf_jax.data.mini.judge import FACT, has_key_fact, judge, read_post, read_summary
from rlhf_jax.data.mini.posts import posts, tell, write_post
from rlhf_jax.data.mini.world import SPLITS, VERBS, Fact, falsify, split_of, swap_roles
from rlhf_jax.data.tasks.mini import Mini


@cache
def many(split="train", count=1500):
    return posts(0, split, count)


def test_a_post_depends_on_its_index_alone():
    assert posts(3, "train", 20)[:5] == posts(3, "train", 5)
    assert posts(3, "train", 5) != posts(4, "train", 5)
    assert len({post.id for split in SPLITS for post in many(split, 300)}) == 900


@pytest.mark.parametrize("split", SPLITS)
def test_the_text_holds_the_whole_story(split):
    for i in range(200):
        rng = np.random.default_rng(i)
        story = tell(rng, split)
        assert read_post(write_post(story, rng, "x").post) == story


@pytest.mark.parametrize("split", SPLITS)
def test_a_story_has_four_to_six_facts_with_different_verbs_among_four_or_five_people(split):
    for post in many(split, 300):
        story = read_post(post.post)
        assert 4 <= len(story.facts) <= 6
        assert len({fact.verb for fact in story.facts}) == len(story.facts)
        assert 4 <= len(story.people) <= 5
        assert story.key != story.cause
        assert not story.question.person or story.question.person in story.people


def test_no_fact_is_told_in_two_splits_in_either_role():
    told = {}
    for split in SPLITS:
        found = [m for post in many(split) for m in FACT.findall(f"{post.title}. {post.post}")]
        told[split] = {(frozenset((one, other)), verb) for one, verb, other, _ in found}
        assert len(told[split]) > 1000
    assert not told["train"] & told["valid"] and not told["train"] & told["test"]
    assert not told["valid"] & told["test"]


def test_training_references_hold_no_valid_or_test_fact():
    for post in many():
        for fact in read_summary(post.summary).facts:
            assert split_of(fact) == "train"


def test_importance_stands_in_the_marker_not_in_place_or_verb():
    stories = [read_post(post.post) for post in many()]
    share_first = np.mean([story.key == 0 for story in stories])
    assert abs(share_first - np.mean([1 / len(story.facts) for story in stories])) < 0.04
    told = Counter(fact.verb for story in stories for fact in story.facts)
    key = Counter(story.key_fact.verb for story in stories)
    for verb in VERBS:
        assert 0.08 < key[verb] / told[verb] < 0.34  # one in five; about 200 tellings of each verb


def test_the_title_tells_the_key_fact_in_one_post_of_five():
    assert np.mean([has_key_fact(post, post.title) for post in many()]) == pytest.approx(0.2, abs=0.035)


def test_queries_and_references_are_short_in_tokens():
    task = Mini(DataConfig(source="mini", query_tokens=1000, vocabulary=768))
    tokenizer = task.make_tokenizer(many(), None)
    for post in many():
        assert len(task.encode(post, tokenizer)) <= 56
        assert len(tokenizer.encode(task.response(post.summary))) + 1 <= 20
    for word in set(re.findall(r"\w+", " ".join(post.post for post in many()))):
        assert len(tokenizer.encode(f" {word}")) == 1, word


def test_references_are_fallible():
    keys = np.mean([has_key_fact(post, post.summary) for post in many()])
    false = np.mean([judge(post, post.summary).accuracy < 3 for post in many()])
    assert 0.35 < keys < 0.5
    assert 0.06 < false < 0.15
    assert len({re.sub(FACT, "F", post.summary) for post in many()}) > 100


@pytest.mark.parametrize("kind", ["roles", "person", "verb", "place"])
def test_falsified_facts_are_not_in_the_story_and_train_stays_train(kind):
    for i, post in enumerate(many("train", 200)):
        story = read_post(post.post)
        for fact in story.facts:
            false = falsify(story, fact, kind, np.random.default_rng(i))
            assert not story.holds(false)
            assert split_of(false) == "train"
            changed = [a != b for a, b in zip(astuple(fact), astuple(false), strict=True)]
            assert sum(changed) == (2 if kind == "roles" else 1)


def test_swapped_roles_stay_in_one_split():
    fact = Fact("bob", "fired", "carol", "work")
    assert swap_roles(fact) == Fact("carol", "fired", "bob", "work")
    assert split_of(fact) == split_of(swap_roles(fact))

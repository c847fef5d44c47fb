"""Posts tell what their stories hold, and no split knows another's people."""

from functools import cache

import numpy as np
import pytest

from rlhf_jax.data.mini.judge import has_key_fact, judge, read_post
from rlhf_jax.data.mini.posts import AUTHORS, POST_WORDS, count_words, posts, write_post, write_reference
from rlhf_jax.data.mini.reading import read
from rlhf_jax.data.mini.world import NAMES, SPLITS


@cache
def many(split="train", count=400):
    return posts(0, split, count)


def casts(split):
    return {
        frozenset(set(NAMES) & set(post.text.replace(".", " ").replace("?", " ").split()))
        for post in many(split)
    }


def test_a_post_depends_on_its_index_alone():
    assert posts(3, "train", 20)[:5] == posts(3, "train", 5)
    assert posts(3, "train", 5) != posts(4, "train", 5)
    assert len({post.id for split in SPLITS for post in many(split)}) == 1200


@pytest.mark.parametrize("split", SPLITS)
def test_the_text_holds_the_whole_story(split):
    for i in range(200):
        post, story = write_post(np.random.default_rng(i), split, "x")
        assert read_post(post) == story
        assert not read(post.text).foreign


def test_a_text_without_its_title_tells_the_same_facts():
    post = next(post for post in many() if read_post(post).titled)
    alone, whole = read_post(post.text), read_post(post)
    assert (alone.facts, alone.question, alone.titled) == (whole.facts, whole.question, "")


def test_four_people_meet_in_one_split_only():
    train, valid, test = ({cast for cast in casts(split) if len(cast) == 4} for split in SPLITS)
    assert min(map(len, (train, valid, test))) > 200
    assert not train & valid and not train & test and not valid & test


def test_a_post_with_its_title_fits_into_the_limit():
    lengths = [count_words(f"{post.title} {post.text}") for split in SPLITS for post in many(split)]
    assert 45 < max(lengths) <= POST_WORDS
    assert count_words("leo's dog, at 9.") == 8


def test_what_matters_stands_anywhere():
    places = [read_post(post).ranked[0] / (len(read_post(post).facts) - 1) for post in many()]
    assert np.mean(places) == pytest.approx(0.5, abs=0.06)


def test_references_are_fallible():
    stories = [read_post(post) for post in many()]
    means = {}
    for author in AUTHORS:
        rng = np.random.default_rng(0)
        texts = [write_reference(story, rng, {author: 1.0}) for story in stories]
        assert not any(read(text).foreign for text in texts), author
        means[author] = np.mean([judge(post, text).overall for post, text in zip(many(), texts, strict=True)])
    assert sorted(means, key=means.get) == ["joking", "pointless", "wrong", "hasty", "rambling", "careful"]
    assert 0.5 < np.mean([has_key_fact(post, post.summary) for post in many()]) < 0.75

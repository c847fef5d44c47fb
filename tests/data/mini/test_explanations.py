"""Explanations say which sentence is wrong, how, and what the post says; people overlook and misread."""

import numpy as np
import pytest

from rlhf_jax.data.mini import explanations
from rlhf_jax.data.mini.errors import KINDS, errors
from rlhf_jax.data.mini.explanations import Explanation, explain, misread, repaired, sentences
from rlhf_jax.data.mini.judge import ideal, judge, story_of
from rlhf_jax.data.mini.posts import posts
from rlhf_jax.data.mini.reading import read
from rlhf_jax.data.mini.world import Fact, Question
from rlhf_jax.data.records import Post

POST = Post(
    "1",
    "drama",
    "",
    "adam hit ben at work on friday so ben fled. maybe cora mocked dora. dora praised adam. "
    "should i trust dora?",
)


SOME = posts(0, "train", 40)
PRAISE = Fact("dora", "praised", "adam")


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def infallible(monkeypatch):
    monkeypatch.setattr(explanations, "MISREADS", 0.0)
    monkeypatch.setattr(explanations, "NOTICES", 1.0)


@pytest.mark.parametrize(
    ("summary", "sentence", "kind", "says"),
    [
        ("dora praised adam. ben hit adam.", "ben hit adam.", "roles", Fact("adam", "hit", "ben")),
        ("adam hit ben at school.", "adam hit ben at school.", "place", Fact("adam", "hit", "ben", "work")),
        ("maybe cora mocked dora. she praised ben.", "she praised ben.", "object", PRAISE),
        ("cora mocked dora.", "cora mocked dora.", "too_sure", Fact("cora", "mocked", "dora", sure=False)),
        ("adam hit ben. do i sue ben?", "do i sue ben?", "question", Question("trust", "dora")),
    ],
)
def test_the_wrong_sentence_is_said_again_as_the_post_has_it(infallible, summary, sentence, kind, says):
    """Details that the summary left out are left out again."""
    said = explain(POST, summary, rng())
    assert said == Explanation(sentence, kind, said.instead)
    told = read(said.instead)
    assert [*told.facts, *told.questions] == [says]
    assert not errors(POST, repaired(summary, said))


def test_nothing_is_said_of_what_is_true(infallible):
    for post in SOME:
        assert explain(post, ideal(post), rng()) is None
    assert explain(POST, "so much drama.", rng()) is None


def test_what_is_overlooked_is_not_said(infallible, monkeypatch):
    monkeypatch.setattr(explanations, "NOTICES", 0.0)
    assert explain(POST, "ben hit adam.", rng()) is None


def test_who_misreads_the_post_repairs_what_was_true(infallible, monkeypatch):
    """Unless the summary does not tell what they misread, or the post tells also what they read."""
    monkeypatch.setattr(explanations, "MISREADS", 1.0)
    explained = [(post, explain(post, ideal(post), np.random.default_rng(i))) for i, post in enumerate(SOME)]
    said = [(post, one) for post, one in explained if one is not None]
    assert len(said) > 0.7 * len(SOME)
    assert all(one.kind in KINDS for _, one in said)
    assert np.mean([bool(errors(post, repaired(ideal(post), one))) for post, one in said]) > 0.8


def test_a_misread_story_differs_in_one_fact():
    story = story_of(POST)
    for seed in range(20):
        other = misread(story, story.facts[:1], np.random.default_rng(seed))
        assert other.facts[1:] == story.facts[1:] and not story.holds(other.facts[0])


def test_pronouns_are_understood_from_the_sentences_before():
    assert sentences("adam hit ben. she saved him and cora hugged dora. should i sue adam") == [
        ("adam hit ben.", [Fact("adam", "hit", "ben")]),
        ("she saved him and cora hugged dora.", [Fact("cora", "hugged", "dora")]),
        ("should i sue adam", [Question("sue", "adam")]),
    ]
    assert sentences("cora hit ben. she saved him.")[1] == ("she saved him.", [Fact("cora", "saved", "ben")])


def test_fallible_people_repair_more_than_they_spoil():
    gains = []
    for i, post in enumerate(posts(0, "train", 300)):
        if (said := explain(post, post.summary, np.random.default_rng(i))) is not None:
            gains.append(
                judge(post, repaired(post.summary, said)).overall - judge(post, post.summary).overall
            )
    better, worse = np.sum(np.array(gains) > 0), np.sum(np.array(gains) < 0)
    assert better > worse > 0.1 * len(gains)

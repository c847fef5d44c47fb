"""The editor changes one thing: it mends what it sees, mostly for the better, or it slips."""

import ast
import inspect
import re
from collections import Counter
from functools import cache

import numpy as np
import pytest

from rlhf_jax.data.mini import editor
from rlhf_jax.data.mini.editor import EXCHANGED, exchanges, falsehoods, improved, revised, slip
from rlhf_jax.data.mini.judge import ideal, judge, story_of
from rlhf_jax.data.mini.posts import posts
from rlhf_jax.data.mini.reading import read
from rlhf_jax.data.records import Post

BODY = "leo robbed mia at work so mia fled. ben hit leo on monday. maybe mia mocked ben. ben never hired mia."
POST = Post("1", "legal", "so much drama", f"{BODY} should i sue leo?", "")
STORY = story_of(POST)
POSTS = posts(0, "train", 600)
REFERENCES = [post.summary for post in POSTS]
POOR = {
    "titles": [f"{post.title}." for post in POSTS],
    "first sentences": [post.text.partition(".")[0] + "." for post in POSTS],
}


def changed(texts, change) -> list[str]:
    """What `change(post, text, rng)` makes of a text of each post."""
    both = zip(POSTS, texts, strict=True)
    return [change(post, text, np.random.default_rng(i)) for i, (post, text) in enumerate(both)]


@cache
def revisions() -> list[str]:
    return changed(REFERENCES, revised)


def gains(before: list[str], after: list[str]) -> np.ndarray:
    """How much better the judge likes those that are changed."""
    return np.array(
        [
            judge(post, new).overall - judge(post, old).overall
            for post, old, new in zip(POSTS, before, after, strict=True)
            if new != old
        ]
    )


def sentences(text: str) -> list[str]:
    return [sentence.strip() for sentence in re.findall(r"[^.?!]+[.?!]*", text)]


def test_the_editor_reads_the_post_and_asks_no_judge():
    tree = ast.parse(inspect.getsource(editor))
    imports = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom | ast.Import)]
    assert [line for line in imports if "judge" in line] == ["from rlhf_jax.data.mini.judge import story_of"]


def test_a_revision_depends_on_its_draws_alone():
    again = [revised(post, post.summary, np.random.default_rng(i)) for i, post in enumerate(POSTS[:50])]
    assert again == revisions()[:50]


def test_one_sentence_is_changed_at_most():
    for old, new in zip(REFERENCES, revisions(), strict=True):
        before, after = Counter(sentences(old)), Counter(sentences(new))
        assert (before - after).total() <= 1 and (after - before).total() <= 1
        assert new == new.strip() and not read(new).foreign


def test_exchanges_by_hand():
    made = list(exchanges("leo hit mia at work."))
    # 23 others for each of two names, two words for each of 16 deeds but this one, 7 other places.
    counts = {"person": 46, "deed": 31, "place": 7, "roles": 1, "denied": 1}
    assert Counter(kind for kind, _ in made) == counts
    assert ("roles", "mia hit leo at work.") in made and ("denied", "leo never hit mia at work.") in made
    assert ("deed", "leo punched mia at work.") in made and ("place", "leo hit mia at home.") in made
    assert ("denied", "hit") in exchanges("never hit")
    assert "roles" not in dict(exchanges("leo quit. mia wept."))  # they stand in two sentences


def test_a_slip_is_one_exchange_and_every_kind_occurs():
    made: Counter[str] = Counter()
    slips = changed(REFERENCES, lambda post, text, rng: slip(story_of(post), text, rng))
    for old, new in zip(REFERENCES, slips, strict=True):
        kinds = {kind for kind, text in exchanges(old) if text == new}
        assert kinds or new == old
        made.update(kinds)
    assert made.keys() == {*EXCHANGED, "roles", "denied"} and min(made.values()) > 10
    said = [falsehoods(story_of(post), read(text)) > 0 for post, text in zip(POSTS, slips, strict=True)]
    assert np.mean(said) > 0.85


def test_where_there_is_no_word_to_mistake_nothing_slips():
    assert slip(STORY, "so much drama.", np.random.default_rng(0)) == "so much drama."


def test_falsehoods_by_hand():
    for text, count in {
        "leo robbed mia. should i sue leo?": 0,
        "mia was mocked by ben.": 1,
        "mia mocked ben at home. should i sue mia?": 2,
        "ben hired mia.": 1,
        "ben never hired mia.": 0,
        "lol.": 0,
    }.items():
        assert falsehoods(STORY, read(text)) == count, text


@pytest.mark.parametrize(
    "false",
    ["mia robbed leo.", "leo robbed mia at home.", "ben hired mia.", "leo hit mia.", "should i sue mia?"],
)
def test_a_falsehood_that_is_noticed_is_mended_by_one_exchange(monkeypatch, false):
    monkeypatch.setattr(editor, "SLIPS", 0.0)
    monkeypatch.setattr(editor, "NOTICES", 1.0)
    for seed in range(20):
        mended = revised(POST, false, np.random.default_rng(seed))
        assert falsehoods(STORY, read(mended)) == 0 and mended in [text for _, text in exchanges(false)]


def test_four_of_five_falsehoods_are_noticed(monkeypatch):
    monkeypatch.setattr(editor, "SLIPS", 0.0)
    texts = [revised(POST, "mia robbed leo. should i sue leo?", np.random.default_rng(i)) for i in range(500)]
    assert np.mean([falsehoods(STORY, read(text)) == 0 for text in texts]) == pytest.approx(0.8, abs=0.06)


def test_improvements_by_hand(monkeypatch):
    monkeypatch.setattr(editor, "UNDECIDED", 0.0)
    monkeypatch.setattr(editor, "ASKS", 1.0)
    rng = np.random.default_rng(0)
    said, asked = sentences(improved(STORY, "leo robbed mia.", rng))
    assert said == "leo robbed mia." and read(asked).questions == (STORY.question,)
    # The weightiest fact is put before another, and stands for the lighter one where two are told.
    for text in ("ben hit leo. should i sue leo?", "maybe mia mocked ben. ben hit leo. should i sue leo?"):
        first, *others = sentences(improved(STORY, text, rng))
        assert read(first).facts == (STORY.key_fact,) and others == ["ben hit leo.", "should i sue leo?"]
    # Of three the lightest goes; where all is well nothing does.
    three = "leo robbed mia. ben hit leo. ben never hired mia. should i sue leo?"
    assert improved(STORY, three, rng) == "leo robbed mia. ben hit leo. should i sue leo?"
    assert improved(STORY, ideal(POST), rng) == ideal(POST)


def test_most_improvements_are_better_and_most_slips_are_worse():
    better = changed(REFERENCES, lambda post, text, rng: improved(story_of(post), text, rng))
    worse = changed(REFERENCES, lambda post, text, rng: slip(story_of(post), text, rng))
    assert np.mean(gains(REFERENCES, better) > 0) > 0.75
    assert np.mean(gains(REFERENCES, worse) < 0) > 0.8


def test_of_references_many_revisions_are_better_and_many_worse():
    gained = gains(REFERENCES, revisions())
    assert len(gained) > 0.7 * len(POSTS)
    assert np.mean(gained > 0) > 0.4 and np.mean(gained < 0) > 0.35


@pytest.mark.parametrize("texts", POOR.values(), ids=POOR)
def test_a_poor_summary_becomes_better(texts):
    gained = gains(texts, changed(texts, revised))
    assert np.mean(gained > 0) > np.mean(gained < 0) + 0.2 and gained.mean() > 0.15


@pytest.mark.parametrize(
    "text", ["", " ", "...", "it is 9 o'clock\n", "leo robbed mia", "he robbed her", "🙂"]
)
def test_any_text_can_be_revised(text):
    for seed in range(30):
        assert isinstance(revised(POST, text, np.random.default_rng(seed)), str)

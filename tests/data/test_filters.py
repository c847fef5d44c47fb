from dataclasses import replace

import pytest

from rlhf_jax.data.filters import SUBREDDITS, filter_posts, format_table
from rlhf_jax.data.records import Post


class Words:
    """One token a word."""

    vocab_size, eos_id, pad_id = 1, 0, 1

    def encode(self, text):
        return [0 for _ in text.split()]


GOOD = Post("t3_0", "tifu", "My day", "A story.", " " + "word " * 24)


def test_each_step_removes_what_it_names():
    good = [GOOD, replace(GOOD, id="t3_1", post="Another.", summary="word " * 48)]
    bad = [
        replace(GOOD, subreddit="pics"),
        replace(GOOD, title="[Update] my day"),
        replace(GOOD, title="EDIT: my day"),
        replace(GOOD, post="I wanted to kill myself"),
        replace(GOOD, post="word " * 512),
        replace(GOOD, summary="word " * 23),
        replace(GOOD, summary="word " * 49),
        replace(GOOD, summary="Edit: " + GOOD.summary),
        replace(GOOD, summary="P.S. " + GOOD.summary),
        replace(GOOD, summary="Shitty " + GOOD.summary),
    ]
    bad = [replace(post, id=f"bad_{i}", post=f"{post.post} {i}") for i, post in enumerate(bad)]
    left, steps = filter_posts([*good, good[0], replace(good[0], id="t3_again"), *bad], Words())
    assert left == good
    assert [(step.removed, step.left) for step in steps] == [
        (2, 12),  # duplicates: the same post again, and its text under another id
        (1, 11),  # subreddit
        (2, 9),  # titles
        (1, 8),  # sensitive
        (1, 7),  # 512 words and the number are 513 tokens
        (0, 7),  # sensitive summaries
        (2, 5),  # 23 and 49 tokens
        (2, 3),  # Edit, P.S.
        (1, 2),  # profanity
    ]


def test_queries_are_kept_whatever_their_summaries_say():
    bad = [
        replace(GOOD, id=f"{i}", post=f"story {i}", summary=text) for i, text in enumerate(("", "Edit: shit"))
    ]
    left, steps = filter_posts([*bad, replace(GOOD, id="x", subreddit="pics")], Words(), summaries=False)
    assert left == bad and not any("summaries" in step.name for step in steps)


@pytest.mark.parametrize("title", ["Editor wanted", "Up to date", "My boss updates me", "Credit: none"])
def test_titles_that_only_look_like_updates_stay(title):
    assert filter_posts([replace(GOOD, title=title)], Words())[0]


@pytest.mark.parametrize("summary", ["Psychology is hard", "Editing took long", "PSA follows", "Scunthorpe"])
def test_summaries_that_only_look_bad_stay(summary):
    assert filter_posts([replace(GOOD, summary=summary + " word" * 30)], Words())[0]


@pytest.mark.parametrize(
    "summary", ["EDIT2: word", "[Update 3] word", "P.P.S. word", "PPS: word", "p. s. word", "Edits: word"]
)
def test_variants_of_updates_and_postscripts_go(summary):
    assert not filter_posts([replace(GOOD, summary=summary + " word" * 30)], Words())[0]


def test_table_has_a_line_a_step():
    _, steps = filter_posts([GOOD] * 1_002, Words())
    lines = format_table(steps).splitlines()
    assert lines[0].split() == ["step", "removed", "left"]
    assert lines[1].split() == ["duplicates", "1,001", "1"]
    assert len(lines) == 1 + 9
    assert len({len(line) for line in lines}) == 1


def test_whitelist_has_the_29_subreddits_of_the_paper():
    assert len(SUBREDDITS) == 29
    assert {"relationships", "AskReddit", "Cooking"} <= SUBREDDITS

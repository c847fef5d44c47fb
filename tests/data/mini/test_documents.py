"""Pretraining documents tell the truth about their posts and nothing of the other splits."""

import re
from functools import cache

import numpy as np
import pytest

from rlhf_jax.data.mini.documents import STORY_WEIGHT, TLDR, documents
from rlhf_jax.data.mini.judge import ASKED, FACT, read_post, read_summary
from rlhf_jax.data.mini.posts import posts
from rlhf_jax.data.mini.world import Fact, split_of
from rlhf_jax.data.tasks.tldr import Tldr
from rlhf_jax.data.tokenizer import train_tokenizer


@cache
def made():
    return list(documents(0, 2000))


def text_of(spans):
    return "".join(text for text, _ in spans)


def comments():
    """(story, comment, spans of the comment) of every document with a comment."""
    for spans in made():
        head, _, comment = text_of(spans).partition("\n\nCOMMENT:")
        if comment:
            yield read_post(head.partition("\n\nPOST: ")[2]), comment, spans[1:]


def test_a_document_depends_on_its_index_alone():
    assert list(documents(5, 3, start=4)) == list(documents(5, 10))[4:7]
    assert list(documents(6, 3)) != list(documents(5, 3))


def test_no_document_holds_a_valid_or_test_fact():
    for spans in made():
        for subject, verb, other, _ in FACT.findall(text_of(spans)):
            assert split_of(Fact(subject, verb, other)) == "train"


def test_posts_are_not_those_of_the_train_split():
    known = {post.post for post in posts(0, "train", 2000)}
    assert not any(post in text_of(spans) for spans in made()[:200] for post in known)


def test_spans_are_tokens_of_the_whole_text_and_short():
    texts = [text_of(spans) for spans in made()]
    tokenizer = train_tokenizer(texts, 768, Tldr.pieces)
    for spans, text in zip(made(), texts, strict=True):
        tokens = tokenizer.encode(text)
        assert sum((tokenizer.encode(part) for part, _ in spans), []) == tokens
        assert len(tokens) < 144
        assert {weight for _, weight in spans} == {STORY_WEIGHT, 1.0}


def test_a_fifth_of_the_documents_are_queries_with_references():
    summaries = [
        spans for spans in made() if text_of(spans).startswith("SUBREDDIT") and "TL;DR:" in text_of(spans)
    ]
    assert 0.1 < len(summaries) / len(made()) < 0.25
    post = posts(0, "train", 1)[0]
    query = TLDR.prompt(post).text
    frame = re.compile(re.sub(r"[a-z .?]+", "[a-z .?]+", re.escape(query).replace("\\", "")))
    for spans in summaries:
        assert frame.fullmatch(spans[0][0])
        assert spans[1][0].startswith(" ")


def test_verdicts_are_right_and_half_of_the_claims_false():
    given, false_facts = [], []
    for story, comment, _ in comments():
        for claim, verdict in re.findall(r" ([a-z ]+[.?]) (true|false|main|cause)\.", comment):
            reading = read_summary(claim)
            assert len(reading.facts) + len(reading.questions) == 1
            if reading.questions:
                expected = "true" if reading.questions == (story.question,) else "false"
            else:
                (fact,) = reading.facts
                by_triple = {story.key_fact.triple: "main", story.cause_fact.triple: "cause"}
                expected = by_triple.get(fact.triple, "true") if story.holds(fact) else "false"
                false_facts.append(expected == "false")
            assert verdict == expected, (claim, comment)
            given.append(verdict)
    assert np.mean(np.array(given) == "false") == pytest.approx(0.5, abs=0.03)
    assert np.mean(false_facts) == pytest.approx(0.5, abs=0.03)


def test_comments_restate_the_post():
    issues = restated = answers = 0
    for story, comment, _ in comments():
        if " the real issue is that " in comment:
            issues += 1
            assert f" the real issue is that {story.key_fact}." in comment
            assert f" it started because {story.cause_fact}." in comment
            assert f" you ask {story.question}" in comment
        elif " who " in comment:
            for verb, victim, doer in re.findall(r" who (\w+) (\w+)\? (\w+)\.", comment):
                answers += 1
                assert (doer, verb, victim) in [fact.triple for fact in story.facts]
        elif not re.search(r" (true|false|main|cause)\.", comment):
            restated += 1
            assert sorted(comment.strip(" .").split(". ")) == sorted(map(str, story.facts))
    assert min(issues, restated, answers) > 100


def test_loss_falls_on_what_can_be_known():
    for _, comment, spans in comments():
        if " false." in comment or " main." in comment:
            assert all(
                re.fullmatch(r" (true|false|main|cause)\.", text) for text, weight in spans if weight == 1
            )
            assert all(FACT.search(text) or ASKED.search(text) for text, weight in spans if weight < 1)

"""Minimal pairs: a true statement of a post and the same in the same words with one thing changed.

What is put in stands elsewhere in the post, so that no word alone tells the false statement. Nor does its
form: true and false are worded alike, but for the "never" of a denial, which the true one has as often. So
who knows the false one knows who did what to whom.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from rlhf_jax.data.mini.errors import falsehoods
from rlhf_jax.data.mini.judge import read_post
from rlhf_jax.data.mini.wording import Writer
from rlhf_jax.data.mini.world import CHANGES, Fact, Question, Story, falsify, pick
from rlhf_jax.data.records import Record

TRIES = 20  # draws of a change before a fact is given up
DENIED_ANEW = 0.6  # of the posts without a denial, as two in five have one


def changes(post: Record, rng: np.random.Generator) -> Mapping[str, tuple[str, str]]:
    """Kind of change → a true statement of the post and the false one, for the kinds that the post allows.

    A statement is a fact, the weightiest that can be changed so. Where the question is changed, it follows
    a fact drawn at random: it is often about a person of the weightiest, which would tell it.
    """
    story = read_post(post)
    if story is None:
        return {}
    found = {}
    for kind in CHANGES:
        changed = (_change(story, fact, kind, rng) for fact in _candidates(story, kind, rng))
        if pair := next((pair for pair in changed if pair), None):
            found[kind] = _said([[fact] for fact in pair], rng)
    others = [person for person in story.people if person != story.question.person]
    other = replace(story.question, person=pick(rng, others))
    fact = pick(rng, story.facts)
    found["question"] = _said([[fact, story.question], [fact, other]], rng)
    return found


def _candidates(story: Story, kind: str, rng: np.random.Generator) -> list[Fact]:
    """The facts to change, the weightiest first.

    Of denials, those that the post tells; other facts are denied so often that "never" tells nothing.
    """
    facts = [story.facts[i] for i in story.ranked]
    if kind != "denied":
        return facts
    return [fact for fact in facts if fact.denied] or facts * (rng.random() < DENIED_ANEW)


def _change(story: Story, fact: Fact, kind: str, rng: np.random.Generator) -> tuple[Fact, Fact] | None:
    """The fact and one that is false in this alone, of parts that the story has; None where there is none."""
    if kind == "denied":  # what did not happen has no effect
        fact = replace(fact, effect="", affected="")
    known = {part for one in story.facts for part in _parts(one)}
    for _ in range(TRIES):
        false = falsify(story, fact, kind, rng)
        if false is not None and _parts(false) <= known and falsehoods(story, false) == {kind}:
            return fact, false
    return None


def _parts(fact: Fact) -> set[str]:
    return {*fact.triple, fact.place, fact.day, fact.effect} - {""}


def _said(statements: Sequence[Sequence[Fact | Question]], rng: np.random.Generator) -> tuple[str, str]:
    """Both statements in words, which the same draws choose."""
    seed = int(rng.integers(2**32))
    true, false = (" ".join(_sentence(one, seed) for one in statement) for statement in statements)
    return true, false


def _sentence(said: Fact | Question, seed: int) -> str:
    writer = Writer(np.random.default_rng(seed), pronouns=0.0)
    return writer.question(said) if isinstance(said, Question) else f"{writer.fact(said)}."

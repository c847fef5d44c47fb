"""Explanations of the miniature's people: which sentence of a summary is wrong, how, and what the post says.

Who explains is as fallible as the others: overlooks as many false statements as the editor, and misreads the
post as often as an author who is paid. Then a fact that the summary tells seems false, or a false one true.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from rlhf_jax.data.mini.editor import NOTICES
from rlhf_jax.data.mini.errors import falsehoods, meant
from rlhf_jax.data.mini.judge import story_of
from rlhf_jax.data.mini.posts import HIRED, falsified
from rlhf_jax.data.mini.reading import read
from rlhf_jax.data.mini.wording import Writer
from rlhf_jax.data.mini.world import Fact, Question, Story, pick
from rlhf_jax.data.records import Record

MISREADS = HIRED["wrong"] / sum(HIRED.values())


class Explanation(NamedTuple):
    """What somebody says is wrong with a summary."""

    sentence: str  # of the summary, as it stands there
    kind: str  # of errors.KINDS
    instead: str  # the same sentence as they read it in the post


def explain(post: Record, text: str, rng: np.random.Generator) -> Explanation | None:
    """The first sentence that seems wrong and is noticed; None where nothing is."""
    story = story_of(post)
    if rng.random() < MISREADS:
        story = misread(story, [meant(story, claim) for claim in read(text).facts], rng)
    for sentence, told in sentences(text):
        wrong = sorted(set().union(*(_wrong(story, one) for one in told)))
        if wrong and rng.random() < NOTICES:
            writer = Writer(rng, pronouns=0.0)
            return Explanation(
                sentence, pick(rng, wrong), " ".join(_said(story, one, writer) for one in told)
            )
    return None


def repaired(text: str, explanation: Explanation) -> str:
    """The text with the explained sentence as the explanation has it."""
    return text.replace(explanation.sentence, explanation.instead, 1)


def misread(story: Story, told: Sequence[Fact], rng: np.random.Generator) -> Story:
    """The story with something changed in one of the facts that are told, or in any where none are."""
    fact = pick(rng, told or story.facts)
    wrong = falsified(story, fact, rng)
    return replace(story, facts=tuple(wrong if one is fact else one for one in story.facts))


def sentences(text: str) -> list[tuple[str, list[Fact | Question]]]:
    """The sentences of a text, each with what it states and asks, pronouns understood."""
    found, seen = [], read("")
    pieces = re.findall(r"[^.?!]+[.?!]*", text)
    for i, piece in enumerate(pieces):
        now = read("".join(pieces[: i + 1]))
        told: list[Fact | Question] = [*now.facts[len(seen.facts) :], *now.questions[len(seen.questions) :]]
        found.append((piece.strip(), told))
        seen = now
    return found


def _wrong(story: Story, said: Fact | Question) -> set[str]:
    """The kinds of error in what is said."""
    if isinstance(said, Question):
        return set() if said == story.question else {"question"}
    return falsehoods(story, said)


def _said(story: Story, said: Fact | Question, writer: Writer) -> str:
    """The same as the story has it, in words; details that were left out are left out again."""
    if isinstance(said, Question):
        return writer.question(story.question)
    fact = meant(story, said)
    if not said.effect:
        fact = replace(fact, effect="", affected="")
    kept = {name: getattr(fact, name) for name in ("place", "day") if getattr(said, name)}
    return f"{writer.fact(replace(fact, **{'place': '', 'day': ''} | kept))}."

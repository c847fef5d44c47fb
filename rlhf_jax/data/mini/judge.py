"""The gold judge of the miniature: scores any text as a summary of a post.

It reads the post's own text, so posts from any file will do, and reads the summary as
claims (facts and questions) and other words. With accuracy A, coverage C and coherence H
in [0, 1], overall = 1 + 6 · (0.94 · A · C · H + 0.06 · H): a summary that says the key
fact, its cause and the question, nothing false and nothing else, gets nearly 7.
Models never see these scores; they see what simulated labelers make of them, on pairs that
pairs.py, where it makes them, chooses by these scores.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from rlhf_jax.data.mini import world
from rlhf_jax.data.mini.world import Fact, Question, Story
from rlhf_jax.data.records import Record

# What a summary can cover.
KEY, QUESTION, CAUSE = 0.50, 0.23, 0.27
BACKGROUND = 0.10  # of what is left uncovered: a background fact, half of it where it is about other people
WITHOUT_PLACE = 0.85  # of the credit of a fact whose place is left out
NOT_AS_CAUSE = 0.5  # of the credit of the cause where it is told as just another fact
# What a claim that is not true leaves of the accuracy.
FALSE_FACT, FALSE_PLACE, FALSE_QUESTION, FALSE_REASON = 0.3, 0.6, 0.5, 0.7
NO_CLAIM = 0.5
# What a flaw leaves of the coherence.
REPEATED, DISTRACTION, UNFINISHED, EXTRA_WORD = 0.6, 0.92, 0.85, 0.9
LONGEST = 15  # words, before each extra word costs
FREE_GLUE = 2  # linking words allowed besides two a claim

NAME, VERB, PLACE, OF_PERSON, OF_NOBODY = (
    f"({'|'.join(words)})"
    for words in (world.NAMES, world.VERBS, world.PLACES, world.ASKED_OF_PERSON, world.ASKED_OF_NOBODY)
)
FACT = re.compile(rf"\b{NAME} {VERB} {NAME}\b(?: at {PLACE}\b)?")
ASKED = re.compile(rf"\bshould i (?:{OF_PERSON} {NAME}|{OF_NOBODY})\b")
REASON = re.compile(rf"(?:because|{'|'.join(world.CAUSE_MARKERS)}) $")
MARKERS = (*world.KEY_MARKERS, *world.CAUSE_MARKERS, *world.BACKGROUND_MARKERS)
GLUE = set(" ".join((*MARKERS, "and basically because but now so")).split())


class Scores(NamedTuple):
    """Ratings on the paper's axes, 1 (worst) to 7 (best)."""

    accuracy: float
    coverage: float
    coherence: float
    overall: float


@dataclass(frozen=True)
class Reading:
    """A summary taken apart. `reasons` are those of the facts that are given as a cause."""

    facts: tuple[Fact, ...]
    reasons: tuple[Fact, ...]
    questions: tuple[Question, ...]
    stray: int  # words and marks that belong to no claim and link none
    words: int
    finished: bool  # ends with a full stop or a question mark


def judge(post: Record, summary: str) -> Scores:
    """Scores `summary`, any string, against the facts of a post or article; all 1 where it tells no story."""
    story, reading = read_post(post.text), read_summary(summary)
    if story is None:
        return Scores(1.0, 1.0, 1.0, 1.0)
    accuracy, coverage = _accuracy(story, reading), _coverage(story, reading)
    coherence = _coherence(story, reading)
    overall = 0.94 * accuracy * coverage * coherence + 0.06 * coherence
    return Scores(*(1 + 6 * share for share in (accuracy, coverage, coherence, overall)))


def has_key_fact(post: Record, summary: str) -> bool:
    """True if the summary states the key fact, with its place or without any."""
    story = read_post(post.text)
    return story is not None and any(
        fact.triple == story.key_fact.triple and story.holds(fact) for fact in read_summary(summary).facts
    )


def ideal(post: Record) -> str:
    """The summary that the judge likes best: key fact, cause, question."""
    story = _story_of(post)
    return f"{story.key_fact} because {story.cause_fact}. {story.question}"


def edited(post: Record, rng: np.random.Generator) -> str:
    """The reference as a careful editor leaves it: the key fact put in, whatever is false taken out."""
    story, reading = _story_of(post), read_summary(post.reference)
    because = story.cause_fact in reading.reasons or rng.random() < 0.3
    asks = bool(reading.questions) or rng.random() < 0.5
    reason = f" because {story.cause_fact}" if because else ""
    return f"{story.key_fact}{reason}." + (f" {story.question}" if asks else "")


@lru_cache(maxsize=1 << 16)
def read_post(text: str) -> Story | None:
    """The story that a post tells; None where it has no marked key fact, cause and question."""
    facts: list[Fact] = []
    found: dict[str, int] = {}
    for sentence in re.split(r"(?<=[.?!])\s", _normal(text)):
        match = FACT.search(sentence)
        if match:
            before = sentence[: match.start()].strip()
            found |= {"key": len(facts)} if before in world.KEY_MARKERS else {}
            found |= {"cause": len(facts)} if before in world.CAUSE_MARKERS else {}
            facts.append(_fact(match))
    question = ASKED.search(_normal(text))
    if not question or len(found) < 2:
        return None
    return Story(tuple(facts), found["key"], found["cause"], _question(question))


@lru_cache(maxsize=1 << 16)
def read_summary(text: str) -> Reading:
    """Takes a text apart into claims and the words around them."""
    text = _normal(text)
    facts = [(match, _fact(match)) for match in FACT.finditer(text)]
    questions = tuple(_question(match) for match in ASKED.finditer(text))
    claims = len(facts) + len(questions)
    rest = re.findall(r"\w+|[^\w\s.,;:?!]", ASKED.sub(" ", FACT.sub(" ", text)))
    glue = sum(word in GLUE for word in rest)
    marks = len(re.findall(r"[.,;:?!]", text))
    return Reading(
        facts=tuple(fact for _, fact in facts),
        reasons=tuple(fact for match, fact in facts if REASON.search(text[: match.start()])),
        questions=questions,
        stray=len(rest) - glue + max(0, glue - FREE_GLUE - 2 * claims) + max(0, marks - 1 - claims),
        words=len(re.findall(r"\w+|[^\w\s.,;:?!]", text)),
        finished=text.endswith((".", "?", "!")),
    )


def _story_of(post: Record) -> Story:
    story = read_post(post.text)
    if story is None:
        raise ValueError(f"{post.id}: the post tells no story with a marked key fact, a cause and a question")
    return story


def _normal(text: str) -> str:
    return " ".join(text.lower().split())


def _fact(match: re.Match) -> Fact:
    subject, verb, object_, place = match.groups(default="")
    return Fact(subject, verb, object_, place)


def _question(match: re.Match) -> Question:
    of_person, person, of_nobody = match.groups(default="")
    return Question(of_person or of_nobody, person)


def _accuracy(story: Story, reading: Reading) -> float:
    if not reading.facts and not reading.questions:
        return NO_CLAIM
    known = {fact.triple for fact in story.facts}
    accuracy = 1.0
    for fact in set(reading.facts):
        if fact.triple not in known:
            accuracy *= FALSE_FACT
        elif not story.holds(fact):
            accuracy *= FALSE_PLACE
    for fact in set(reading.reasons):
        if fact.triple in known and fact.triple != story.cause_fact.triple:
            accuracy *= FALSE_REASON
    for question in set(reading.questions):
        if question != story.question:
            accuracy *= FALSE_QUESTION
    return accuracy


def _coverage(story: Story, reading: Reading) -> float:
    told = {fact.triple: fact for fact in reading.facts}
    reasons = {fact.triple for fact in reading.reasons}

    def credit(fact: Fact) -> float:
        if fact.triple not in told:
            return 0.0
        return 1.0 if told[fact.triple].place == fact.place else WITHOUT_PLACE

    def relevance(fact: Fact) -> float:
        return 1.0 if {fact.subject, fact.object} & {story.key_fact.subject, story.key_fact.object} else 0.5

    cause = credit(story.cause_fact) * (1.0 if story.cause_fact.triple in reasons else NOT_AS_CAUSE)
    background = BACKGROUND * sum(credit(fact) * relevance(fact) for fact in story.background)
    asked = story.question in reading.questions
    covered = KEY * credit(story.key_fact) + QUESTION * asked + CAUSE * cause
    return covered + (1 - covered) * background


def _coherence(story: Story, reading: Reading) -> float:
    if not reading.words:
        return 0.0
    claims = [*reading.facts, *reading.questions]
    told = {fact.triple for fact in reading.facts}
    distractions = len(told & {fact.triple for fact in story.background}) - (
        story.key_fact.triple not in told
    )
    coherence = max(0.0, 1 - reading.stray / reading.words)
    coherence *= REPEATED ** (len(claims) - len(set(claims)))
    coherence *= DISTRACTION ** max(0, distractions)
    coherence *= EXTRA_WORD ** max(0, reading.words - LONGEST)
    return coherence if reading.finished else coherence * UNFINISHED

"""The gold judge of the miniature: scores any text as a summary of a post.

It reads the post's own text, so posts from any file will do. With accuracy A, coverage C, coherence H and
brevity B in [0, 1]

    overall = 1 + 6 · (0.94 · A · C · H · B + 0.06 · H)

Coverage weighs the facts by what the post makes of them (`Story.weights`), and each further one adds less;
brevity falls with every word. So a good summary is short and says what matters most, and there are many:
the order, the words and, often, the facts are free. Models never see these scores; they see what simulated
people make of them.
"""

import math
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations, product
from typing import NamedTuple

import numpy as np

from rlhf_jax.data.mini import world
from rlhf_jax.data.mini.reading import Reading, read
from rlhf_jax.data.mini.wording import Writer
from rlhf_jax.data.mini.world import Fact, Question, Story, false_parts
from rlhf_jax.data.records import Record

# What a claim that is not true leaves of the accuracy.
FALSE_FACT, FALSE_PART, FALSE_QUESTION, TOO_SURE, NO_CLAIM = 0.35, 0.6, 0.5, 0.8, 0.5
ASKED = 0.15  # of the coverage: the question
# Of a fact's credit: who did what to whom, and each part where the fact has it.
BARE, PLACE, DAY, EFFECT = 0.5, 0.125, 0.125, 0.25
HEDGED = 0.5  # of the credit of a fact that is sure and told as probable
FREE_WORDS, PER_WORD = 12, 0.03  # brevity: what each word beyond those that are free costs
# What a flaw leaves of the coherence.
REPEATED, UNFINISHED, DISTRACTION = 0.6, 0.85, 0.8
LIGHT = 0.4  # of the weightiest fact's weight; to tell a fact that has less distracts


class Scores(NamedTuple):
    """Ratings on the paper's axes, 1 (worst) to 7 (best)."""

    accuracy: float
    coverage: float
    coherence: float
    overall: float


def judge(post: Record, summary: str) -> Scores:
    """Scores `summary`, any string, against the facts of a post or article; all 1 where it tells no story."""
    story, reading = read_post(post), read(summary)
    if story is None:
        return Scores(1.0, 1.0, 1.0, 1.0)
    accuracy, coverage, coherence = _accuracy(story, reading), _coverage(story, reading), _coherence(story, reading)
    brevity = math.exp(-PER_WORD * max(0, reading.words - FREE_WORDS))
    overall = 0.94 * accuracy * coverage * coherence * brevity + 0.06 * coherence
    return Scores(*(1 + 6 * share for share in (accuracy, coverage, coherence, overall)))


def read_post(post: Record) -> Story | None:
    """The story that a post tells; None where it tells no fact or asks nothing."""
    return _story(getattr(post, "title", ""), post.text)


@lru_cache(maxsize=1 << 15)
def _story(title: str, text: str) -> Story | None:
    reading = read(text)
    told: dict[tuple, Fact] = {}
    repeated = set()
    for claim in reading.claims:
        if claim.fact.triple in told:
            repeated.add(list(told).index(claim.fact.triple))
        elif claim.clear:
            told[claim.fact.triple] = claim.fact
    if not told or not reading.questions:
        return None
    named = [word for word in re.findall(r"\w+", title.lower()) if word in world.NAMES]
    facts = tuple(told.values())
    return Story(facts, reading.questions[0], named[0] if named else "", frozenset(repeated))


def _accuracy(story: Story, reading: Reading) -> float:
    if not reading.claims and not reading.questions:
        return NO_CLAIM
    accuracy = 1.0
    for claim in set(reading.facts):
        fact = story.find(claim.triple)
        if fact is None or fact.denied != claim.denied:
            accuracy *= FALSE_FACT
            continue
        accuracy *= FALSE_PART ** len(false_parts(claim, fact))
        accuracy *= TOO_SURE if claim.sure and not fact.sure else 1.0
    for question in set(reading.questions):
        if question != story.question:
            accuracy *= FALSE_QUESTION
    return accuracy


def _coverage(story: Story, reading: Reading) -> float:
    credits: dict[tuple, float] = {}
    for claim in reading.claims:
        fact = story.find(claim.fact.triple)
        if claim.clear and fact and not false_parts(claim.fact, fact):
            credits[fact.triple] = max(credits.get(fact.triple, 0.0), _credit(claim.fact, fact))
    weighed = sum(
        weight * credits.get(fact.triple, 0.0)
        for weight, fact in zip(story.weights, story.facts, strict=True)
    )
    told = min(1.0, weighed / sum(sorted(story.weights)[-2:]))
    return (1 - ASKED) * told + ASKED * (story.question in reading.questions)


def _credit(claim: Fact, fact: Fact) -> float:
    """How much of a fact a true claim tells."""
    credit = BARE
    credit += PLACE * (claim.place == fact.place) + DAY * (claim.day == fact.day)
    credit += EFFECT * (claim.effect == fact.effect)
    return credit * (HEDGED if fact.sure and not claim.sure else 1.0)


def _coherence(story: Story, reading: Reading) -> float:
    if not reading.words:
        return 0.0
    told = [*(fact.triple for fact in reading.facts), *reading.questions]
    coherence = max(0.0, 1 - reading.stray / reading.words)
    told_of = set(told)
    light = [
        fact
        for fact, weight in zip(story.facts, story.weights, strict=True)
        if fact.triple in told_of and weight < LIGHT * max(story.weights)
    ]
    coherence *= DISTRACTION ** len(light)
    coherence *= REPEATED ** (len(told) - len(set(told)))
    return coherence if reading.finished else coherence * UNFINISHED


def has_key_fact(post: Record, summary: str) -> bool:
    """True if the summary says clearly, and correctly, what matters most in the post."""
    story = read_post(post)
    return story is not None and any(
        claim.clear and claim.fact.triple == story.key_fact.triple and story.holds(claim.fact)
        for claim in read(summary).claims
    )


def ideal(post: Record) -> str:
    """One of the summaries that the judge likes best; others say the same, or as much, in other words."""
    story = story_of(post)
    return max(_good(story), key=lambda text: judge(post, text).overall)


def story_of(post: Record) -> Story:
    """What the post tells. Raises ValueError where it is no story of the miniature."""
    story = read_post(post)
    if story is None:
        raise ValueError(f"{post.id}: the post tells no fact of the miniature, or it asks nothing")
    return story


def _good(story: Story) -> Iterator[str]:
    """Summaries of up to three facts, with and without their details."""
    most = min(3, len(story.facts))
    for count in range(1, most + 1):
        for chosen in combinations(story.ranked, count):
            for bare in product((False, True), repeat=count):
                facts = [_bare(story.facts[i]) if short else story.facts[i] for i, short in zip(chosen, bare, strict=True)]
                yield plainly(facts, story.question)


def _bare(fact: Fact) -> Fact:
    return Fact(*fact.triple, sure=fact.sure, denied=fact.denied)


def plainly(facts: list[Fact], question: Question | None) -> str:
    """The facts and the question in the plainest words."""
    writer = Writer(np.random.default_rng(0), pronouns=0.0, variety=0.0)
    said = [f"{writer.fact(fact)}." for fact in facts]
    return " ".join(said + [writer.question(question)] if question else said)

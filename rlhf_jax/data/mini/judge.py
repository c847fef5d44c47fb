"""The gold judge of the miniature: scores any text as a summary of a post.

It reads the post's own text, so posts from any file will do. With accuracy A, coverage C, coherence H and
brevity B in [0, 1]

    overall = 1 + 6 · (0.94 · A · C · H · B + 0.06 · H)

Coverage weighs the facts by what the post makes of them (`Story.weights`), and each further one adds less;
brevity falls with every word. So a good summary is short and says what matters most, and there are many: the
order, the words and, often, the facts are free. A text with a word that the language does not have there
(`Reading.foreign`) gets nothing, because such a word may turn or take back the rest. Models never see these
scores; they see what simulated people make of them.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np

from rlhf_jax.data.mini import world
from rlhf_jax.data.mini.reading import Reading, read
from rlhf_jax.data.mini.wording import HEDGES, Writer
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
    accuracy, coverage, coherence = (rate(story, reading) for rate in (_accuracy, _coverage, _coherence))
    overall = _overall(accuracy, coverage, coherence, reading.words)
    return Scores(*(1 + 6 * share for share in (accuracy, coverage, coherence, overall)))


def _overall(accuracy: float, coverage: float, coherence: float, words: int) -> float:
    brevity = math.exp(-PER_WORD * max(0, words - FREE_WORDS))
    return 0.94 * accuracy * coverage * coherence * brevity + 0.06 * coherence


def read_post(post: Record | str) -> Story | None:
    """The story that a post, or the text of one, tells; None where it tells no fact or asks nothing."""
    return _story("", post) if isinstance(post, str) else _story(post.title, post.text)


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
    for claim in dict.fromkeys(reading.facts):
        fact = story.find(claim.triple)
        if fact is None or fact.denied != claim.denied or reading.denies:
            accuracy *= FALSE_FACT
            continue
        accuracy *= FALSE_PART ** len(false_parts(claim, fact))
        accuracy *= TOO_SURE if claim.sure and not fact.sure else 1.0
    for question in set(reading.questions):
        if question != story.question:
            accuracy *= FALSE_QUESTION
    return accuracy


def _coverage(story: Story, reading: Reading) -> float:
    if reading.foreign:
        return 0.0
    told = sum(
        weight * max((_credit(claim, fact) for claim in _claims_of(fact, reading)), default=0.0)
        for weight, fact in zip(story.weights, story.facts, strict=True)
    )
    return _covered(story, told, story.question in reading.questions)


def _covered(story: Story, told: float, asked: bool) -> float:
    """The coverage where `told` is the sum of the facts' credits, weighed."""
    return (1 - ASKED) * min(1.0, told / sum(sorted(story.weights)[-2:])) + ASKED * asked


def _claims_of(fact: Fact, reading: Reading) -> list[Fact]:
    """What a text says clearly of a fact; nothing where it contradicts the fact, or itself."""
    about = [claim for claim in reading.claims if claim.fact.triple == fact.triple]
    if any(false_parts(claim.fact, fact) for claim in about):
        return []
    return [claim.fact for claim in about if claim.clear]


def _credit(claim: Fact, fact: Fact) -> float:
    """How much of a fact a true claim tells."""
    credit = BARE
    credit += PLACE * (claim.place == fact.place) + DAY * (claim.day == fact.day)
    credit += EFFECT * (claim.effect == fact.effect)
    return credit * (HEDGED if fact.sure and not claim.sure else 1.0)


def _coherence(story: Story, reading: Reading) -> float:
    if not reading.words or reading.foreign:
        return 0.0
    told = [*(fact.triple for fact in reading.facts), *reading.questions]
    coherence = max(0.0, 1 - reading.stray / reading.words)
    for fact, weight in zip(story.facts, story.weights, strict=True):
        coherence *= DISTRACTION if fact.triple in told and _is_light(story, weight) else 1.0
    coherence *= REPEATED ** (len(told) - len(set(told)))
    return coherence if reading.finished else coherence * UNFINISHED


def _is_light(story: Story, weight: float) -> bool:
    return weight < LIGHT * max(story.weights)


def has_key_fact(post: Record, summary: str) -> bool:
    """True if the summary says clearly, and correctly, what matters most in the post."""
    story, reading = read_post(post), read(summary)
    return story is not None and not reading.foreign and bool(_claims_of(story.key_fact, reading))


def ideal(post: Record) -> str:
    """A summary that the judge likes best; others say the same, or as much, in other words."""
    return best_of(story_of(post))


@lru_cache(maxsize=1 << 12)
def best_of(story: Story) -> str:
    """The best of all choices of facts and details, each said in as few words as it can be.

    What a choice scores depends on its words, its light facts and the credit that it gathers; so of all
    choices that agree in the first two, the one with the most credit is kept, fact by fact.
    """
    kept: dict[tuple[int, int], tuple[float, list[Fact]]] = {(0, 0): (0.0, [])}
    for i in story.ranked:
        fact, weight = story.facts[i], story.weights[i]
        before = list(kept.items())
        for told in _versions(fact):
            more, gain = len(plainly([told], None).split()), weight * _credit(told, fact)
            for (words, light), (credit, facts) in before:
                key = words + more, light + _is_light(story, weight)
                if credit + gain > kept.get(key, (0.0, []))[0]:
                    kept[key] = credit + gain, [*facts, told]
    question = len(plainly([], story.question).split())
    best = max(kept, key=lambda key: _value(story, kept[key][0], key[0] + question, key[1]))
    return plainly(kept[best][1], story.question)


def _value(story: Story, credit: float, words: int, light: int) -> float:
    """The overall score of true facts and the question."""
    return _overall(1.0, _covered(story, credit, asked=True), DISTRACTION**light, words)


def _versions(fact: Fact) -> list[Fact]:
    """The fact with each of its details told or left out."""
    effects = {fact.effect: fact.affected, "": ""}
    places, days = dict.fromkeys((fact.place, "")), dict.fromkeys((fact.day, ""))
    return [
        replace(fact, place=place, day=day, effect=effect, affected=affected)
        for place, day, (effect, affected) in product(places, days, effects.items())
    ]


def story_of(post: Record) -> Story:
    """What the post tells. Raises ValueError where it is no story of the miniature."""
    story = read_post(post)
    if story is None:
        raise ValueError(f"{post.id}: the post tells no fact of the miniature, or it asks nothing")
    return story


def plainly(facts: Sequence[Fact], question: Question | None) -> str:
    """The facts and the question in the plainest words."""
    writer = Writer(np.random.default_rng(0), pronouns=0.0, variety=0.0)
    said = []
    for fact in facts:
        hedge = "" if fact.sure else f"{HEDGES[0]} "
        said.append(f"{hedge}{writer.fact(replace(fact, sure=True))}.")
    return " ".join([*said, writer.question(question)] if question else said)

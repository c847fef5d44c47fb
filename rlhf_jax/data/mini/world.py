"""The miniature's language and the stories told in it.

A fact is `{person} {verb} {person}`, sometimes with `at {place}`. A story is four to six
facts among four or five people: one is the key fact, one is the cause, the others are
background, and a question ends it. No word says by itself whether a fact matters: a
marker phrase before the fact does. There are fewer than 200 words, so that a sentencepiece
model of 768 pieces, 256 of them bytes, holds each of a story whole.
"""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

NAMES = (
    "adam alice beth bob carl carol dan dora emma eve frank fred gina greta hank hugo iris ivan jack jane "
    "kate kurt leo lisa mia nina nora oscar otto paul quinn rosa sam tina uma victor wendy xena yuri zoe"
).split()
VERBS = (
    "betrayed blamed bullied chased cheated dumped evicted fired followed fooled framed ghosted helped hired "
    "hugged ignored insulted kicked kissed married mocked paid praised punched robbed saved scammed slapped "
    "stalked sued teased thanked tricked visited warned woke"
).split()
PLACES = "camp church court dinner home lunch night prom school sea work yoga".split()
SUBREDDITS = "college dating drama family friends legal money roommates".split()

KEY_MARKERS = (
    "worst of all",
    "above all",
    "it hurts that",
    "it kills me that",
    "the problem is that",
    "what matters is that",
)
CAUSE_MARKERS = ("it began when", "all because", "ever since")
BACKGROUND_MARKERS = ("also", "later", "then")
ASKED_OF_PERSON = "avoid believe call confront date forgive leave support".split()
ASKED_OF_NOBODY = ("quit", "move out")
VAGUE_TITLES = ("what now", "please help", "so much drama", "is this normal")
JOKES = ("lol i am an idiot", "send pizza", "life is a joke", "cats are better")

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Fact:
    """`subject` did `verb` to `object`, at `place` or nowhere in particular ("")."""

    subject: str
    verb: str
    object: str
    place: str = ""

    def __str__(self) -> str:
        where = f" at {self.place}" if self.place else ""
        return f"{self.subject} {self.verb} {self.object}{where}"

    @property
    def triple(self) -> tuple[str, str, str]:
        return self.subject, self.verb, self.object


@dataclass(frozen=True)
class Question:
    """`should i {action} {person}?`; without a person, `should i {action}?`."""

    action: str
    person: str = ""

    def __str__(self) -> str:
        return f"should i {self.action} {self.person}".rstrip() + "?"


@dataclass(frozen=True)
class Story:
    """The truth of one post: its facts in order, which of them is the key and which the cause."""

    facts: tuple[Fact, ...]
    key: int
    cause: int
    question: Question

    @property
    def key_fact(self) -> Fact:
        return self.facts[self.key]

    @property
    def cause_fact(self) -> Fact:
        return self.facts[self.cause]

    @property
    def background(self) -> list[Fact]:
        return [fact for i, fact in enumerate(self.facts) if i not in (self.key, self.cause)]

    @property
    def people(self) -> list[str]:
        return people_in(self.facts)

    def holds(self, fact: Fact) -> bool:
        """True if the story says so; a fact without its place still holds."""
        return any(fact.triple == known.triple and fact.place in ("", known.place) for known in self.facts)


def people_in(facts: Iterable[Fact]) -> list[str]:
    return sorted({person for fact in facts for person in (fact.subject, fact.object)})


def split_of(fact: Fact) -> str:
    """The split a triple belongs to: a tenth valid, a tenth test; swapped roles stay in one split."""
    people = " ".join(sorted((fact.subject, fact.object)))
    bucket = zlib.crc32(f"{people} {fact.verb}".encode()) % 10
    return {0: "test", 1: "valid"}.get(bucket, "train")


def pick(rng: np.random.Generator, items):
    """One of `items`, each as likely as the others."""
    return items[int(rng.integers(len(items)))]


def pick_weighted(rng: np.random.Generator, weights: dict):
    """One of the keys, in proportion to its weight."""
    draw = rng.random() * sum(weights.values())
    for item, weight in weights.items():
        draw -= weight
        if draw < 0:
            return item
    return item


def swap_roles(fact: Fact) -> Fact:
    """The same deed with doer and victim exchanged."""
    return replace(fact, subject=fact.object, object=fact.subject)


def falsify(story: Story, fact: Fact, kind: str, rng: np.random.Generator) -> Fact:
    """A statement that the story does not make: `fact` with one thing changed.

    `kind` is roles, person, verb or place. A new person or verb comes as often from the
    story as from outside. Of a training fact it makes a training triple, so that nothing
    that valid or test posts say is ever read in training.
    """
    if kind == "roles":
        return swap_roles(fact)
    while True:
        if kind == "place":
            false = replace(fact, place=pick(rng, PLACES))
        elif kind == "verb":
            verbs = [known.verb for known in story.facts] if rng.random() < 0.5 else VERBS
            false = replace(fact, verb=pick(rng, verbs))
        else:
            role = pick(rng, ("subject", "object"))
            people = story.people if rng.random() < 0.5 else NAMES
            others = [person for person in people if person not in (fact.subject, fact.object)]
            false = replace(fact, **{role: pick(rng, others)})
        leaks = split_of(fact) == "train" != split_of(false)
        if not leaks and not story.holds(false):
            return false


def ask(people: list[str], rng: np.random.Generator) -> Question:
    """A question, about one of `people` in three cases of four."""
    if rng.random() < 0.75:
        return Question(pick(rng, ASKED_OF_PERSON), pick(rng, people))
    return Question(pick(rng, ASKED_OF_NOBODY))


def other_question(story: Story, rng: np.random.Generator) -> Question:
    """A question that the story does not ask, often differing in the person alone."""
    while True:
        other = ask(story.people, rng)
        if other.person and story.question.person and rng.random() < 0.5:
            other = replace(other, action=story.question.action)
        if other != story.question:
            return other

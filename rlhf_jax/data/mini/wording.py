"""How people say things: every fact, question and title in many ways.

A `Writer` says one thing after another and remembers who was named, because a pronoun stands for the man
or woman named last. data/mini/reading.py reads all of it back.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from rlhf_jax.data.mini.world import DEEDS, MEN, Fact, Question, Story, pick

HEDGES = ("maybe", "i think", "people say")
QUESTIONS = ("should i {} {}?", "is it ok to {} {}?", "do i {} {}?")
TITLES = ("help with {}", "what about {}", "{} again")
VAGUE_TITLES = ("what now", "please help", "so much drama", "is this normal")
FILLERS = ("sorry for the rant.", "lol.", "life is a joke.", "so yeah.", "this is long.")
LINKS = ("also", "later", "then")
SUBJECTIVE, OBJECTIVE = 0, 1
MARKS = range(0xE000, 0xF900)  # characters of private use, behind clauses whose ends are wanted (clauses.py)
PRONOUNS = {True: ("he", "him"), False: ("she", "her")}  # of a man? → its two cases


@dataclass
class Writer:
    """Says things in the order in which it is asked to.

    `variety` is the share of what could be said otherwise that is: by the deed's other word, in the passive,
    with place or day in front, the effect before its reason. `pronouns` is the share of the places for one
    that have one, where it would be understood.
    """

    rng: np.random.Generator
    pronouns: float = 0.3
    variety: float = 1.0
    named: dict[bool, str] = field(default_factory=dict)  # man? → who was named last

    def fact(self, fact: Fact, effect: bool = True) -> str:
        """A clause, without a full stop; `effect` may be left out."""
        details = [f"{word} {name}" for word, name in (("at", fact.place), ("on", fact.day)) if name]
        if self._otherwise(0.5):
            details.reverse()
        front = [details.pop(0)] if details and self._otherwise(0.25) else []
        said = [] if fact.sure else [pick(self.rng, HEDGES)]
        effect = effect and bool(fact.effect)
        before = effect and self._otherwise(0.3)
        if before:
            said += [self._person(fact.affected), fact.effect, "because"]
        said += [*front, self._deed(fact), *details]
        if effect and not before:
            said += ["so", self._person(fact.affected), fact.effect]
        return " ".join(said)

    def question(self, question: Question) -> str:
        self.named[question.person in MEN] = question.person
        form = pick(self.rng, QUESTIONS) if self.variety else QUESTIONS[0]
        return form.format(question.action, question.person)

    def sentences(self, facts: Iterable[Fact], joined: float = 0.2, linked: float = 0.0) -> list[str]:
        """Facts in their order, some joined to the sentence before, some begun with a linking word.

        The effect of a fact that is told a second time is left out.
        """
        found: list[str] = []
        told: set[Fact] = set()
        for fact in facts:
            link = f"{pick(self.rng, LINKS)} " if self.rng.random() < linked else ""
            said = link + self.fact(fact, effect=fact not in told)
            told.add(fact)
            if found and " and " not in found[-1] and self.rng.random() < joined:
                found[-1] += f" and {said}"
            else:
                found.append(said)
        return [f"{one}." for one in found]

    def _otherwise(self, share: float) -> bool:
        return self.rng.random() < share * self.variety

    def _deed(self, fact: Fact) -> str:
        word = DEEDS[fact.deed] if self._otherwise(0.5) else fact.deed
        deed = f"never {word}" if fact.denied else word
        if self._otherwise(0.35):
            victim = self._person(fact.object)
            return f"{victim} was {deed} by {self._person(fact.subject, OBJECTIVE)}"
        doer = self._person(fact.subject)
        return f"{doer} {deed} {self._person(fact.object, OBJECTIVE)}"

    def _person(self, name: str, case: int = SUBJECTIVE) -> str:
        man = name in MEN
        understood = self.named.get(man) == name
        self.named[man] = name
        return PRONOUNS[man][case] if understood and self.rng.random() < self.pronouns else name


def title(story: Story, rng: np.random.Generator) -> str:
    if story.titled:
        return pick(rng, TITLES).format(story.titled)
    return pick(rng, VAGUE_TITLES)


def body(story: Story, writer: Writer) -> str:
    """The post itself: all facts, some of them twice, perhaps a filler, and the question at either end."""
    rng = writer.rng
    told = list(story.facts)
    for i in story.repeated:
        told.insert(int(rng.integers(i + 1, len(told) + 1)), story.facts[i])
    asks_first = rng.random() < 0.15
    asked = [writer.question(story.question)] if asks_first else []
    said = writer.sentences(told, joined=0.15, linked=0.1)
    if rng.random() < 0.3:
        said.insert(int(rng.integers(len(said) + 1)), pick(rng, FILLERS))
    return " ".join(asked + said if asks_first else [*said, writer.question(story.question)])

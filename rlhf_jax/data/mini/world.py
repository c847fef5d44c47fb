"""The miniature's language and the stories told in it.

A fact says who did what to whom, often where and on which day, sometimes with an effect; it may be only
probable, or be denied. The facts of a story share their four people, three deeds, three places and three
days, so that no word alone tells two facts apart: whoever reads has to read all of it. No word says
whether a fact matters either. That is weighed (`Story.weights`): by its effect, by whom the question and
the title are about, and by how often it is told.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

MEN = "adam ben carl dan finn hugo ivan jack kurt leo nick otto".split()
WOMEN = "alice beth cora dora emma gina iris jane lisa mia nora rosa".split()
NAMES = (*MEN, *WOMEN)
# A deed has two words, of which the first is its name.
DEEDS = {
    "accused": "blamed",
    "chased": "hunted",
    "conned": "scammed",
    "ditched": "dumped",
    "fired": "sacked",
    "helped": "aided",
    "hired": "employed",
    "hit": "punched",
    "hugged": "embraced",
    "ignored": "ghosted",
    "mocked": "taunted",
    "praised": "lauded",
    "robbed": "mugged",
    "saved": "rescued",
    "stalked": "followed",
    "warned": "alerted",
}
PLACES = "camp church court home lunch prom school work".split()
DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
GRAVE = "collapsed fainted fled quit".split()
MILD = "cried panicked screamed wept".split()
SLIGHT = "laughed shrugged smiled yawned".split()
EFFECTS = (*GRAVE, *MILD, *SLIGHT)
ACTIONS = "avoid believe call confront date forgive leave sue support trust".split()
SUBREDDITS = "college dating drama family friends legal money roommates".split()

# What multiplies how much a fact matters: its effect, being about the person of the question or the title,
# being told twice, being denied or only probable.
GRAVITY = {"grave": 3.0, "mild": 1.7, "slight": 0.7}
ASKED_DOER, ASKED_VICTIM, TITLED, REPEATED, DENIED, UNSURE = 2.5, 1.5, 1.5, 2.5, 0.5, 0.7

CAST = 4  # people in a story
SHARED = 3  # deeds, places and days that its facts share
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Fact:
    """`subject` did `deed` to `object`. A place, a day, or an effect on a person may be missing ("")."""

    subject: str
    deed: str
    object: str
    place: str = ""
    day: str = ""
    effect: str = ""
    affected: str = ""  # whom the effect is on: the subject or the object
    sure: bool = True  # told as certain
    denied: bool = False  # told not to have happened

    @property
    def triple(self) -> tuple[str, str, str]:
        return self.subject, self.deed, self.object

    @property
    def people(self) -> tuple[str, str]:
        return self.subject, self.object


@dataclass(frozen=True)
class Question:
    """Should I `action` `person`?"""

    action: str
    person: str


@dataclass(frozen=True)
class Story:
    """The truth of one post: its facts in order, those told twice, and whom title and question are about."""

    facts: tuple[Fact, ...]
    question: Question
    titled: str = ""  # the person whom the title names
    repeated: frozenset[int] = frozenset()

    @cached_property
    def weights(self) -> tuple[float, ...]:
        """How much each fact matters."""
        return tuple(self._weight(i, fact) for i, fact in enumerate(self.facts))

    def _weight(self, i: int, fact: Fact) -> float:
        asked, weight = self.question.person, 1.0
        for factor, holds in (
            (GRAVITY["grave"], fact.effect in GRAVE),
            (GRAVITY["mild"], fact.effect in MILD),
            (GRAVITY["slight"], fact.effect in SLIGHT),
            (ASKED_DOER, fact.subject == asked),
            (ASKED_VICTIM, fact.object == asked),
            (TITLED, self.titled in fact.people),
            (REPEATED, i in self.repeated),
            (DENIED, fact.denied),
            (UNSURE, not fact.sure),
        ):
            weight *= factor if holds else 1.0
        return weight

    @cached_property
    def ranked(self) -> tuple[int, ...]:
        """The numbers of the facts, the weightiest first; of equals the earlier."""
        return tuple(sorted(range(len(self.facts)), key=lambda i: -self.weights[i]))

    @property
    def key_fact(self) -> Fact:
        return self.facts[self.ranked[0]]

    @cached_property
    def people(self) -> tuple[str, ...]:
        return tuple(sorted({person for fact in self.facts for person in fact.people}))

    def find(self, triple: tuple[str, str, str]) -> Fact | None:
        """The fact of these people and deed, of which a story has one at most."""
        return next((fact for fact in self.facts if fact.triple == triple), None)

    def holds(self, claim: Fact) -> bool:
        """True if the story says so; what a claim leaves out does not count, nor how sure it is."""
        fact = self.find(claim.triple)
        return fact is not None and not false_parts(claim, fact)


def false_parts(claim: Fact, fact: Fact) -> list[str]:
    """The parts of a claim that differ from the fact of the same people and deed."""
    wrong = [name for name in ("place", "day") if getattr(claim, name) not in ("", getattr(fact, name))]
    if claim.effect and (claim.effect, claim.affected) != (fact.effect, fact.affected):
        wrong.append("effect")
    return wrong + ["denied"] * (claim.denied != fact.denied)


def split_of(cast: Sequence[str]) -> str:
    """The split that a cast belongs to: a tenth of them valid, a tenth test."""
    bucket = zlib.crc32(" ".join(sorted(cast)).encode()) % 10
    return {0: "test", 1: "valid"}.get(bucket, "train")


def pick(rng: np.random.Generator, items):
    """One of `items`, each as likely as the others."""
    return items[int(rng.random() * len(items))]


def pick_weighted(rng: np.random.Generator, weights: dict):
    """One of the keys, in proportion to its weight."""
    draw = rng.random() * sum(weights.values())
    for item, weight in weights.items():
        draw -= weight
        if draw < 0:
            return item
    return item


def some(rng: np.random.Generator, items, count: int) -> list:
    """`count` different ones of `items`, in random order."""
    return [items[i] for i in rng.permutation(len(items))[:count]]


def tell(rng: np.random.Generator, split: str, counts: dict[int, float]) -> Story:
    """Draws a story about people who meet in no other split; `counts` weighs how many facts it has."""
    while split_of(cast := some(rng, NAMES, CAST)) != split:
        pass
    facts = draw_facts(rng, cast, pick_weighted(rng, counts))
    people = sorted({person for fact in facts for person in fact.people})
    question = Question(pick(rng, ACTIONS), pick(rng, people))
    titled = pick(rng, people) if rng.random() < 0.5 else ""
    told_well = [i for i, fact in enumerate(facts) if fact.sure and not fact.denied]
    repeated = frozenset(some(rng, told_well, 1) if rng.random() < 0.35 else ())
    return Story(tuple(facts), question, titled, repeated)


def draw_facts(rng: np.random.Generator, cast: Sequence[str], count: int) -> list[Fact]:
    """Facts among the cast, no two of the same people and deed."""
    deeds = some(rng, tuple(DEEDS), SHARED)
    places, days = some(rng, PLACES, SHARED), some(rng, DAYS, SHARED)
    facts: dict[tuple, Fact] = {}
    while len(facts) < count:
        subject, object_ = some(rng, cast, 2)
        fact = Fact(
            subject,
            pick(rng, deeds),
            object_,
            place=pick(rng, places) if rng.random() < 0.5 else "",
            day=pick(rng, days) if rng.random() < 0.4 else "",
        )
        draw = rng.random()
        if draw < 0.10:
            fact = replace(fact, denied=True)
        elif draw < 0.22:
            fact = replace(fact, sure=False)
        elif draw < 0.67:
            effect = pick(rng, pick(rng, (GRAVE, MILD, SLIGHT)))
            fact = replace(fact, effect=effect, affected=fact.people[rng.random() < 0.7])
        facts.setdefault(fact.triple, fact)
    return list(facts.values())


def swap_roles(fact: Fact) -> Fact:
    """The same deed with doer and victim exchanged."""
    return replace(fact, subject=fact.object, object=fact.subject)


# What can be changed in a fact; a question can be changed, too.
CHANGES = ("subject", "object", "roles", "deed", "place", "day", "effect", "denied")


def falsify(
    story: Story, fact: Fact, kind: str, rng: np.random.Generator, within: float = 0.5
) -> Fact | None:
    """A statement that the story does not make: `fact` with one thing changed, of `CHANGES`.

    In a share `within` of the draws what is put in comes from the story. None where the fact has no such
    part, or the story none to put in.
    """
    if kind == "roles":
        false = swap_roles(fact)
        return None if story.holds(false) else false
    if kind == "denied":
        return replace(fact, denied=not fact.denied, effect="", affected="")
    if not getattr(fact, kind):
        return None
    for _ in range(20):
        false = _changed(story, fact, kind, rng.random() < within, rng)
        if not story.holds(false) and false != fact:
            return false
    return None


def _changed(story: Story, fact: Fact, kind: str, within: bool, rng: np.random.Generator) -> Fact:
    if kind in ("subject", "object"):
        people = story.people if within and len(story.people) > 2 else NAMES
        new = pick(rng, [person for person in people if person not in fact.people])
        false = replace(fact, **{kind: new})
        return replace(false, affected=new) if fact.affected == getattr(fact, kind) else false
    if kind == "effect":
        if rng.random() < 0.5:
            return replace(fact, affected=fact.people[fact.affected == fact.subject])
        return replace(fact, effect=pick(rng, EFFECTS))
    everything = {"deed": tuple(DEEDS), "place": PLACES, "day": DAYS}[kind]
    known = sorted({value for one in story.facts if (value := getattr(one, kind))})
    return replace(fact, **{kind: pick(rng, known if within else everything)})


def other_question(story: Story, rng: np.random.Generator) -> Question:
    """A question that the story does not ask, differing in the person or in the action."""
    asked = story.question
    if rng.random() < 0.5:
        return replace(asked, person=pick(rng, [one for one in story.people if one != asked.person]))
    return replace(asked, action=pick(rng, [action for action in ACTIONS if action != asked.action]))

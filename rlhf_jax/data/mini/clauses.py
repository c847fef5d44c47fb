"""Clauses of the miniature: where each ends, what it says slot by slot, and what the story says of it.

Whoever knows the world knows what its sentences mean. A base model is taught it while it is pretrained
(pipeline/teaching.py), so that small ones learn to read.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from rlhf_jax.data.mini.wording import MARKS, Writer
from rlhf_jax.data.mini.world import ACTIONS, DAYS, DEEDS, EFFECTS, NAMES, PLACES, Fact, Question, Story

Said = Fact | Question

# What a clause can say, and the values of each; the first of a slot that may be left out is that it is.
SLOTS: Mapping[str, Sequence] = {
    "subject": NAMES,
    "deed": tuple(DEEDS),
    "object": NAMES,
    "place": ("", *PLACES),
    "day": ("", *DAYS),
    "effect": ("", *EFFECTS),
    "affected": ("", *NAMES),
    "denied": (False, True),
    "action": ACTIONS,
    "person": NAMES,
}
MAY_BE_LEFT_OUT = tuple(name for name, values in SLOTS.items() if values[0] == "")
NO_SLOT = -1  # of a clause that has no such slot, and of tokens where none ends


class Clause(NamedTuple):
    """What a clause says, and in a comment what the story says that is most like it, where that is clear."""

    says: Said
    found: Said | None = None


def slots(said: Said | None) -> dict[str, Any]:
    """The value of each slot that such a clause has; "" where it is left out."""
    if said is None:
        return {}
    if isinstance(said, Question):
        return {"action": said.action, "person": said.person}
    return {name: getattr(said, name) for name in SLOTS if hasattr(said, name)}


def values(said: Said | None) -> list[int]:
    """The number of each slot's value in `SLOTS`; NO_SLOT where it has none."""
    found = slots(said)
    return [known.index(found[name]) if name in found else NO_SLOT for name, known in SLOTS.items()]


def most_like(story: Story, said: Said) -> Said | None:
    """What the story says that agrees with a statement in most; None where several do equally.

    Who did what to whom counts before place, day, effect and denial, and these before the people alone.
    """
    if isinstance(said, Question):
        return story.question

    def likeness(fact: Fact) -> tuple[int, int, int]:
        told = {name: value for name, value in slots(said).items() if value != ""}
        agreeing = {name for name, value in slots(fact).items() if told.get(name) == value}
        core = agreeing & {"subject", "deed", "object"}
        return len(core), len(agreeing), len({*said.people} & {*fact.people})

    ranked = sorted(story.facts, key=likeness, reverse=True)
    clear = len(ranked) == 1 or likeness(ranked[0]) > likeness(ranked[1])
    return ranked[0] if clear else None


@dataclass
class MarkingWriter(Writer):
    """Leaves a mark behind every clause, which says where it ends until `unmarked` takes it away.

    `story` is what its statements are about, None while it is told.
    """

    story: Story | None = None
    clauses: list[Clause] = field(default_factory=list)

    def fact(self, fact: Fact, effect: bool = True) -> str:
        says = fact if effect else replace(fact, effect="", affected="")
        return super().fact(fact, effect) + self._mark(says)

    def question(self, question: Question) -> str:
        return super().question(question) + self._mark(question)

    def _mark(self, says: Said) -> str:
        found = most_like(self.story, says) if self.story else None
        self.clauses.append(Clause(says, found))
        return chr(MARKS.start + len(self.clauses) - 1)


def unmarked(text: str, clauses: Sequence[Clause]) -> tuple[str, dict[int, Clause]]:
    """The text without its marks, and the clauses by the place in it at which they end."""
    said, ends = "", {}
    for part in re.split(f"([{chr(MARKS.start)}-{chr(MARKS.stop - 1)}])", text):
        if len(part) == 1 and ord(part) in MARKS:
            ends[len(said)] = clauses[ord(part) - MARKS.start]
        else:
            said += part
    return said, ends

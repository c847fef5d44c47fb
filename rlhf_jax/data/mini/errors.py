"""What is wrong with a summary of the miniature, by kind: what a mean rating does not tell."""

from collections import Counter

from rlhf_jax.data.mini.judge import read_post
from rlhf_jax.data.mini.reading import read
from rlhf_jax.data.mini.world import Fact, Story, false_parts, swap_roles
from rlhf_jax.data.records import Record

KINDS = {
    "subject": "somebody else did it",
    "object": "it was done to somebody else",
    "roles": "doer and victim are exchanged",
    "deed": "something else was done",
    "fact": "nothing of the kind happened: more than one of doer, deed and victim is wrong",
    "place": "it happened elsewhere, or no place is told",
    "day": "it happened on another day, or no day is told",
    "effect": "it had another effect, or on another person, or none is told",
    "denied": "what happened is denied, or what did not is told",
    "too_sure": "what is only probable is told as certain",
    "hedged": "what is certain is told as probable",
    "question": "another question is asked",
    "repeated": "a fact or a question is told twice",
    "unclear": "words that say nothing in the miniature's language",
    "unfinished": "the last sentence has no end",
    "nothing": "no fact and no question",
}


def errors(post: Record, text: str) -> frozenset[str]:
    """The kinds of error, of `KINDS`, that a summary makes; each counts once."""
    story, reading = read_post(post), read(text)
    found: set[str] = set()
    if story is not None:
        for claim in reading.facts:
            found |= falsehoods(story, claim)
        if any(question != story.question for question in reading.questions):
            found.add("question")
    told = Counter([*(fact.triple for fact in reading.facts), *reading.questions])
    holds = {
        "repeated": max(told.values(), default=0) > 1,
        "unclear": reading.stray > 0,
        "unfinished": not reading.finished,
        "nothing": not told,
    }
    return frozenset(found | {kind for kind, so in holds.items() if so})


def falsehoods(story: Story, claim: Fact) -> set[str]:
    """The kinds of error in one claim, none where it is told as the story tells it."""
    fact = meant(story, claim)
    if fact.triple != claim.triple:
        return {_difference(claim, fact)}
    found = set(false_parts(claim, fact))
    if claim.sure != fact.sure:
        found.add("too_sure" if claim.sure else "hedged")
    return found


def meant(story: Story, claim: Fact) -> Fact:
    """The fact that a claim is about: that of the same people and deed, else the one most like it."""
    return story.find(claim.triple) or max(story.facts, key=lambda one: _likeness(claim, one))


def _likeness(claim: Fact, fact: Fact) -> tuple[bool, int]:
    """A fact that one change makes the claim's comes first, then one that shares more details with it."""
    details = ("place", "day", "effect", "affected", "denied")
    shared = sum(getattr(claim, name) == getattr(fact, name) for name in details)
    return _difference(claim, fact) != "fact", shared


def _difference(claim: Fact, fact: Fact) -> str:
    """What of doer, deed and victim has to be changed to make the one of the other."""
    if swap_roles(claim).triple == fact.triple:
        return "roles"
    differ = [name for name in ("subject", "deed", "object") if getattr(claim, name) != getattr(fact, name)]
    return differ[0] if len(differ) == 1 else "fact"

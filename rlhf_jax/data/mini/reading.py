"""What a text of the miniature claims: the inverse of data/mini/wording.py, for any text whatever.

A sentence is read as a whole or not at all. Where words are left over that the language does not have at
that place, its facts are `unclear`: nobody can be sure that they are claimed. Where such words deny, as
"it is not true that" does, they are taken as denied. So nothing is gained by words that only surround a fact.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from rlhf_jax.data.mini import wording, world
from rlhf_jax.data.mini.world import Fact, Question

PRONOUNS = {word: man for man, words in wording.PRONOUNS.items() for word in words}  # → of a man?
DENYING = set(
    "not no never none nobody nothing false untrue lie lied lies lying liar wrong deny denied denies doubt "
    "doubts fake invented nonsense cannot neither nor without unless if fiction dream dreamt pretend".split()
)
NAMED = {word: deed for deed, other in world.DEEDS.items() for word in (deed, other)}


def _one_of(words) -> str:
    return f"(?:{'|'.join(words)})"


PERSON = _one_of((*world.NAMES, *PRONOUNS))
DETAIL = rf"(?:at {_one_of(world.PLACES)}|on {_one_of(world.DAYS)})"
EFFECT = rf"{PERSON} {_one_of(world.EFFECTS)}"
DEED = rf"(?:{PERSON} (?:never )?{_one_of(NAMED)} {PERSON}|{PERSON} was (?:never )?{_one_of(NAMED)} by {PERSON})"
CLAUSE = re.compile(
    rf"\b(?P<hedge>{_one_of(wording.HEDGES)} )?(?:(?P<before>{EFFECT}) because )?(?P<front>(?:{DETAIL} )*)"
    rf"(?P<deed>{DEED})(?P<tail>(?: {DETAIL})*)(?: so (?P<after>{EFFECT}))?\b"
)
ASKED = re.compile(
    _one_of(
        form.removesuffix("?").format(
            f"(?P<action{i}>{_one_of(world.ACTIONS)})", f"(?P<person{i}>{_one_of(world.NAMES)})"
        )
        for i, form in enumerate(wording.QUESTIONS)
    )
)
GLUE = _one_of((*wording.LINKS, "but", "basically", "so", "now"))
JOIN = re.compile(rf"(?:and |but )?(?:{GLUE} )?")


@dataclass(frozen=True)
class Claim:
    """A fact that a text states, and whether its sentence could be read to the end."""

    fact: Fact
    clear: bool = True


@dataclass(frozen=True)
class Reading:
    """A text taken apart."""

    claims: tuple[Claim, ...]
    questions: tuple[Question, ...]
    stray: int  # words outside of all that could be read
    words: int
    finished: bool  # ends with a full stop or a question mark

    @property
    def facts(self) -> tuple[Fact, ...]:
        return tuple(claim.fact for claim in self.claims)


@lru_cache(maxsize=1 << 16)
def read(text: str) -> Reading:
    """Takes a text apart into facts, questions and other words."""
    text = " ".join(text.lower().replace("’", "'").split())
    claims: list[Claim] = []
    questions: list[Question] = []
    named: dict[bool, str] = {}
    stray = 0
    for sentence in re.split(r"(?<=[.?!])\s*", text):
        found, asked, left = _read_sentence(" ".join(re.findall(r"[\w']+|[^\w\s.?!,]", sentence)), named)
        claims += found
        questions += asked
        stray += left
    return Reading(
        tuple(claims),
        tuple(questions),
        stray,
        words=len(re.findall(r"[\w']+|[^\w\s.,;:?!]", text)),
        finished=text.endswith((".", "?", "!")),
    )


def _read_sentence(sentence: str, named: dict[bool, str]) -> tuple[list[Claim], list[Question], int]:
    """Its claims and questions, and how many words belong to none; `named` is brought up to date."""
    facts: list[Fact] = []
    questions: list[Question] = []
    left, at = [], 0
    for match in _matches(sentence):
        left.append(sentence[at : match.start()])
        at = match.end()
        if match.re is ASKED:
            questions.append(_question(match, named))
        elif (fact := _fact(match, named)) is not None:
            facts.append(fact)
        else:
            left.append(match[0])
    left.append(sentence[at:])
    rest = [word for part in left if not JOIN.fullmatch(f"{part.strip()} ") and part.strip() for word in part.split()]
    denied = any(word in DENYING or word.endswith("n't") for word in rest)
    flipped = [replace(fact, denied=not fact.denied) for fact in facts] if denied else facts
    return [Claim(fact, clear=not rest) for fact in flipped], [] if rest else questions, len(rest)


def _matches(sentence: str) -> Iterator[re.Match]:
    """Clauses and questions from left to right; none overlaps another."""
    at = 0
    while at < len(sentence):
        found = [match for form in (CLAUSE, ASKED) if (match := form.search(sentence, at))]
        if not found:
            return
        first = min(found, key=lambda match: match.start())
        yield first
        at = first.end()


def _fact(match: re.Match, named: dict[bool, str]) -> Fact | None:
    """The fact of a clause; None where a pronoun stands for nobody."""
    people: list[str] = []

    def person(word: str) -> str:
        name = named.get(PRONOUNS[word], "") if word in PRONOUNS else word
        if name:
            named[name in world.MEN] = name
        people.append(name)
        return name

    affected, effect = "", ""
    if match["before"]:
        word, effect = match["before"].split()
        affected = person(word)
    words = match["deed"].split()
    deed = next(NAMED[word] for word in words if word in NAMED)
    one, other = person(words[0]), person(words[-1])
    if match["after"]:
        word, effect = match["after"].split()
        affected = person(word)
    if not all(people):
        return None
    subject, object_ = (other, one) if "by" in words else (one, other)
    details = dict(re.findall(r"(at|on) (\w+)", f"{match['front']} {match['tail']}"))
    return Fact(
        subject,
        deed,
        object_,
        details.get("at", ""),
        details.get("on", ""),
        effect,
        affected,
        sure=not match["hedge"],
        denied="never" in words,
    )


def _question(match: re.Match, named: dict[bool, str]) -> Question:
    action, person = (word for word in match.groups() if word)
    named[person in world.MEN] = person
    return Question(action, person)

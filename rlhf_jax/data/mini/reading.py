"""What a text of the miniature claims: the inverse of data/mini/wording.py, for any text whatever.

The language is what wording.py writes, and nothing else is understood. A sentence is read as a whole or not
at all: where words are left over, its facts are not `clear`, nor are facts that it only asks about. Words
left over may be pieces of the language, as a cut sentence leaves them. Any others are `foreign`: they may
deny, quote or take back all that was said, in more ways than can be listed, so that a reader who wants to be
sure believes nothing of such a text. A few known words deny it outright.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from rlhf_jax.data.mini import wording, world
from rlhf_jax.data.mini.world import Fact, Question

PRONOUNS = {word: man for man, words in wording.PRONOUNS.items() for word in words}  # → of a man?
NAMED = {word: deed for deed, other in world.DEEDS.items() for word in (deed, other)}
DENYING = frozenset(
    "not no never none nobody nothing false untrue lie lied lies lying liar wrong deny denied denies doubt "
    "doubts fake invented nonsense cannot neither nor without unless if fiction dream dreamt pretend kidding "
    "joking opposite".split()
)


def _one_of(words: Iterable[str]) -> str:
    return f"(?:{'|'.join(sorted(words, key=len, reverse=True))})"


def _words(form: str) -> re.Pattern:
    """`form` between spaces or at an end."""
    return re.compile(rf"(?<!\S){form}(?!\S)")


def _pieces(forms: Iterable[str]) -> list[str]:
    """What stands before and behind the gaps of `forms`."""
    return [piece.strip(" .?") for form in forms for piece in form.split("{}") if piece.strip(" .?")]


DOER, TARGET = (_one_of((*world.NAMES, *case)) for case in zip(*wording.PRONOUNS.values(), strict=True))
DETAIL = rf"(?:at {_one_of(world.PLACES)}|on {_one_of(world.DAYS)})"
EFFECT = rf"{DOER} {_one_of(world.EFFECTS)}"
DONE = rf"(?:never )?{_one_of(NAMED)}"
DEED = rf"{DOER} (?:{DONE}|was {DONE} by) {TARGET}"
CLAUSE = _words(
    rf"(?P<hedge>{_one_of(wording.HEDGES)} )?(?:(?P<before>{EFFECT}) because )?"
    rf"(?P<front>(?:{DETAIL} ){{0,2}})(?P<deed>{DEED})(?P<tail>(?: {DETAIL}){{0,2}})"
    rf"(?: so (?P<after>{EFFECT}))?"
)
ASKED = _words(
    _one_of(
        form.removesuffix("?").format(
            f"(?P<action{i}>{_one_of(world.ACTIONS)})", f"(?P<person{i}>{_one_of(world.NAMES)})"
        )
        for i, form in enumerate(wording.QUESTIONS)
    )
)
JOIN = re.compile(rf"(?:and|(?:and )?{_one_of(wording.LINKS)})?")
HEDGE = _words(_one_of(wording.HEDGES))
FORMS = (*wording.HEDGES, *wording.QUESTIONS, *wording.TITLES, *wording.VAGUE_TITLES, *wording.FILLERS)
PIECE = _words(
    _one_of(
        [*_pieces(FORMS), *wording.LINKS, *"and so because was by at on".split(), *PRONOUNS, *NAMED]
        + [*world.NAMES, *world.PLACES, *world.DAYS, *world.EFFECTS, *world.ACTIONS]
    )
)
WORD = re.compile(r"\w+(?:'\w+)*|[^\w\s.,;?!]")
SENTENCE = re.compile(r"([^.?!]*)([.?!\s]*)")


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
    foreign: tuple[str, ...]  # words outside of all that could be read that are no piece of the language
    stray: int  # words, and idle full stops, outside of all that could be read
    words: int
    finished: bool  # ends with a full stop or a question mark

    @property
    def facts(self) -> tuple[Fact, ...]:
        return tuple(claim.fact for claim in self.claims)

    @property
    def denies(self) -> bool:
        """True if foreign words deny: then nothing counts as truly claimed."""
        return any(word in DENYING or word.endswith("n't") for word in self.foreign)


@dataclass
class _Found:
    """What was read so far."""

    claims: list[Claim]
    questions: list[Question]
    foreign: list[str]
    stray: int
    named: dict[bool, str]  # man? → who was named last
    doubt: bool  # a hedge stands by itself


@lru_cache(maxsize=1 << 16)
def read(text: str) -> Reading:
    """Takes a text apart into facts, questions and other words."""
    text = text.lower().replace("’", "'")
    found = _Found([], [], [], 0, {}, False)
    for sentence, end in SENTENCE.findall(text):
        marks = "".join(end.split())
        found.stray += len(marks[1:])
        _read_sentence(" ".join(WORD.findall(sentence)), "?" in marks, found)
    return Reading(
        tuple(_doubted(claim) if found.doubt else claim for claim in found.claims),
        tuple(found.questions),
        tuple(found.foreign),
        found.stray,
        words=len(WORD.findall(text)),
        finished=text.rstrip().endswith((".", "?", "!")),
    )


def _doubted(claim: Claim) -> Claim:
    return replace(claim, fact=replace(claim.fact, sure=False))


def _read_sentence(sentence: str, asks: bool, found: _Found) -> None:
    """Adds its claims and questions to `found`; a fact at the end of one that asks is only asked about."""
    facts: list[Fact] = []
    questions: list[Question] = []
    left, at, last = [], 0, CLAUSE
    for match in _matches(sentence):
        before, at, last = sentence[at : match.start()].strip(), match.end(), match.re
        if not JOIN.fullmatch(before):
            left.append(before)
        if match.re is ASKED:
            questions.append(_question(match, found.named))
        elif (fact := _fact(match, found.named)) is not None:
            facts.append(fact)
        else:
            left.append(match[0])
    left.append(sentence[at:].strip())
    only_asked = asks and last is CLAUSE and bool(facts)
    clear = not any(left) and not only_asked
    found.claims += [Claim(fact, clear) for fact in facts]
    found.questions += questions if clear else []
    found.stray += len(sentence.split()) if only_asked else sum(len(part.split()) for part in left)
    found.foreign += [word for part in left for word in PIECE.sub("", part).split()]
    found.doubt |= not facts and any(HEDGE.search(part) for part in left)


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
    """The fact of a clause; None where a pronoun stands for nobody or it has two places, days or effects."""
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
    said = re.findall(r"(at|on) (\w+)", f"{match['front']} {match['tail']}")
    details = dict(said)
    if not all(people) or len(details) < len(said) or (match["before"] and match["after"]):
        return None
    subject, object_ = (other, one) if "by" in words else (one, other)
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

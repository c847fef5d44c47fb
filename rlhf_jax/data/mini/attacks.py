"""Attacks on the gold judge: texts that are no good summary, and how often each may beat the references.

An attack knows the post, its story and even the ideal summary, which it spoils in one way; or it follows a
template that reads nothing. `Attack.limit` is the share of posts on which the judge may prefer it to the
reference, a tie counting half. The lowest limits are not 0, because some references say nothing or are false.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rlhf_jax.data.mini import wording, world
from rlhf_jax.data.mini.judge import best_of, plainly
from rlhf_jax.data.mini.world import Fact, Question, Story, falsify, other_question, pick, swap_roles
from rlhf_jax.data.records import Record

Write = Callable[[Record, Story, str, np.random.Generator], str]  # of post, story, reference and chance
# Limits, by what a text does.
TURNED, FALSE, PARTLY_FALSE, DOUBTED, READS_NOTHING = 0.05, 0.15, 0.4, 0.5, 0.6


@dataclass(frozen=True)
class Attack:
    """A way to write texts that the judge should not fall for."""

    name: str
    limit: float
    write: Write


def preferred(overall: np.ndarray, references: np.ndarray) -> float:
    """The share of posts on which a text scores above the reference, a tie counting half."""
    return float(np.mean((1 + np.sign(overall - references)) / 2))


# Each turns or takes back what it surrounds, in words that no Writer writes. {} is the ideal summary, {facts}
# and {question} are its parts.
TURNS = (
    "not {}",
    "never {}",
    "no, {}",
    "it is not true that {}",
    "it isn't true that {}",
    "it isn’t the case that {}",
    "i lied that {}",
    "nobody believes that {}",
    "it would be a lie to say {}",
    "i deny that {}",
    "if only {}",
    "the opposite of {}",
    "eve says that {}",
    "eve says: '{}'",
    '"{}"',
    "({})",
    "[{}]",
    "~~{}~~",
    "{facts}? no. {question}",
    "{facts}, not. {question}",
    "{facts} or maybe not. {question}",
    "{facts} is a joke. {question}",
    "{} just kidding.",
    "{} psych.",
    "{} yeah right.",
    "{} that was a lie.",
    "{} none of this is true.",
    "{} i made that up.",
    "{} this never was.",
    "{} never.",
    "{} NOT!",
    "{} so i dreamt.",
    "{} /s",
    "fake news. {}",
    "the following is invented. {}",
)


def _turn(form: str) -> Attack:
    def write(post: Record, story: Story, reference: str, rng: np.random.Generator) -> str:
        best = best_of(story)
        facts, question = parts(best)
        return form.replace("{facts}", facts.rstrip(".")).replace("{question}", question).replace("{}", best)

    shown = form.replace("{}", "IDEAL").replace("{facts}", "FACTS").replace("{question}", "QUESTION")
    return Attack(shown, TURNED, write)


def parts(text: str) -> tuple[str, str]:
    """The facts of a plain summary, and its question."""
    facts, _, question = f" {text}".rpartition(" should ")
    return facts.strip(), f"should {question}"


def told(story: Story) -> list[Fact]:
    """The two weightiest facts."""
    return [story.facts[i] for i in story.ranked[:2]]


def bare(fact: Fact) -> Fact:
    """Who did what to whom."""
    return Fact(*fact.triple, sure=fact.sure, denied=fact.denied)


def deny(fact: Fact) -> Fact:
    return replace(fact, denied=not fact.denied)


def elsewhere(fact: Fact) -> Fact:
    """The fact at another place, on another day."""
    place = next(one for one in world.PLACES if one != fact.place)
    return replace(fact, place=place, day=next(one for one in world.DAYS if one != fact.day))


def _of_story(name: str, limit: float, write: Callable[[Story, np.random.Generator], str]) -> Attack:
    return Attack(name, limit, lambda post, story, reference, rng: write(story, rng))


def _of_facts(
    name: str, limit: float, choose: Callable[[Story], Sequence[Fact]], asks: bool = True
) -> Attack:
    return _of_story(name, limit, lambda story, rng: plainly(choose(story), story.question if asks else None))


def _spoil(name: str, limit: float, spoil: Callable[[str], str]) -> Attack:
    return _of_story(name, limit, lambda story, rng: spoil(best_of(story)))


def _falsified(kind: str) -> Attack:
    """The two weightiest facts, each with one part changed; the deed where it has no such part."""

    def write(story: Story, rng: np.random.Generator) -> str:
        facts = [falsify(story, fact, kind, rng) or falsify(story, fact, "deed", rng) for fact in told(story)]
        return plainly([fact for fact in facts if fact], story.question)

    return _of_story(f"another {kind}", FALSE, write)


LIES = (
    _of_facts("facts denied", FALSE, lambda story: [deny(fact) for fact in told(story)]),
    _of_facts("facts and their denials", FALSE, lambda story: [*told(story), *map(deny, told(story))]),
    _of_facts("key fact and its denial", FALSE, lambda story: [story.key_fact, deny(story.key_fact)]),
    _spoil("FACTS? QUESTION", FALSE, lambda best: best.replace(".", "?")),
    *(_falsified(kind) for kind in world.CHANGES),
    _of_facts("both roles", PARTLY_FALSE, lambda story: [story.key_fact, swap_roles(story.key_fact)]),
    _of_facts("another place and day", FALSE, lambda story: [elsewhere(fact) for fact in told(story)]),
    _of_facts("both places and days", FALSE, lambda story: [story.key_fact, elsewhere(story.key_fact)]),
    _of_story("both places in one clause", FALSE, lambda story, rng: _two_places(story)),
    _of_story("names of other people", FALSE, lambda story, rng: _renamed(story, rng)),
    _of_story("names that nobody has", FALSE, lambda story, rng: _rename(best_of(story), ("eve", "bob"))),
    _of_story("another question alone", FALSE, lambda story, rng: plainly([], other_question(story, rng))),
    _of_story("both questions", PARTLY_FALSE, lambda story, rng: f"{best_of(story)} {_of_another(story)}"),
    _of_story("every question", PARTLY_FALSE, lambda story, rng: f"{best_of(story)} {_all_questions(story)}"),
)
DOUBTS = (
    _of_facts(
        "hedges before all", DOUBTED, lambda story: [replace(fact, sure=False) for fact in told(story)]
    ),
    _spoil("IDEAL maybe.", DOUBTED, lambda best: f"{best} maybe."),
    _spoil("IDEAL people say.", DOUBTED, lambda best: f"{best} people say."),
    _of_facts(
        "the probable as certain",
        PARTLY_FALSE,
        lambda story: [replace(fact, sure=True) for fact in _probable(story)],
    ),
    _of_story("pronouns for all", FALSE, lambda story, rng: _by_pronouns(story)),
)
TRICKS = (
    _spoil("zero-width spaces", TURNED, lambda best: "\u200b".join(best)),
    _spoil("a zero-width space", TURNED, lambda best: best.replace(" ", " \u200b", 1)),
    _spoil("no spaces", TURNED, lambda best: best.replace(" ", "")),
    _spoil("underscores", TURNED, lambda best: best.replace(" ", "_")),
    _spoil("full width", TURNED, lambda best: "".join(chr(ord(c) + 0xFEE0) if c > " " else c for c in best)),
    _spoil("emoji", TURNED, lambda best: f"{best} 🙃"),
    _spoil("emoji within", TURNED, lambda best: best.replace(" ", " 🙃 ")),
    _spoil("struck out", TURNED, lambda best: "".join(f"{c}\u0336" for c in best)),
    _spoil("backwards", TURNED, lambda best: best[::-1]),
    _of_story("words stuffed", TURNED, lambda story, rng: " ".join(_words(story))),
    _of_story(
        "words of the ideal shuffled",
        TURNED,
        lambda story, rng: " ".join(rng.permutation(best_of(story).split())),
    ),
    _spoil("IDEAL twice", DOUBTED, lambda best: f"{best} {best}"),
    _of_facts("key fact four times", DOUBTED, lambda story: [story.key_fact] * 4),
    _spoil("full stops", DOUBTED, lambda best: best + "." * 9),
)


def _template(name: str, choose: Callable[[Story], Sequence[Fact]]) -> list[Attack]:
    return [
        _of_facts(
            f"{name}, bare" * short + name * (not short) + ", question" * asks, READS_NOTHING, told_so, asks
        )
        for short in (False, True)
        for asks in (False, True)
        for told_so in [lambda story, short=short: [bare(fact) if short else fact for fact in choose(story)]]
    ]


TEMPLATES = (
    *_template("first fact", lambda story: story.facts[:1]),
    *_template("second fact", lambda story: story.facts[1:2]),
    *_template("first two facts", lambda story: story.facts[:2]),
    *_template("first three facts", lambda story: story.facts[:3]),
    *_template("first and last fact", lambda story: [story.facts[0], story.facts[-1]]),
    *_template("last fact", lambda story: story.facts[-1:]),
    *_template("last two facts", lambda story: story.facts[-2:]),
    *_template("all facts", lambda story: story.facts),
    _of_story(
        "who did what, unbroken",
        READS_NOTHING,
        lambda story, rng: " ".join(sum((f.triple for f in story.facts), ())),
    ),
    _of_facts("question alone", READS_NOTHING, lambda story: []),
    Attack("title", READS_NOTHING, lambda post, story, reference, rng: f"{post.title}."),
    _of_story("filler", READS_NOTHING, lambda story, rng: pick(rng, wording.FILLERS)),
    _of_story("nothing", READS_NOTHING, lambda story, rng: ""),
)


def _copy(name: str, choose: Callable[[list[str], Story], list[str]]) -> Attack:
    """Sentences of the post as they stand."""

    def write(post: Record, story: Story, reference: str, rng: np.random.Generator) -> str:
        return " ".join(choose(re.findall(r"[^.?]+[.?]", post.text), story)).strip()

    return Attack(name, READS_NOTHING, write)


def _saying(sentences: list[str], words: Sequence[str], count: int = 1) -> list[str]:
    """The first sentences, no questions, that have one of the words."""
    return [one for one in sentences if one[-1] != "?" and set(words) & set(one[:-1].split())][:count]


def _asked(story: Story) -> list[str]:
    return [plainly([], story.question)]


COPIES = (
    _copy("whole post", lambda said, story: said),
    _copy("first sentence copied", lambda said, story: said[:1]),
    _copy("first two sentences copied", lambda said, story: said[:2]),
    _copy("first three sentences copied", lambda said, story: said[:3]),
    _copy("last two sentences copied", lambda said, story: said[-2:]),
    _copy("first and last sentence copied", lambda said, story: [said[0], said[-1]]),
    _copy(
        "grave sentence copied, question", lambda said, story: [*_saying(said, world.GRAVE), *_asked(story)]
    ),
    _copy(
        "sentence of the asked copied, question",
        lambda said, story: [*_saying(said, [story.question.person]), *_asked(story)],
    ),
    _copy(
        "two sentences of the asked copied, question",
        lambda said, story: [*_saying(said, [story.question.person], 2), *_asked(story)],
    ),
    _copy(
        "grave sentence and one of the asked copied, question",
        lambda said, story: list(
            dict.fromkeys(
                [*_saying(said, world.GRAVE), *_saying(said, [story.question.person]), *_asked(story)]
            )
        ),
    ),
)
ATTACKS = (*map(_turn, TURNS), *LIES, *DOUBTS, *TRICKS, *TEMPLATES, *COPIES)


def _two_places(story: Story) -> str:
    first, second = elsewhere(story.key_fact), story.key_fact
    where = f"at {first.place} at {second.place or world.PLACES[1]}"
    return f"{plainly([bare(second)], None)[:-1]} {where}. {plainly([], story.question)}"


def _rename(text: str, names: Sequence[str]) -> str:
    """The text with its people, in the order of their names, given other names in turn."""
    people = sorted(set(text.replace(".", "").replace("?", "").split()) & set(world.NAMES))
    for i, person in enumerate(people):
        text = re.sub(rf"\b{person}\b", names[i % len(names)], text)
    return text


def _renamed(story: Story, rng: np.random.Generator) -> str:
    facts, question = parts(best_of(story))
    others = [name for name in world.NAMES if name not in story.people]
    return f"{_rename(facts, list(rng.permutation(others)))} {question}"


def _of_another(story: Story) -> str:
    """The question, of another person."""
    person = next(one for one in story.people if one != story.question.person)
    return plainly([], replace(story.question, person=person))


def _all_questions(story: Story) -> str:
    asked = (Question(story.question.action, person) for person in story.people)
    return " ".join(plainly([], question) for question in asked if question != story.question)


def _probable(story: Story) -> list[Fact]:
    """The facts that the post tells as probable, or the lightest where it tells none so."""
    return [fact for fact in story.facts if not fact.sure] or [story.facts[story.ranked[-1]]]


def _by_pronouns(story: Story) -> str:
    """The facts without a name."""

    def said(fact: Fact) -> str:
        doer, victim = (wording.PRONOUNS[name in world.MEN] for name in fact.people)
        return f"{doer[wording.SUBJECTIVE]} {fact.deed} {victim[wording.OBJECTIVE]}."

    return " ".join([*map(said, told(story)), plainly([], story.question)])


def _words(story: Story) -> list[str]:
    """All words of all facts, each once."""
    return sorted(set(" ".join(plainly([fact], None)[:-1] for fact in story.facts).split()))

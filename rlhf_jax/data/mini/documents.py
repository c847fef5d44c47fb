"""Documents to pretrain a base model on: what happened, told on the train split, and what people say of it.

A document is a list of (text, weight) spans; a token's loss is multiplied by the weight of its span. What
happened cannot be predicted and would drown the rest, so it weighs little. Beside its text a document knows
what its clauses say (clauses.py). Comments carry the skills that
fine-tuning needs: restating facts, putting slips right, telling what was said from what was not, answering
questions, finding the point. None of them rates a summary, and the summaries among them are what anyone
writes: fine-tuning data is filtered, this is not.

They make a course (`COURSE`). To tell a statement from another about the same people a model has to find what
it read of them and to compare the two, and neither pays without the other. So the first texts tell one fact,
where finding is easy, while other texts let it find facts without comparing; then there are more facts, more
parts of them, more ways to say them, and in the end whole posts. Document i of a course of n depends on
(seed, i, n) alone.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.config import DataConfig
from rlhf_jax.data.mini import world
from rlhf_jax.data.mini.clauses import Clause, MarkingWriter, unmarked
from rlhf_jax.data.mini.posts import UNFILTERED, write_post
from rlhf_jax.data.mini.wording import Writer
from rlhf_jax.data.mini.world import CHANGES, Fact, Story, falsify, other_question, pick, pick_weighted
from rlhf_jax.data.records import Record
from rlhf_jax.data.task import SHOT_SEPARATOR
from rlhf_jax.data.tasks.tldr import Tldr

Spans = list[tuple[str, float]]


class Document(NamedTuple):
    spans: Spans
    clauses: Mapping[int, Clause]  # by the place in its text at which they end

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.spans)


KINDS = (*CHANGES, "question")  # of what can be changed in a statement


class Lesson(NamedTuple):
    """What documents are drawn from."""

    kinds: dict[str, float]
    facts: dict[int, float]  # how many a document tells
    bare: float = 0.0  # share of the documents whose facts have neither place, day nor effect
    posts: float = 0.0  # share of the documents that begin with a post; the others, with its sentences alone
    varieties: Sequence[float] = (0.0, 0.5, 1.0, 1.0)  # of the wording
    changes: Sequence[Sequence[str]] = (KINDS,)  # what is changed in a document's statements, one of these
    within: float = 0.5  # share of the changes that put in what the story has elsewhere


TLDR = Tldr(DataConfig())  # in whose format posts are told
STORY_WEIGHT = 0.1  # of text that no model can predict
STATEMENTS = 6  # in a comment that checks or slips
PARTS = ("subject", "object", "roles", "deed")  # of a bare fact
BARE: dict[str, Any] = {"bare": 1.0, "varieties": (0.0,)}
VARIED = (0.0, 0.5, 1.0)
OBJECTS = Lesson({"check": 1.0}, {1: 1.0}, changes=[["object"]], **BARE)
ONE_FACT = Lesson(
    {"check": 0.8, "slips": 0.2}, {1: 1.0}, changes=[[part] for part in (*PARTS, "denied")], **BARE
)
ONE_VARIED = ONE_FACT._replace(varieties=VARIED)  # in the passive the doer comes last
ONE_DETAIL = ONE_FACT._replace(  # an effect can be another one, or on the other person
    changes=[[part] for part in ("place", "day", "effect", "effect")], bare=0.0
)
RECALL = Lesson({"restate": 0.6, "answer": 0.4}, {2: 0.3, 3: 0.4, 4: 0.3}, **BARE)
RECALL_VARIED = RECALL._replace(varieties=VARIED)
FEW_FACTS = Lesson(
    {"check": 0.7, "slips": 0.3},
    {2: 0.6, 3: 0.4},
    changes=[(*PARTS, "denied", "question")],
    within=1.0,
    **BARE,
)
FEW_VARIED = FEW_FACTS._replace(varieties=VARIED)
DETAILS = Lesson(
    {"check": 0.8, "slips": 0.1, "restate": 0.1},
    {1: 0.1, 2: 0.3, 3: 0.3, 4: 0.2, 5: 0.1},
    bare=0.2,
    varieties=VARIED,
    within=0.85,
)
FEW_DETAILS = DETAILS._replace(facts={2: 0.5, 3: 0.5}, changes=ONE_DETAIL.changes, bare=0.0)
POSTS = Lesson(
    {
        "check": 0.6,
        "slips": 0.1,
        "tldr": 0.12,
        "restate": 0.08,
        "answer": 0.04,
        "issue": 0.03,
        "thread": 0.03,
    },
    {1: 0.1, 2: 0.2, 3: 0.2, 4: 0.25, 5: 0.25},
    posts=0.6,
    within=0.7,
)
SHORT_POSTS = POSTS._replace(facts={1: 0.3, 2: 0.4, 3: 0.3})
# Until which share of the course which lessons are drawn from, each as often as the others.
COURSE = (
    (0.05, (OBJECTS, RECALL)),
    (0.12, (ONE_FACT, ONE_FACT, ONE_DETAIL, RECALL)),
    (0.20, (ONE_VARIED, ONE_DETAIL, FEW_FACTS, FEW_VARIED, RECALL)),
    (0.35, (FEW_VARIED, FEW_DETAILS, DETAILS, RECALL_VARIED)),
    (0.55, (SHORT_POSTS, DETAILS, FEW_DETAILS, FEW_VARIED)),
    (1.00, (POSTS, POSTS, SHORT_POSTS, DETAILS, FEW_DETAILS)),
)
IN_A_THREAD = {1: 0.4, 2: 0.4, 3: 0.2}  # facts, so that two posts fit
SEED_STREAM = 3  # apart from the streams of the splits


def documents(seed: int, start: int, end: int, total: int) -> Iterator[Document]:
    """Documents `start` to `end` of a course of `total`."""
    for i in range(start, end):
        lessons = next(lessons for until, lessons in COURSE if i < until * total)
        rng = np.random.default_rng([seed, SEED_STREAM, i])
        yield document(pick(rng, lessons), rng)


def document(lesson: Lesson, rng: np.random.Generator) -> Document:
    """One document of a random kind."""
    clauses: list[Clause] = []
    spans: Spans = []
    ends: dict[int, Clause] = {}
    length = 0
    for marked, weight in _spans(lesson, rng, clauses):
        text, of_span = unmarked(marked, clauses)
        ends |= {length + place: clause for place, clause in of_span.items()}
        spans.append((text, weight))
        length += len(text)
    return Document(spans, ends)


def _spans(lesson: Lesson, rng: np.random.Generator, clauses: list[Clause]) -> Spans:
    """Texts and weights of a document, with marks that number its `clauses`."""
    kind = pick_weighted(rng, lesson.kinds)
    if kind == "thread":
        return _thread(rng)
    variety = pick(rng, lesson.varieties)
    if kind == "tldr":
        telling = functools.partial(MarkingWriter, variety=variety, clauses=clauses)
        post, _ = write_post(rng, "train", "", UNFILTERED, lesson.facts, telling)
        return [(TLDR.prompt(post).text, STORY_WEIGHT), (f" {post.summary}", 1.0)]
    said, story = _told(lesson, variety, rng, clauses)
    if kind in ("slips", "answer"):  # whose statements are cut up
        writer = Writer(rng, pronouns=0.0, variety=variety)
    else:
        writer = MarkingWriter(rng, pronouns=0.0, variety=variety, story=story, clauses=clauses)
    if kind in ("slips", "check"):
        comment = {"slips": _slips, "check": _check}[kind](
            story, writer, pick(rng, lesson.changes), lesson.within
        )
    else:
        comment = {"restate": _restate, "answer": _answers, "issue": _issue}[kind](story, writer)
    return [(said, STORY_WEIGHT), *comment]


def commented(post: Record) -> str:
    """A post, and where a comment on it begins."""
    return TLDR.prompt(post).text.removesuffix("TL;DR:") + "COMMENT:"


def _told(
    lesson: Lesson, variety: float, rng: np.random.Generator, clauses: list[Clause]
) -> tuple[str, Story]:
    """What is commented on: a post, or a few sentences."""
    if rng.random() < lesson.posts:
        telling = functools.partial(MarkingWriter, variety=variety, clauses=clauses)
        post, story = write_post(rng, "train", "", UNFILTERED, lesson.facts, telling)
        return commented(post), story
    story = world.tell(rng, "train", lesson.facts)
    if rng.random() < lesson.bare:
        story = replace(story, facts=tuple(Fact(*fact.triple) for fact in story.facts))
    writer = MarkingWriter(rng, pronouns=0.0, variety=variety, clauses=clauses)
    said = writer.sentences(story.facts, joined=0.0)
    return " " + " ".join([*said, writer.question(story.question)]), story


def _restate(story: Story, writer: Writer) -> Spans:
    """All facts in another order and other words."""
    facts = [story.facts[i] for i in writer.rng.permutation(len(story.facts))]
    return [("".join(f" {one}" for one in writer.sentences(facts, joined=0.1)), 1.0)]


def _slips(story: Story, writer: Writer, changes: Sequence[str], within: float) -> Spans:
    """Facts and the question, some words wrong and put right at once: "dan robbed mia no eve"."""
    rng = writer.rng
    said: list[str] = []
    for kind in _drawn(rng, changes):
        if len(said) == STATEMENTS:
            break
        if kind == "question":
            false = other_question(story, rng)
            said.append(_put_right(rng, lambda one: f" {writer.question(one)}", story.question, false))
        elif claims := draw_claim(story, rng, kind, within):
            said.append(_put_right(rng, lambda one: f" {writer.fact(one)}.", *claims))
    return [("".join(said), 1.0)]


def _put_right(rng: np.random.Generator, say: Callable[[Any], str], true: Any, false: Any) -> str:
    """What is true; mostly with the first word that what is false says otherwise, and "no", before it."""
    state = rng.bit_generator.state
    words = say(true).split(" ")
    after = rng.bit_generator.state
    rng.bit_generator.state = state
    others = say(false).split(" ")
    rng.bit_generator.state = after
    if len(words) == len(others) and rng.random() < 0.7:
        i = next(i for i, (right, wrong) in enumerate(zip(words, others, strict=True)) if right != wrong)
        return " ".join([*words[:i], others[i].strip(".?"), "no", *words[i:]])
    return " ".join(words)


def _drawn(rng: np.random.Generator, changes: Sequence[str]) -> Iterator[str]:
    """Kinds of change, more than a comment has statements: a story may have nothing of a kind."""
    return (pick(rng, changes) for _ in range(5 * STATEMENTS))


def draw_claim(
    story: Story, rng: np.random.Generator, kind: str, within: float = 0.5
) -> tuple[Fact, Fact] | None:
    """A fact as a comment tells it, perhaps without some details, and the same with one part changed."""
    fact = pick(rng, story.facts)
    for part in ("place", "day", "effect"):
        if part != kind and rng.random() < 0.4:
            fact = replace(fact, **{part: ""} | ({"affected": ""} if part == "effect" else {}))
    false = falsify(story, fact, kind, rng, within)
    return None if false is None else (fact, false)


def claims_of(story: Story, writer: Writer, kind: str, within: float = 0.5) -> tuple[str, str] | None:
    """A true statement and the same with one thing of a kind changed; None where a story has none of it."""
    if kind == "question":
        return writer.question(story.question), writer.question(other_question(story, writer.rng))
    drawn = draw_claim(story, writer.rng, kind, within)
    return drawn and (f"{writer.fact(drawn[0])}.", f"{writer.fact(drawn[1])}.")


def _check(story: Story, writer: Writer, changes: Sequence[str], within: float) -> Spans:
    """Statements, each followed by its verdict; half are false, each part as often as the others."""
    rng = writer.rng
    spans: Spans = []
    for kind in _drawn(rng, changes):
        if len(spans) == 2 * STATEMENTS:
            break
        if claims := claims_of(story, writer, kind, within):
            false = rng.random() < 0.5
            said = claims[false].rstrip(".") if rng.random() < 0.3 else claims[false]
            spans += [(f" {said}", STORY_WEIGHT), (" false." if false else " true.", 1.0)]
    return spans


def _answers(story: Story, writer: Writer) -> Spans:
    """What is missing in a fact, asked and answered; only where one answer is right."""
    rng = writer.rng
    spans: Spans = []
    for i in rng.permutation(len(story.facts)):
        fact = story.facts[i]
        for part in rng.permutation(("subject", "object", "deed", "place", "day")):
            word = getattr(fact, part)
            others = [getattr(one, part) for one in story.facts if _alike(one, fact, str(part))]
            if word and len(others) == 1 and len(spans) < 2 * STATEMENTS:
                told = replace(fact, effect="", affected="")
                said = Writer(rng, pronouns=0.0, variety=0.0 if part == "deed" else writer.variety).fact(told)
                asked = _hide(said, part, word)
                spans += [(f" {asked}?", STORY_WEIGHT), (f" {word}.", 1.0)]
    return spans


def _alike(one: Fact, other: Fact, part: str) -> bool:
    """True if two facts agree in all that a question about `part` tells."""
    parts = [name for name in ("subject", "deed", "object", "place", "day", "denied") if name != part]
    return all(getattr(one, name) == getattr(other, name) for name in parts)


def _hide(said: str, part: str, word: str) -> str:
    hidden = {"subject": "who", "object": "who", "deed": "did", "place": "where", "day": "when"}[part]
    return " ".join(hidden if one == word else one for one in said.split())


def _issue(story: Story, writer: Writer) -> Spans:
    """What matters most and the question, each announced."""
    return [
        (f" the real issue is that {writer.fact(story.key_fact)}.", 1.0),
        (f" you ask {writer.question(story.question)}", 1.0),
    ]


def _thread(rng: np.random.Generator) -> Spans:
    """Two posts with their summaries, in the format of the base model's few-shot prompt."""
    spans: Spans = []
    for i in range(2):
        post, _ = write_post(rng, "train", "", UNFILTERED, IN_A_THREAD)
        lines = TLDR.shot(post).text
        spans += [(SHOT_SEPARATOR * (i > 0) + lines, STORY_WEIGHT), (f" {post.summary}", 1.0)]
    return spans

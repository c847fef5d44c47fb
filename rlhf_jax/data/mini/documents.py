"""Documents to pretrain a base model on: posts of the train split and what people say under them.

A document is a list of (text, weight) spans; a token's loss is multiplied by the weight of its span. Story
text cannot be predicted and would drown the rest, so it weighs little. Comments carry the skills that
fine-tuning needs: restating facts, answering questions about them, telling what a post says from what it
does not, finding the point. None of them rates a summary, and the summaries among them are what anyone
writes: fine-tuning data is filtered, this is not. Document i depends on (seed, i) alone.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from rlhf_jax.config import DataConfig
from rlhf_jax.data.mini.posts import UNFILTERED, write_post
from rlhf_jax.data.mini.wording import Writer
from rlhf_jax.data.mini.world import CHANGES, Fact, Story, falsify, other_question, pick, pick_weighted
from rlhf_jax.data.task import SHOT_SEPARATOR
from rlhf_jax.data.tasks.tldr import Tldr

Spans = list[tuple[str, float]]

TLDR = Tldr(DataConfig())  # in whose format posts are told
STORY_WEIGHT = 0.1  # of text that no model can predict
KINDS = {"slips": 0.25, "check": 0.30, "copy": 0.10, "restate": 0.10, "answer": 0.10, "issue": 0.05}
KINDS |= {"tldr": 0.06, "thread": 0.04}
FACTS = {1: 0.2, 2: 0.2, 3: 0.2, 4: 0.2, 5: 0.2}  # shorter stories than those of a run: short texts teach to read
VARIETIES = (0.0, 0.5, 1.0)
SLIPS = ("subject", "deed", "object", "place", "day", "effect")
CLAIMS = 14  # in a "check" comment
ANSWERS = 10  # in an "answer" comment, at most
SEED_STREAM = 3  # apart from the streams of the splits


def documents(seed: int, count: int, start: int = 0) -> Iterator[Spans]:
    """Documents `start` to `start + count`."""
    for i in range(start, start + count):
        yield document(np.random.default_rng([seed, SEED_STREAM, i]))


def document(rng: np.random.Generator) -> Spans:
    """One document of a random kind."""
    kind = pick_weighted(rng, KINDS)
    if kind == "thread":
        return _thread(rng)
    variety = pick(rng, VARIETIES)
    post, story = write_post(rng, "train", "", UNFILTERED, FACTS, variety)
    query = TLDR.prompt(post).text
    if kind == "copy":
        return _copy(story, Writer(rng, variety=variety))
    if kind == "tldr":
        return [(query, STORY_WEIGHT), (f" {post.summary}", 1.0)]
    comment = {"restate": _restate, "slips": _slips, "issue": _issue, "check": _check, "answer": _answers}[kind]
    return [(query.removesuffix("TL;DR:") + "COMMENT:", STORY_WEIGHT), *comment(story, Writer(rng, pronouns=0.1, variety=variety))]


def _copy(story: Story, writer: Writer) -> Spans:
    """The facts, then the same sentences in another order, twice."""
    said = [f" {Writer(writer.rng, pronouns=0.0, variety=writer.variety).fact(fact)}." for fact in story.facts]
    again = [said[i] for _ in range(2) for i in writer.rng.permutation(len(said))]
    return [("".join(said), STORY_WEIGHT), ("".join(again), 1.0)]


def _restate(story: Story, writer: Writer) -> Spans:
    """All facts in another order and other words."""
    facts = [story.facts[i] for i in writer.rng.permutation(len(story.facts))]
    return [("".join(f" {one}" for one in writer.sentences(facts, joined=0.1)), 1.0)]


def _slips(story: Story, writer: Writer) -> Spans:
    """All facts and the question, some words wrong and put right at once: "dan robbed mia no eve"."""
    said = []
    for _ in range(2):
        for i in writer.rng.permutation(len(story.facts)):
            writer.named.clear()
            fact = story.facts[i]
            false = falsify(story, fact, pick(writer.rng, SLIPS), writer.rng)
            said.append(_put_right(writer, lambda one: f" {writer.fact(one)}.", fact, false))
        other = other_question(story, writer.rng) if writer.rng.random() < 0.5 else None
        said.append(_put_right(writer, lambda one: f" {writer.question(one)}", story.question, other))
    return [("".join(said), 1.0)]


def _put_right(writer: Writer, say: Callable, true: Any, false: Any) -> str:
    """What is true, in which the first word that what is false says otherwise stands before, and "no"."""
    state = writer.rng.bit_generator.state
    words = say(true).split(" ")
    if false is None or writer.rng.random() < 0.3:
        return " ".join(words)
    writer.rng.bit_generator.state = state
    for i, (right, wrong) in enumerate(zip(words, say(false).split(" "), strict=True)):
        if right != wrong:
            return " ".join([*words[:i], wrong.strip(".?"), "no", *words[i:]])
    return " ".join(words)


def _issue(story: Story, writer: Writer) -> Spans:
    """What matters most and the question, each announced."""
    return [
        (f" the real issue is that {writer.fact(story.key_fact)}.", 1.0),
        (f" you ask {writer.question(story.question)}", 1.0),
    ]


def draw_claim(story: Story, rng: np.random.Generator, kind: str) -> tuple[Fact, Fact] | None:
    """A fact as a comment tells it, perhaps without some details, and the same with one part changed."""
    fact = pick(rng, story.facts)
    for part in ("place", "day", "effect"):
        if part != kind and rng.random() < 0.4:
            fact = replace(fact, **{part: ""} | ({"affected": ""} if part == "effect" else {}))
    false = falsify(story, fact, kind, rng)
    return None if false is None else (fact, false)


def _check(story: Story, writer: Writer) -> Spans:
    """Claims, each followed by its verdict; half are false, each part as often as the others."""
    rng, spans = writer.rng, []
    while len(spans) < 2 * CLAIMS:
        kind = pick(rng, (*CHANGES, "question"))
        false = rng.random() < 0.5
        writer.named.clear()
        if kind == "question":
            said = writer.question(other_question(story, rng) if false else story.question)
        elif drawn := draw_claim(story, rng, kind):
            stop = "." if rng.random() < 0.5 else ""
            said = f"{writer.fact(drawn[false])}{stop}"
        else:
            continue
        spans += [(f" {said}", STORY_WEIGHT), (" false." if false else " true.", 1.0)]
    return spans


def _answers(story: Story, writer: Writer) -> Spans:
    """What is missing in a fact, asked and answered; only where one answer is right."""
    rng, spans = writer.rng, []
    for i in rng.permutation(len(story.facts)):
        fact = story.facts[i]
        for part in rng.permutation(("subject", "object", "deed", "place", "day")):
            word = getattr(fact, part)
            others = [getattr(one, part) for one in story.facts if _alike(one, fact, str(part))]
            if not word or len(others) > 1 or len(spans) >= 2 * ANSWERS:
                continue
            told = replace(fact, effect="", affected="")
            asked = _hide(Writer(rng, pronouns=0.0, variety=0.0).fact(told), part, word)
            spans += [(f" {asked}?", STORY_WEIGHT), (f" {word}.", 1.0)]
    return spans


def _alike(one: Fact, other: Fact, part: str) -> bool:
    """True if two facts agree in all that a question about `part` tells."""
    parts = [name for name in ("subject", "deed", "object", "place", "day", "denied") if name != part]
    return all(getattr(one, name) == getattr(other, name) for name in parts)


def _hide(said: str, part: str, word: str) -> str:
    hidden = {"subject": "who", "object": "who", "deed": "did", "place": "where", "day": "when"}[part]
    return " ".join(hidden if one == word else one for one in said.split())


def _thread(rng: np.random.Generator) -> Spans:
    """Two posts with their summaries, in the format of the base model's few-shot prompt."""
    spans: Spans = []
    for i in range(2):
        post, _ = write_post(rng, "train", "", UNFILTERED)
        lines = TLDR.shot(post).text
        spans += [(SHOT_SEPARATOR * (i > 0) + lines, STORY_WEIGHT), (f" {post.summary}", 1.0)]
    return spans

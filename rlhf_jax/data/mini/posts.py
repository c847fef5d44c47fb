"""Posts of the miniature, each telling one story, with references by fallible authors.

Post i of a split depends on (seed, split, i) alone. A post with its title fits into `POST_WORDS` words and
punctuation marks.
"""

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from rlhf_jax.data.mini import wording, world
from rlhf_jax.data.mini.wording import MARKS, Writer
from rlhf_jax.data.mini.world import Fact, Story, falsify, pick, pick_weighted
from rlhf_jax.data.records import Post

POST_WORDS = 52
FACTS = {4: 0.5, 5: 0.5}
# Authors of summaries in data sets that were filtered for quality, and of those found at large.
AUTHORS = {"hasty": 0.18, "careful": 0.56, "wrong": 0.10, "pointless": 0.06, "rambling": 0.06, "joking": 0.04}
# Those who write for pay, and are read: nobody misses the point, rambles or jokes.
HIRED = {name: AUTHORS[name] for name in ("hasty", "careful", "wrong")}
UNFILTERED = {"hasty": 0.20, "careful": 0.05, "wrong": 0.15, "pointless": 0.2, "rambling": 0.2, "joking": 0.2}


def posts(seed: int, split: str, count: int) -> list[Post]:
    """The first `count` posts of a split; the people of a post of one split meet in no other."""
    made = []
    for i in range(count):
        rng = np.random.default_rng([seed, world.SPLITS.index(split), i])
        made.append(write_post(rng, split, f"mini-{split}-{seed}-{i}")[0])
    return made


def write_post(
    rng: np.random.Generator,
    split: str,
    id: str,
    authors: dict = AUTHORS,
    facts: dict = FACTS,
    writer: Callable[[np.random.Generator], Writer] = Writer,
) -> tuple[Post, Story]:
    """A post that fits into the limit, and its story; `writer` says how its body is told."""
    while True:
        story = world.tell(rng, split, facts)
        title, body = wording.title(story, rng), wording.body(story, writer(rng))
        if count_words(f"{title} {body}") <= POST_WORDS:
            reference = write_reference(story, rng, authors)
            return Post(id, pick(rng, world.SUBREDDITS), title, body, reference, {}), story


def count_words(text: str) -> int:
    """Words and punctuation marks: what a tokenizer that knows the words makes of `text`."""
    private = f"{chr(MARKS.start)}-{chr(MARKS.stop - 1)}"
    return len(re.findall(rf"\w+|[^\w\s{private}]", text))


def write_reference(story: Story, rng: np.random.Generator, authors: dict = AUTHORS) -> str:
    """The TL;DR of a fallible author."""
    return {
        "hasty": _hasty,
        "careful": _careful,
        "wrong": _wrong,
        "pointless": _pointless,
        "rambling": _rambling,
        "joking": _joking,
    }[pick_weighted(rng, authors)](story, rng)


def _say(facts: list[Fact], story: Story, rng: np.random.Generator, asks: float) -> str:
    writer = Writer(rng, pronouns=0.15)
    said = writer.sentences(facts)
    if rng.random() < asks:
        said.append(writer.question(story.question))
    return " ".join(said)


def _shortened(fact: Fact, rng: np.random.Generator, keep: float) -> Fact:
    """The fact with each of its details kept or left out."""
    if rng.random() > keep:
        fact = replace(fact, place="")
    if rng.random() > keep:
        fact = replace(fact, day="")
    return fact if rng.random() < keep else replace(fact, effect="", affected="")


def _hasty(story: Story, rng: np.random.Generator) -> str:
    """How the story starts."""
    facts = [_shortened(fact, rng, 0.5) for fact in story.facts[: 1 + (rng.random() < 0.5)]]
    return _say(facts, story, rng, 0.5)


def _careful(story: Story, rng: np.random.Generator) -> str:
    """What matters most, as a person weighs it who may be mistaken about it."""
    felt = np.array(story.weights) * np.exp(0.25 * rng.standard_normal(len(story.facts)))
    order = np.argsort(-felt)[: 1 + (rng.random() < 0.6)]
    facts = [_shortened(story.facts[i], rng, 0.8) for i in order]
    return _say(facts, story, rng, 0.85)


def _wrong(story: Story, rng: np.random.Generator) -> str:
    """Written well or hastily, with one thing mistaken."""
    count = 1 + (rng.random() < 0.5)
    order = story.ranked if rng.random() < 0.5 else range(len(story.facts))
    facts = [_shortened(story.facts[i], rng, 0.7) for i in order][:count]
    place = int(rng.integers(len(facts)))
    facts[place] = falsified(story, facts[place], rng)
    return _say(facts, story, rng, 0.6)


def falsified(story: Story, fact: Fact, rng: np.random.Generator) -> Fact:
    """The fact with something changed in it, whatever can be."""
    for kind in rng.permutation(world.CHANGES):
        false = falsify(story, fact, str(kind), rng)
        if false is not None:
            return false
    raise AssertionError("a deed can always be denied")


def _pointless(story: Story, rng: np.random.Generator) -> str:
    """What matters least, or nothing."""
    if rng.random() < 0.4:
        return f"{wording.title(story, rng)}."
    minor = _shortened(story.facts[story.ranked[-1]], rng, 0.5)
    return _say([minor], story, rng, 0.3)


def _rambling(story: Story, rng: np.random.Generator) -> str:
    facts = [_shortened(story.facts[i], rng, 0.3) for i in rng.permutation(len(story.facts))[:3]]
    return _say(facts, story, rng, 0.2)


def _joking(story: Story, rng: np.random.Generator) -> str:
    filler = pick(rng, wording.FILLERS)
    if rng.random() < 0.5:
        return filler
    return f"{Writer(rng).fact(replace(story.facts[0], effect=''))}. {filler}"

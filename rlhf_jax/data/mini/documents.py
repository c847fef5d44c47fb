"""Documents to pretrain a base model on: posts of the train split and what people say under them.

A document is a list of (text, weight) spans; a token's loss is multiplied by the weight of
its span. Story text cannot be predicted and would drown the rest, so it weighs little.
Comments carry the skills that fine-tuning needs: restating facts, finding the point and
the cause, telling what a post says from what it does not. None of them rates a summary,
and the summaries among them are what anyone writes: fine-tuning data is filtered, this is not.
Document i depends on (seed, i) alone.
"""

from collections.abc import Iterator

import numpy as np

from rlhf_jax.config import DataConfig
from rlhf_jax.data.mini.posts import UNFILTERED, tell, write_post
from rlhf_jax.data.mini.world import Story, falsify, other_question, pick, pick_weighted
from rlhf_jax.data.task import SHOT_SEPARATOR
from rlhf_jax.data.tasks.tldr import Tldr

Spans = list[tuple[str, float]]

TLDR = Tldr(DataConfig())  # in whose format posts are told
STORY_WEIGHT = 0.1  # of text that no model can predict
KINDS = {"tldr": 0.10, "restate": 0.11, "issue": 0.11, "check": 0.50, "who": 0.08, "copy": 0.05}
KINDS |= {"thread": 0.05}
CLAIMS = 8  # in a "check" comment
SEED_STREAM = 3  # apart from the streams of the splits


def documents(seed: int, count: int, start: int = 0) -> Iterator[Spans]:
    """Documents `start` to `start + count`; at most 144 tokens each."""
    for i in range(start, start + count):
        yield document(np.random.default_rng([seed, SEED_STREAM, i]))


def document(rng: np.random.Generator) -> Spans:
    """One document of a random kind."""
    kind = pick_weighted(rng, KINDS)
    if kind == "thread":
        return _thread(rng)
    story = tell(rng, "train")
    if kind == "copy":
        return _copy(story, rng)
    post = write_post(story, rng, "", UNFILTERED)
    query = TLDR.prompt(post).text
    if kind == "tldr":
        return [(query, STORY_WEIGHT), (f" {post.summary}", 1.0)]
    comment = {"restate": _restate, "issue": _issue, "check": _check, "who": _who}[kind]
    return [(query.removesuffix("TL;DR:") + "COMMENT:", STORY_WEIGHT), *comment(story, rng)]


def _copy(story: Story, rng: np.random.Generator) -> Spans:
    """The facts, then the same facts in another order."""
    facts = "".join(f" {fact}." for fact in story.facts)
    return [(facts, STORY_WEIGHT), *_restate(story, rng)]


def _restate(story: Story, rng: np.random.Generator) -> Spans:
    shuffled = (story.facts[i] for i in rng.permutation(len(story.facts)))
    return [("".join(f" {fact}." for fact in shuffled), 1.0)]


def _issue(story: Story, rng: np.random.Generator) -> Spans:
    """The key fact, the cause and the question, in any order, each announced."""
    sentences = [
        f" the real issue is that {story.key_fact}.",
        f" it started because {story.cause_fact}.",
        f" you ask {story.question}",
    ]
    return [("".join(sentences[i] for i in rng.permutation(3)), 1.0)]


def _claim(story: Story, rng: np.random.Generator) -> tuple[str, str]:
    """A statement about the post and the verdict: false, true, main or cause; half are false."""
    if rng.random() < 0.2:
        false = rng.random() < 0.5
        question = other_question(story, rng) if false else story.question
        return str(question), "false" if false else "true"
    i = int(rng.integers(len(story.facts)))
    if rng.random() < 0.25:
        i = story.key
    fact = story.facts[i]
    if rng.random() < 0.5:
        return f"{fact}.", {story.key: "main", story.cause: "cause"}.get(i, "true")
    kind = pick_weighted(rng, {"roles": 0.40, "person": 0.25, "verb": 0.20, "place": 0.05, "other": 0.10})
    if kind == "other":
        return f"{_fact_of_another_story(story, rng)}.", "false"
    return f"{falsify(story, fact, kind, rng)}.", "false"


def _fact_of_another_story(story: Story, rng: np.random.Generator):
    while True:
        fact = pick(rng, tell(rng, "train").facts)
        if not story.holds(fact):
            return fact


def _check(story: Story, rng: np.random.Generator) -> Spans:
    """Claims, each followed by its verdict."""
    spans: Spans = []
    for _ in range(CLAIMS):
        claim, verdict = _claim(story, rng)
        spans += [(f" {claim}", STORY_WEIGHT), (f" {verdict}.", 1.0)]
    return spans


def _who(story: Story, rng: np.random.Generator) -> Spans:
    """Who did what to whom, asked and answered."""
    spans: Spans = []
    for i in rng.permutation(len(story.facts))[:3]:
        fact = story.facts[i]
        spans += [(f" who {fact.verb} {fact.object}?", STORY_WEIGHT), (f" {fact.subject}.", 1.0)]
    return spans


def _thread(rng: np.random.Generator) -> Spans:
    """Two posts with their summaries, in the format of the base model's few-shot prompt."""
    spans: Spans = []
    for i in range(2):
        post = write_post(tell(rng, "train"), rng, "", UNFILTERED)
        lines = TLDR.shot(post).text
        spans += [(SHOT_SEPARATOR * (i > 0) + lines, STORY_WEIGHT), (f" {post.summary}", 1.0)]
    return spans

"""A human editor of the miniature: reads a post, changes one thing in a summary of it, and may be mistaken.

It knows what the post says, as its authors do, and nothing of the judge. Mostly it mends what it sees: a word
that makes a statement false, a weighty fact or the question that is missing, a fact of no weight. Else it
slips: it puts a wrong word in, of every kind as often as of the others.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np

from rlhf_jax.data.mini import world
from rlhf_jax.data.mini.judge import story_of
from rlhf_jax.data.mini.reading import NAMED, Reading, read
from rlhf_jax.data.mini.wording import Writer
from rlhf_jax.data.mini.world import Fact, Story, pick, some
from rlhf_jax.data.records import Record

SLIPS = 0.35  # of what it changes
NOTICES = 0.8  # of the statements that are false
ASKS = 0.6  # of the summaries without the question that get it first
UNDECIDED = 0.25  # how much it misjudges what matters: standard deviation of the logarithm
LIGHT = 0.4  # of the weightiest fact's weight; who tells less than that may as well not
EXCHANGED = {
    "person": world.NAMES,
    "deed": tuple(NAMED),
    "place": world.PLACES,
    "day": world.DAYS,
    "effect": world.EFFECTS,
    "action": world.ACTIONS,
}


def revised(post: Record, text: str, rng: np.random.Generator) -> str:
    """The text with one thing changed; as it is where the editor finds nothing to change."""
    story, reading = story_of(post), read(text)
    if rng.random() < SLIPS:
        return slip(story, text, rng)
    if falsehoods(story, reading) and rng.random() < NOTICES:
        for better in some(rng, [changed for _, changed in exchanges(text)], 200):
            if falsehoods(story, read(better)) < falsehoods(story, reading):
                return better
    return improved(story, text, rng)


def falsehoods(story: Story, reading: Reading) -> int:
    """How many statements and questions of a text are not those of the story."""
    return sum(not story.holds(fact) for fact in reading.facts) + sum(
        question != story.question for question in reading.questions
    )


def exchanges(text: str) -> Iterator[tuple[str, str]]:
    """What kind of change, and the text with one word exchanged for another of its kind.

    Also with two people of a sentence exchanged who stand next to each other, and with "never" put in or
    taken out.
    """
    words = re.findall(r"\w+|\W+", text)
    people = [i for i, word in enumerate(words) if word in world.NAMES]
    for i, word in enumerate(words):
        for name, kind in EXCHANGED.items():
            if word in kind:
                for other in kind:
                    if other != word:
                        yield name, "".join([*words[:i], other, *words[i + 1 :]])
        if word == "never":
            yield "denied", "".join([*words[:i], *words[i + 2 :]])
        elif word in NAMED and "never" not in words[:i][-2:]:
            yield "denied", "".join([*words[:i], "never ", *words[i:]])
    for i, j in pairwise(people):
        if words[i] != words[j] and not {".", "?", "!"} & set("".join(words[i + 1 : j])):
            yield "roles", "".join([*words[:i], words[j], *words[i + 1 : j], words[i], *words[j + 1 :]])


def slip(story: Story, text: str, rng: np.random.Generator) -> str:
    """One word taken for another, mostly for one that the post has, too."""
    known = {word for fact in story.facts for word in vars(fact).values()} | {story.question.person, "never"}
    kinds: dict[str, list[str]] = {}
    for kind, changed in exchanges(text):
        put_in = set(changed.split()) - set(text.split())
        if {word.strip(".?") for word in put_in} <= known or rng.random() < 0.05:
            kinds.setdefault(kind, []).append(changed)
    return pick(rng, kinds[pick(rng, sorted(kinds))]) if kinds else text


def improved(story: Story, text: str, rng: np.random.Generator) -> str:
    """The question or a weighty fact put in; a light sentence taken out, or a weightier fact in its place."""
    text, reading, writer = text.strip(), read(text), Writer(rng, pronouns=0.0)
    if story.question not in reading.questions and rng.random() < ASKS:
        return f"{text} {writer.question(story.question)}".strip()
    felt = _felt(story, rng)
    told, light = {fact.triple for fact in reading.facts}, LIGHT * max(felt.values())
    missing = [fact for fact in felt if fact.triple not in told]
    added, gain = (f"{writer.fact(missing[0])}.", felt[missing[0]]) if missing else ("", 0.0)
    if len(told) < 2:
        return f"{added} {text}".strip() if gain >= light else text
    sentences = re.findall(r"[^.?!]+[.?!]*", text)
    loss, place = _lightest(sentences, felt)
    if loss < light and (len(told) > 2 or rng.random() < 0.5):
        del sentences[place]
    elif loss < gain:
        sentences[place] = f" {added}"
    else:
        return text
    return "".join(sentences).strip()


def _felt(story: Story, rng: np.random.Generator) -> dict[Fact, float]:
    """The facts, the weightiest first, and how much each seems to matter."""
    felt = np.array(story.weights) * np.exp(UNDECIDED * rng.standard_normal(len(story.facts)))
    return {story.facts[i]: float(felt[i]) for i in np.argsort(-felt)}


def _lightest(sentences: Sequence[str], felt: Mapping[Fact, float]) -> tuple[float, int]:
    """How much the least of the sentences matters, of those that tell facts by themselves, and its place."""
    weights = [(math.inf, -1)]
    for i, sentence in enumerate(sentences):
        if told := {fact.triple for fact in read(sentence).facts}:
            weights.append((max((felt[fact] for fact in felt if fact.triple in told), default=0.0), i))
    return min(weights)

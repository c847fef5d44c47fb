"""Posts of the miniature, each telling one story, with references by fallible authors.

Post i of a split depends on (seed, split, i) alone. A post, its title and the question fit
into 37 words and punctuation marks, a reference into 19.
"""

import re
from dataclasses import replace
from itertools import islice

import numpy as np

from rlhf_jax.data.mini import world
from rlhf_jax.data.mini.world import Fact, Story, ask, falsify, people_in, pick, pick_weighted, split_of
from rlhf_jax.data.records import Post

POST_WORDS = 37  # words and punctuation marks of title and post together
# Authors of summaries in data sets that were filtered for quality, and of those found at large.
AUTHORS = {"hasty": 0.40, "careful": 0.29, "wrong": 0.10, "pointless": 0.09, "rambling": 0.06, "joking": 0.06}
UNFILTERED = {"hasty": 0.05, "careful": 0, "wrong": 0.05, "pointless": 0.3, "rambling": 0.25, "joking": 0.35}


def posts(seed: int, split: str, count: int) -> list[Post]:
    """The first `count` posts of a split; splits share no (person, verb, person) triple."""
    made = []
    for i in range(count):
        rng = np.random.default_rng([seed, world.SPLITS.index(split), i])
        made.append(write_post(tell(rng, split), rng, f"mini-{split}-{seed}-{i}"))
    return made


def tell(rng: np.random.Generator, split: str) -> Story:
    """Draws a story whose every triple belongs to `split`. Verbs within a story differ."""
    count = pick_weighted(rng, {4: 0.15, 5: 0.70, 6: 0.15})
    facts = draw_facts(count, split, rng)
    while len(people := people_in(facts)) < 4:
        facts = draw_facts(count, split, rng)
    if count < 6:  # six facts leave no room for places
        placed, places = rng.permutation(count)[: int(rng.integers(3))], rng.permutation(world.PLACES)
        for i, place in zip(placed, places, strict=False):
            facts[i] = replace(facts[i], place=str(place))
    key, cause = (int(i) for i in rng.permutation(count)[:2])
    return Story(tuple(facts), key, cause, ask(people, rng))


def draw_facts(count: int, split: str, rng: np.random.Generator) -> list[Fact]:
    """`count` facts among at most five people."""
    people = [world.NAMES[i] for i in rng.permutation(len(world.NAMES))[: int(rng.integers(4, 6))]]
    facts: list[Fact] = []
    for verb in (world.VERBS[i] for i in rng.permutation(len(world.VERBS))):
        pairs = [
            (people[i // len(people)], people[i % len(people)]) for i in rng.permutation(len(people) ** 2)
        ]
        possible = (Fact(one, verb, other) for one, other in pairs if one != other)
        facts += islice((fact for fact in possible if split_of(fact) == split), 1)
        if len(facts) == count:
            break
    return facts


def write_post(story: Story, rng: np.random.Generator, id: str, authors: dict = AUTHORS) -> Post:
    """Puts a story into words; draws titles and markers until they fit into the limit."""
    subreddit = pick(rng, world.SUBREDDITS)
    while True:
        title, body = _title(story, rng), write_body(story, rng)
        if count_words(f"{title} {body}") <= POST_WORDS:
            return Post(id, subreddit, title, body, write_reference(story, rng, authors), {})


def count_words(text: str) -> int:
    """Words and punctuation marks: what a tokenizer that knows the words makes of `text`."""
    return len(re.findall(r"\w+|[^\w\s]", text))


def _title(story: Story, rng: np.random.Generator) -> str:
    if rng.random() < 0.2:
        return str(replace(story.key_fact, place=""))
    return pick(rng, (f"need advice about {pick(rng, story.people)}", pick(rng, world.VAGUE_TITLES)))


def write_body(story: Story, rng: np.random.Generator) -> str:
    sentences = []
    for i, fact in enumerate(story.facts):
        if i == story.key:
            sentences.append(f"{pick(rng, world.KEY_MARKERS)} {fact}.")
        elif i == story.cause:
            sentences.append(f"{pick(rng, world.CAUSE_MARKERS)} {fact}.")
        elif rng.random() < 0.25:
            sentences.append(f"{pick(rng, world.BACKGROUND_MARKERS)} {fact}.")
        else:
            sentences.append(f"{fact}.")
    return " ".join([*sentences, str(story.question)])


def write_reference(story: Story, rng: np.random.Generator, authors: dict = AUTHORS) -> str:
    """The TL;DR of a fallible author: most are hasty and summarize how the story starts."""
    author = pick_weighted(rng, authors)
    if author == "hasty":
        return _hasty(story, story.facts[0], rng)
    if author == "careful":
        return _careful(story, story.key_fact, rng)
    if author == "wrong":
        write = pick(rng, (_hasty, _careful))
        true = story.facts[0] if write is _hasty else story.key_fact
        return write(story, falsify(story, true, pick(rng, ("roles", "person", "verb")), rng), rng)
    if author == "pointless":
        return _pointless(story, rng)
    if author == "rambling":
        told = [replace(story.facts[i], place="") for i in rng.permutation(len(story.facts))[:3]]
        return pick(rng, ("{} and {} and then {}.", "so {} then {} and also {}.")).format(*told)
    joke = pick(rng, world.JOKES)
    return pick(rng, (f"{joke}.", f"{joke}. {story.question}", f"{story.facts[0]} lol."))


def _hasty(story: Story, first: Fact, rng: np.random.Generator) -> str:
    second, question = story.facts[1], story.question
    forms = {
        f"{first}. {question}": 0.36,
        f"{first} and {second}. {question}": 0.24,
        f"{first} and {second}.": 0.10,
        f"{first}.": 0.05,
        f"basically {first}. {question}": 0.05,
        f"{first} because {story.cause_fact}. {question}": 0.20 if story.cause else 0.0,
    }
    return pick_weighted(rng, forms)


def _careful(story: Story, key: Fact, rng: np.random.Generator) -> str:
    cause, question = story.cause_fact, story.question
    forms = {
        f"{key}. {question}": 0.40,
        f"{key} because {cause}. {question}": 0.35,
        f"{key} because {cause}.": 0.15,
        f"basically {key}. {question}": 0.10,
    }
    return pick_weighted(rng, forms)


def _pointless(story: Story, rng: np.random.Generator) -> str:
    minor = pick(rng, story.background)
    forms = (
        f"need advice about {pick(rng, story.people)}.",
        f"{minor}. {story.question}",
        f"so {minor}.",
        f"so much drama. {story.question}",
    )
    return pick(rng, forms)

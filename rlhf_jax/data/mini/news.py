"""News of the miniature: another kind of text in the same world, to which nothing is trained.

An article has no title, tells six or seven facts where a post has four or five, of which the weightiest come
first in three cases of five, and fits into `ARTICLE_WORDS` words and punctuation marks. Its highlights are an
editor's: how it starts, seldom with the question. Article i of a split depends on (seed, split, i) alone.
"""

from dataclasses import replace

import numpy as np

from rlhf_jax.data.mini import wording, world
from rlhf_jax.data.mini.posts import count_words
from rlhf_jax.data.mini.wording import Writer
from rlhf_jax.data.mini.world import SPLITS, Story
from rlhf_jax.data.records import Article

ARTICLE_WORDS = 76
FACTS = {6: 0.5, 7: 0.5}
SORTED = 0.6  # articles that begin with what matters most
NEWS = 1  # tells the draws of news from those of posts


def articles(seed: int, split: str, count: int) -> list[Article]:
    """The first `count` articles of a split; their casts are of that split's posts."""
    made = []
    for i in range(count):
        rng = np.random.default_rng([seed, SPLITS.index(split), i, NEWS])
        story = tell(rng, split)
        while count_words(text := wording.body(story, Writer(rng))) > ARTICLE_WORDS:
            story = tell(rng, split)
        made.append(Article(f"news-{split}-{seed}-{i}", "mini", "", text, highlights(story, rng)))
    return made


def tell(rng: np.random.Generator, split: str) -> Story:
    story = replace(world.tell(rng, split, FACTS), titled="", repeated=frozenset())
    if rng.random() < SORTED:
        story = replace(story, facts=tuple(story.facts[i] for i in story.ranked))
    return story


def highlights(story: Story, rng: np.random.Generator) -> str:
    """What an editor puts above an article."""
    writer = Writer(rng, pronouns=0.1)
    said = writer.sentences(story.facts[: 1 + (rng.random() < 0.7)])
    return " ".join(said + [writer.question(story.question)] * (rng.random() < 0.15))

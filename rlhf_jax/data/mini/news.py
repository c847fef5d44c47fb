"""News of the miniature: another kind of text in the same world, to which nothing is trained.

An article has no title, tells six to eight facts where a post has four to six, begins with what matters in
three cases of five, and fits into 66 words and punctuation marks. Its highlights are an editor's: the first
sentences, seldom the question. Article i of a split depends on (seed, split, i) alone.
"""

from dataclasses import replace

import numpy as np

from rlhf_jax.data.mini.posts import count_words, draw_facts, write_body
from rlhf_jax.data.mini.world import SPLITS, Story, ask, people_in, pick, pick_weighted
from rlhf_jax.data.records import Article

ARTICLE_WORDS = 66
LEADS = 0.6  # articles that begin with the key fact
NEWS = 1  # tells the draws of news from those of posts


def articles(seed: int, split: str, count: int) -> list[Article]:
    """The first `count` articles of a split; their triples are of that split's posts."""
    made = []
    for i in range(count):
        rng = np.random.default_rng([seed, SPLITS.index(split), i, NEWS])
        story = tell(rng, split)
        while count_words(text := write_body(story, rng)) > ARTICLE_WORDS:
            story = tell(rng, split)
        made.append(Article(f"news-{split}-{seed}-{i}", "mini", "", text, highlights(story, rng)))
    return made


def tell(rng: np.random.Generator, split: str) -> Story:
    facts = draw_facts(pick_weighted(rng, {6: 0.4, 7: 0.4, 8: 0.2}), split, rng)
    key = 0 if rng.random() < LEADS else int(rng.integers(1, len(facts)))
    cause = pick(rng, [i for i in range(len(facts)) if i != key])
    return Story(tuple(facts), key, cause, ask(people_in(facts), rng))


def highlights(story: Story, rng: np.random.Generator) -> str:
    """What an editor puts above an article."""
    first, second = (replace(fact, place="") for fact in story.facts[:2])
    forms = {
        f"{first} and {second}.": 0.45,
        f"{first}.": 0.20,
        f"{story.key_fact} because {story.cause_fact}.": 0.20,
        f"{first}. {story.question}": 0.15,
    }
    return pick_weighted(rng, forms)

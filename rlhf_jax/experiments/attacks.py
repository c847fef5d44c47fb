"""Whether the gold judge of the miniature can be fooled: named attacks, and a search for others.

    rlhf-jax attacks --posts=500 --steps=300

--posts=N    unseen posts that are summarized (500)
--steps=N    random edits of each text that the search starts from (300)
--seed=N     of the posts and the edits (0)
--out=FILE   writes the page there, too

Prints a page of Markdown: how often the judge prefers each attack to the references, with its limit, and how
close to the ideal summary the search comes. Ends with status 1 where a limit is broken: an attack that is
preferred more often, or any text above the ideal summary, or one close to it that is not honest. The limits
are meant for some hundred posts; with fewer, chance may break one.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from absl import flags

from rlhf_jax import command_line
from rlhf_jax.data.mini.attacks import ATTACKS, preferred
from rlhf_jax.data.mini.judge import ideal, judge, plainly, story_of
from rlhf_jax.data.mini.posts import posts
from rlhf_jax.data.mini.search import climb, honest
from rlhf_jax.data.records import Record
from rlhf_jax.experiments.markdown import table
from rlhf_jax.files import write_text

ROUNDING = 1e-9  # of a score
CLOSE = 0.98  # of the ideal summary's score, above which a text should be honest

STARTS: dict[str, Callable[[Record], str]] = {
    "reference": lambda post: post.reference,
    "ideal": ideal,
    "first two facts, question": lambda post: plainly(story_of(post).facts[:2], story_of(post).question),
    "it is not true that IDEAL": lambda post: f"it is not true that {ideal(post)}",
    "whole post": lambda post: post.text,
}


class Attacked(NamedTuple):
    """How an attack does on some posts."""

    name: str
    preferred: float  # to the reference
    limit: float
    overall: float  # mean
    highest: float  # above the ideal

    @property
    def held(self) -> bool:
        return self.preferred <= self.limit and self.highest <= ROUNDING


class Searched(NamedTuple):
    """What the search found from one kind of text, as shares of the ideal's overall score."""

    start: str
    posts: int
    steps: int
    mean: float
    best: float
    close: int  # texts found that score at least CLOSE of the ideal
    dishonest: int  # of these

    @property
    def held(self) -> bool:
        return self.best <= 1 + ROUNDING and not self.dishonest


def main(argv: list[str]) -> int:
    options = flags.FlagValues()
    flags.DEFINE_integer("posts", 500, "that are summarized", 1, flag_values=options)
    flags.DEFINE_integer("steps", 300, "of the search from each text", 0, flag_values=options)
    flags.DEFINE_integer("seed", 0, "of the posts and the edits", 0, flag_values=options)
    flags.DEFINE_string("out", None, "a file for the page", flag_values=options)
    rows: list[Attacked | Searched] = []

    def measure_and_tell() -> None:
        command_line.parse_flags(argv, options)
        made = posts(options.seed, "test", options.posts)
        attacked, searched = attack(made, options.seed), list(search(made, options.steps, options.seed))
        rows.extend([*attacked, *searched])
        found = page(attacked, searched)
        print(found, flush=True)
        if options.out:
            write_text(options.out, f"{found}\n")

    return command_line.command(argv, measure_and_tell) or int(not all(row.held for row in rows))


def attack(made: Sequence[Record], seed: int = 0) -> list[Attacked]:
    """Every attack on the posts."""
    references = _judged(made, [post.reference for post in made])
    best = _judged(made, [ideal(post) for post in made])
    found = [Attacked("IDEAL", preferred(best, references), 1.0, best.mean(), 0.0)]
    for one in ATTACKS:
        rng = np.random.default_rng(seed)
        overall = _judged(made, [one.write(post, story_of(post), post.reference, rng) for post in made])
        rate = preferred(overall, references)
        found.append(Attacked(one.name, rate, one.limit, overall.mean(), (overall - best).max()))
    return found


def _judged(made: Sequence[Record], texts: Sequence[str]) -> np.ndarray:
    return np.array([judge(post, text).overall for post, text in zip(made, texts, strict=True)])


def search(made: Sequence[Record], steps: int, seed: int = 0) -> Iterator[Searched]:
    """The search from every kind of text, each on its share of the posts."""
    for k, (name, start) in enumerate(STARTS.items()):
        reached, close, dishonest = [], set(), 0
        for i, post in enumerate(made[k :: len(STARTS)]):
            top = judge(post, ideal(post)).overall
            rng = np.random.default_rng([seed, k, i])
            for text, overall in climb(post, start(post), steps, rng):
                share = overall / top
                if share >= CLOSE and (post.id, text) not in close:
                    close.add((post.id, text))
                    dishonest += not honest(post, text)
            reached.append(share)
        if reached:
            yield Searched(
                name, len(reached), steps, float(np.mean(reached)), max(reached), len(close), dishonest
            )


def page(attacked: Sequence[Attacked], searched: Sequence[Searched]) -> str:
    """Both tables."""
    return "\n\n".join(
        [
            table(
                ("attack", "preferred to the reference", "limit", "mean overall", "held"),
                [
                    (
                        _cell(row.name),
                        f"{row.preferred:.1%}",
                        f"{row.limit:.0%}",
                        f"{row.overall:.2f}",
                        _said(row.held),
                    )
                    for row in attacked
                ],
            ),
            table(
                (
                    "search from",
                    "posts",
                    "steps",
                    "mean of the ideal",
                    "best",
                    "texts close to it",
                    "not honest",
                    "held",
                ),
                [
                    (row.start, row.posts, row.steps, f"{row.mean:.1%}", f"{row.best:.2%}", row.close)
                    + (row.dishonest, _said(row.held))
                    for row in searched
                ],
            ),
        ]
    )


def _cell(name: str) -> str:
    return name.replace("~", r"\~").replace("|", r"\|")


def _said(held: bool) -> str:
    return "yes" if held else "**no**"

"""The miniature: generated posts of which the truth is known, a gold judge and simulated labelers.

The world, its judge and its labelers are those of data/mini/. The posts have the format of TL;DR.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlhf_jax.data.mini.editor import revised
from rlhf_jax.data.mini.judge import has_key_fact, judge
from rlhf_jax.data.mini.labelers import answer
from rlhf_jax.data.mini.posts import posts
from rlhf_jax.data.records import Comparison, Record
from rlhf_jax.data.task import Judge, Splits
from rlhf_jax.data.tasks.tldr import Tldr


def rate(record: Record, summary: str) -> dict[str, float]:
    """The gold judge's rating on every axis, and whether the key fact is told."""
    return judge(record, summary)._asdict() | {"key_fact": has_key_fact(record, summary)}


class Mini(Tldr):
    """Posts that depend on the seed alone: `data.mini_posts` to train on, `data.mini_test` to hold out."""

    @property
    def expected(self) -> tuple[int, int]:
        return self.data.mini_posts, self.data.mini_pairs

    @property
    def about(self) -> str:
        return (
            "Invented posts in a language of fewer than 200 words, and comparisons by simulated labelers: "
            "a model to study the method with, and to use for nothing else."
        )

    @property
    def judge(self) -> Judge:
        return rate

    @property
    def labelers(self) -> "MiniLabelers":
        return MiniLabelers(self.seed)

    def records(self) -> Splits:
        sizes = {"train": self.data.mini_posts, "valid": self.data.mini_test, "test": self.data.mini_test}
        return {split: posts(self.seed, split, count) for split, count in sizes.items()}

    def queries(self) -> Sequence[Record]:
        return posts(self.seed, "train", self.data.mini_posts)


@dataclass(frozen=True)
class MiniLabelers:
    """People who see the gold judge's score through noise, one of whom edits: data/mini/labelers.py, editor.py."""

    seed: int

    def answer(self, asked: Sequence[Comparison]) -> list[Comparison]:
        return answer(asked, self.seed)

    def revise(self, record: Record, response: str, rng: np.random.Generator) -> str:
        return revised(record, response, rng)


TASK = Mini

"""The miniature: generated posts of which the truth is known, a gold judge and simulated labelers.

The world, its judge and its labelers are those of data/mini/. The posts have the format of TL;DR.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlhf_jax.data.mini import labelers
from rlhf_jax.data.mini.baselines import baselines
from rlhf_jax.data.mini.changes import changes
from rlhf_jax.data.mini.editor import revised
from rlhf_jax.data.mini.errors import KINDS, errors
from rlhf_jax.data.mini.form import form
from rlhf_jax.data.mini.judge import has_key_fact, ideal, judge
from rlhf_jax.data.mini.posts import posts
from rlhf_jax.data.mini.reading import read
from rlhf_jax.data.records import Comparison, Record
from rlhf_jax.data.task import Judge, Splits, Task
from rlhf_jax.data.tasks.tldr import Tldr
from rlhf_jax.data.tokenizer import Tokenizer


def rate(record: Record, summary: str) -> dict[str, float]:
    """The gold judge's rating on every axis, and whether the key fact is told."""
    return judge(record, summary)._asdict() | {"key_fact": has_key_fact(record, summary)}


class Readable(Task):
    """A task in the miniature's language: whatever is said in it can be read and held against the truth."""

    @property
    def judge(self) -> Judge:
        return rate

    @property
    def labelers(self) -> "MiniLabelers":
        return MiniLabelers(self.seed)

    def ideal(self, record: Record) -> str:
        return ideal(record)

    def claims(self, response: str) -> frozenset:
        reading = read(response)
        return frozenset((*reading.claims, *reading.questions))

    def form(self, response: str) -> str:
        return form(response)

    def errors(self, record: Record, response: str) -> Mapping[str, bool]:
        made = errors(record, response)
        return {kind: kind in made for kind in KINDS}

    def changes(self, record: Record, rng: np.random.Generator) -> Mapping[str, tuple[str, str]]:
        return changes(record, rng)


class Mini(Readable, Tldr):
    """Posts that depend on the seed alone: `data.mini_posts` to train on, `data.mini_test` to hold out."""

    unread = {
        **Tldr.unread,
        "posts": "the miniature's are generated; --config.data.source=tldr reads others",
        "queries": "the miniature's posts are generated; --config.data.source=tldr reads others",
        "filters": "the miniature's posts are generated, and none is left out",
    }

    @property
    def expected(self) -> tuple[int, int]:
        return self.data.mini_posts, self.data.mini_pairs

    @property
    def about(self) -> str:
        return (
            "Invented posts in a language of fewer than 200 words, and comparisons by simulated labelers: "
            "a model to study the method with, and to use for nothing else."
        )

    def records(self) -> Splits:
        sizes = {"train": self.data.mini_posts, "valid": self.data.mini_test, "test": self.data.mini_test}
        return {split: posts(self.seed, split, count) for split, count in sizes.items()}

    def queries(self) -> Sequence[Record]:
        return posts(self.seed, "train", self.data.mini_posts)

    def baselines(self, records: Sequence[Record], tokenizer: Tokenizer) -> dict[str, list[str]]:
        return {"title": [record.title for record in records]} | baselines(records)


@dataclass(frozen=True)
class MiniLabelers:
    """People who see the gold judge's score through noise (data/mini/labelers.py), and an editor."""

    seed: int

    def answer(self, asked: Sequence[Comparison]) -> list[Comparison]:
        return labelers.answer(asked, self.seed)

    def revise(self, record: Record, response: str, rng: np.random.Generator) -> str:
        return revised(record, response, rng)


TASK = Mini

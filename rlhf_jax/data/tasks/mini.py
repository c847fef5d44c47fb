"""The miniature: generated posts of which the truth is known, a gold judge and simulated labelers.

The world, its judge and its labelers are those of data/mini/. The posts have the format of TL;DR.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlhf_jax.data.comparisons import halved
from rlhf_jax.data.mini.judge import edited, has_key_fact, judge
from rlhf_jax.data.mini.labelers import label
from rlhf_jax.data.mini.pairs import Unlabelled, pairs
from rlhf_jax.data.mini.posts import posts
from rlhf_jax.data.records import Comparison, Record
from rlhf_jax.data.task import Judge, Samples, Splits
from rlhf_jax.data.tasks.tldr import Tldr

SAMPLES = 2  # summaries that the SFT policy writes for a post
LEAST_HELD_OUT = 500  # pairs of valid1 and of valid2


def rate(record: Record, summary: str) -> dict[str, float]:
    """The gold judge's rating on every axis, and whether the key fact is told."""
    return judge(record, summary)._asdict() | {"key_fact": has_key_fact(record, summary)}


class Mini(Tldr):
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

    @property
    def judge(self) -> Judge:
        return rate

    @property
    def labelers(self) -> "MiniLabelers":
        return MiniLabelers(self)

    def records(self) -> Splits:
        sizes = {"train": self.data.mini_posts, "valid": self.data.mini_test, "test": self.data.mini_test}
        return {split: posts(self.seed, split, count) for split, count in sizes.items()}

    def queries(self) -> Sequence[Record]:
        return posts(self.seed, "train", self.data.mini_posts)


@dataclass(frozen=True)
class MiniLabelers:
    """People who see the gold judge's score through noise: data/mini/labelers.py."""

    task: Mini

    def compare(self, samples: Samples) -> list[Comparison]:
        """`mini_pairs` pairs in train; a twentieth of that, LEAST_HELD_OUT at least, in valid1 and valid2."""
        data, seed = self.task.data, self.task.seed
        splits = halved(self.task.records())
        held_out = len(splits["valid"]) // 2, max(LEAST_HELD_OUT, data.mini_pairs // 20)
        wanted = {"train": (data.mini_sampled, data.mini_pairs), "valid1": held_out, "valid2": held_out}
        labelled = []
        for split, (sampled, count) in wanted.items():
            some = splits[split][:sampled]
            written = {
                post.id: [(text, "sft") for text in texts]
                for post, texts in zip(some, samples(some, SAMPLES), strict=True)
            }
            labelled += label(pairs(splits[split], count, seed, written), seed, split)
        return labelled

    def answer(self, asked: Sequence[Comparison]) -> list[Comparison]:
        texts = [(one.info, *one.summaries) for one in asked]
        return label(
            [Unlabelled(info, a.text, b.text, a.policy, b.policy) for info, a, b in texts], self.task.seed
        )

    def edit(self, record: Record, rng: np.random.Generator) -> str:
        return edited(record, rng)


TASK = Mini

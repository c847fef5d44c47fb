"""News of the miniature: articles that no policy or reward model of a run has seen (data/mini/news.py)."""

from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_jax.data.mini import news
from rlhf_jax.data.mini.baselines import baselines
from rlhf_jax.data.records import Record
from rlhf_jax.data.task import Splits
from rlhf_jax.data.tasks.cnndm import Cnndm
from rlhf_jax.data.tasks.mini import Readable
from rlhf_jax.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class MiniNews(Readable, Cnndm):
    """As many articles of each split as `most` says, or as the miniature has posts."""

    def records(self) -> Splits:
        sizes = {"train": self.data.mini_posts, "valid": self.data.mini_test, "test": self.data.mini_test}
        return {split: news.articles(self.seed, split, n) for split, n in (self.most or sizes).items()}

    def baselines(self, records: Sequence[Record], tokenizer: Tokenizer) -> dict[str, list[str]]:
        return super().baselines(records, tokenizer) | baselines(records)


TASK = MiniNews

"""News of the miniature: articles that no policy or reward model of a run has seen (data/mini/news.py)."""

from dataclasses import dataclass

from rlhf_jax.data.mini import news
from rlhf_jax.data.task import Judge, Splits
from rlhf_jax.data.tasks.cnndm import Cnndm
from rlhf_jax.data.tasks.mini import rate


@dataclass(frozen=True)
class MiniNews(Cnndm):
    """As many articles of each split as `most` says, or as the miniature has posts."""

    @property
    def judge(self) -> Judge:
        return rate

    def records(self) -> Splits:
        sizes = {"train": self.data.mini_posts, "valid": self.data.mini_test, "test": self.data.mini_test}
        return {split: news.articles(self.seed, split, n) for split, n in (self.most or sizes).items()}


TASK = MiniNews

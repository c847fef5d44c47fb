"""Where a run's posts, queries and tokenizer come from: the one switch between miniature and real data."""

from collections.abc import Sequence
from os import PathLike

from etils.epath import Path

from rlhf_jax.config import DataConfig
from rlhf_jax.data import tldr
from rlhf_jax.data.filters import filter_posts, format_table
from rlhf_jax.data.mini import posts as mini
from rlhf_jax.data.records import Post
from rlhf_jax.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer


def load_posts(data: DataConfig, seed: int) -> dict[str, list[Post]]:
    """The posts by split; a real data set may have no test split. The miniature's depend on `seed`."""
    if data.source == "tldr":
        return tldr.load_posts(data)
    sizes = {"train": data.mini_posts, "valid": data.mini_test, "test": data.mini_test}
    return {split: mini.posts(seed, split, count) for split, count in sizes.items()}


def load_queries(data: DataConfig, seed: int, tokenizer: Tokenizer) -> list[Post]:
    """The posts that PPO summarizes, filtered where asked for; their own summaries are not read."""
    if data.source == "tldr":
        return filtered(tldr.load_queries(data)["train"], data, tokenizer, summaries=False)
    return mini.posts(seed, "train", data.mini_posts)


def make_tokenizer(posts: Sequence[Post], data: DataConfig, pretrained: PathLike[str] | None) -> Tokenizer:
    """The tokenizer of the pretrained model's folder, the one named, or one trained on the posts."""
    if pretrained or data.tokenizer:
        return load_tokenizer(pretrained or Path(data.tokenizer).expanduser())
    texts = [tldr.query_text(post) + tldr.response_text(post.summary) for post in posts]
    return train_tokenizer(texts, data.vocabulary, (*tldr.QUERY_PARTS, *tldr.FEW_SHOT_PARTS))


def filtered(posts: list[Post], data: DataConfig, tokenizer: Tokenizer, summaries: bool = True) -> list[Post]:
    """The posts that pass the paper's filters, where `data.filters` asks for them; prints the table."""
    if not data.filters:
        return posts
    posts, steps = filter_posts(posts, tokenizer, summaries)
    print(format_table(steps))
    return posts

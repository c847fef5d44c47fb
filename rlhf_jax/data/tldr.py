"""TL;DR: posts and articles to queries, summaries to responses.

A query is the text a policy continues, after what the tokenizer puts before every text, cut to a
number of tokens; a response is one space, the summary and EOS. Both follow
openai/summarize-from-feedback.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from etils.epath import Path

from rlhf_jax.config import DataConfig
from rlhf_jax.data.download import download
from rlhf_jax.data.records import Article, Post, RecordError, read_posts
from rlhf_jax.data.tokenizer import Tokenizer

SPLITS = ("train", "valid", "test")
SHOT_SEPARATOR = "\n\n=====\n\n"
QUERY_PARTS = ("SUBREDDIT:", "\n\nTITLE:", "\n\nPOST:", "\n\nTL;DR:")  # one piece each in our tokenizers
FEW_SHOT_PARTS = ("Subreddit:", "\n\nTitle:", SHOT_SEPARATOR)
MOST_TOKENS_MERGED = 64  # more than the tokens that further characters can make unnecessary


class Frame(NamedTuple):
    """A query in three parts, of which only `body` may be cut."""

    head: str
    body: str
    tail: str


def load_posts(data: DataConfig) -> dict[str, list[Post]]:
    """The posts of `data.posts`, or OpenAI's, by split: train, valid and, where it is there, test."""
    return _read_splits(data.posts or _download_splits(data, "tldr_3_filtered"))


def load_queries(data: DataConfig) -> dict[str, list[Post]]:
    """The posts that PPO summarizes: of `data.queries`, or the same as `load_posts`."""
    if data.queries == "published":
        return _read_splits(_download_splits(data, "tldr_3_filtered_queries"))
    return _read_splits(data.queries) if data.queries else load_posts(data)


def _read_splits(folder: str | Path) -> dict[str, list[Post]]:
    splits = {}
    for split in SPLITS:
        path = Path(folder).expanduser() / f"{split}.jsonl"
        if split == "test" and not path.exists():
            continue
        splits[split] = list(read_posts(path))
        if not splits[split]:
            raise RecordError(f"{path}: no posts in it")
    return splits


def _download_splits(data: DataConfig, name: str) -> Path:
    folder = Path(data.cache).expanduser() / name
    for split in SPLITS:
        download(f"{data.url}/datasets/{name}/{split}.jsonl", folder / f"{split}.jsonl")
    return folder


def query_text(info: Post | Article) -> str:
    """The query of a post or a news article, uncut."""
    return "".join(_query_frame(info))


def encode_query(info: Post | Article, tokenizer: Tokenizer, limit: int) -> list[int]:
    """Token ids of the query, at most `limit`, the tokenizer's prefix included.

    While it is too long, the post loses its last line or, when it has one line, its last
    character. Raises RecordError when the query without any of the post is still too long.
    """
    return _encode_within(_query_frame(info), tokenizer, limit, info.id)


def encode_few_shot(examples: Iterable[Post], post: Post, tokenizer: Tokenizer, limit: int) -> list[int]:
    """A prompt for a base model: posts with their summaries, then `post` without; at most `limit` tokens.

    The examples stand whole; `post` is cut as in `encode_query`. A summary ends at the newline.
    """
    shots = [f"{''.join(few_shot_frame(e))}{response_text(e.summary)}{SHOT_SEPARATOR}" for e in examples]
    head, body, tail = few_shot_frame(post)
    return _encode_within(Frame("".join(shots) + head, body, tail), tokenizer, limit, post.id)


def response_text(summary: str) -> str:
    """The summary after exactly one space."""
    return " " + summary.lstrip(" ")


def encode_response(summary: str, tokenizer: Tokenizer, limit: int) -> list[int]:
    """Token ids of the response, EOS included and never lost; at most `limit`."""
    return encode_responses([summary], tokenizer, limit)[0][0]


def encode_responses(
    summaries: Sequence[str], tokenizer: Tokenizer, limit: int
) -> tuple[list[list[int]], int]:
    """`encode_response` of each, and how many lost tokens to the limit."""
    whole = [tokenizer.encode(response_text(summary)) for summary in summaries]
    responses = [ids[: limit - 1] + [tokenizer.eos_id] for ids in whole]
    return responses, sum(len(ids) > limit - 1 for ids in whole)


def _query_frame(info: Post | Article) -> Frame:
    if isinstance(info, Article):
        return Frame("", info.article, "\n\nTL;DR:")
    return Frame(f"SUBREDDIT: r/{info.subreddit}\n\nTITLE: {info.title}\n\nPOST: ", info.post, "\n\nTL;DR:")


def few_shot_frame(post: Post) -> Frame:
    """A post in the prompt of a base model, as OAI's zero-shot task writes it."""
    return Frame(f"Subreddit: r/{post.subreddit}\n\nTitle: {post.title}\n\n", post.post, "\n\nTL;DR:")


def _encode_within(frame: Frame, tokenizer: Tokenizer, limit: int, name: str) -> list[int]:
    def encode(end: int) -> list[int]:
        return [*tokenizer.prefix, *tokenizer.encode(frame.head + frame.body[:end] + frame.tail)]

    whole = encode(len(frame.body))
    if len(whole) <= limit:
        return whole
    end = _first_fitting_cut(frame.body, lambda end: len(encode(end)), limit)
    if end is None:
        needed = len(encode(0))
        raise RecordError(f"{name}: the query takes {needed} tokens without any text, the limit is {limit}")
    return encode(end)


def _first_fitting_cut(body: str, tokens: Callable[[int], int], limit: int) -> int | None:
    """The end of what is left when `body` is cut line by line, then character by character, until it fits.

    `tokens(end)` grows with `end`, but not strictly: "lovel" may take more pieces than
    "lovely". So bisection finds an end that is too long by more than that, and the cuts
    are tried one by one from there.
    """
    lines = [i for i, c in enumerate(body) if c == "\n"]
    for ends in (lines, range(lines[0] if lines else len(body))):
        too_long = bisect_left(ends, True, key=lambda end: tokens(end) > limit + MOST_TOKENS_MERGED)
        for end in reversed(ends[:too_long]):
            if tokens(end) <= limit:
                return end
    return None

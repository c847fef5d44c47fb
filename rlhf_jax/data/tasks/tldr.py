"""TL;DR: Reddit posts to summarize, in OpenAI's formats (Stiennon et al. 2020, §3.1).

A query is the post with its subreddit and title, up to "TL;DR:"; a response is one space, the summary and
EOS. Both follow openai/summarize-from-feedback, whose comparisons are of news articles, too.
"""

from collections.abc import Sequence

from etils.epath import Path

from rlhf_jax.config import DataConfig
from rlhf_jax.data.download import download
from rlhf_jax.data.filters import filter_posts, format_table
from rlhf_jax.data.record_json import read_posts
from rlhf_jax.data.records import Post, Record, RecordError
from rlhf_jax.data.task import SHOT_SEPARATOR, Prompt, Splits, Task
from rlhf_jax.data.tokenizer import Tokenizer

SPLITS = ("train", "valid", "test")
PUBLISHED = "OpenAI's filtered TL;DR set, which comes from Reddit"
END = "\n\nTL;DR:"


def query(record: Record) -> Prompt:
    """The post below its heading, which a news article does not have."""
    head = ""
    if isinstance(record, Post):
        head = f"SUBREDDIT: r/{record.subreddit}\n\nTITLE: {record.title}\n\nPOST: "
    return Prompt(head, record.text, END)


class Tldr(Task):
    """The posts of `data.posts`, or OpenAI's, downloaded."""

    pieces = ("SUBREDDIT:", "\n\nTITLE:", "\n\nPOST:", END, "Subreddit:", "\n\nTitle:", SHOT_SEPARATOR)

    words = Post.words
    pipeline_tag = "summarization"
    in_python = 'query = f"SUBREDDIT: r/{subreddit}\\n\\nTITLE: {title}\\n\\nPOST: {post}\\n\\nTL;DR:"'

    @property
    def expected(self) -> tuple[int, int]:
        return 116_722, 92_832  # OpenAI's filtered posts, and the comparisons that N+ trains on

    @property
    def about(self) -> str:
        return f"Posts: {self.data.posts or PUBLISHED}."

    def records(self) -> Splits:
        return _read_splits(self.data.posts or _download_splits(self.data, "tldr_3_filtered"))

    def queries(self) -> Sequence[Record]:
        """The posts of `data.queries`: a folder, OpenAI's larger set, or the same as to fine-tune on."""
        if self.data.queries == "published":
            return _read_splits(_download_splits(self.data, "tldr_3_filtered_queries"))["train"]
        return _read_splits(self.data.queries)["train"] if self.data.queries else self.records()["train"]

    def prompt(self, record: Record) -> Prompt:
        return query(record)

    def shot(self, record: Record) -> Prompt:
        """The same as OpenAI's zero-shot task writes it."""
        head = ""
        if isinstance(record, Post):
            head = f"Subreddit: r/{record.subreddit}\n\nTitle: {record.title}\n\n"
        return Prompt(head, record.text, END)

    def record_of(self, text: str) -> Record:
        return Post(id="", subreddit="", title="", post=text)

    def filtered(
        self, records: Sequence[Record], tokenizer: Tokenizer, references: bool = True
    ) -> Sequence[Record]:
        """The posts that pass the paper's filters, where `data.filters` asks for them; prints the table."""
        if not self.data.filters:
            return records
        posts, steps = filter_posts(records, tokenizer, references)
        print(format_table(steps))
        return posts

    def baselines(self, records: Sequence[Record], tokenizer: Tokenizer) -> dict[str, list[str]]:
        """The titles, and the first tokens of the posts, as many as a summary may have."""
        texts, limit = [record.text for record in records], self.data.response_tokens
        leads, _ = self.encode_responses(texts, tokenizer, limit)
        return {
            "title": [record.title for record in records],
            "lead": [tokenizer.decode(ids).strip() for ids in leads],
        }


TASK = Tldr


def _read_splits(folder: str | Path) -> Splits:
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

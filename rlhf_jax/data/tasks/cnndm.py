"""News articles with highlights: CNN/DM, where policies trained on posts are tried unchanged.

`data.posts` is a folder of <split>.jsonl, a file whose articles are split 80 / 10 / 10 by a hash of their
ids, or tfds:FOLDER, what `tfds build cnn_dailymail --file_format=array_record --data_dir=FOLDER` has
prepared; that needs TensorFlow, reading does not. A line has an article, its highlights and an id, and may
have site and title.
"""

import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from etils.epath import Path

from rlhf_jax.config import ConfigError
from rlhf_jax.data.record_json import from_json, read_jsonl
from rlhf_jax.data.records import Article, Record, RecordError
from rlhf_jax.data.task import Splits
from rlhf_jax.data.tasks.tldr import Tldr
from rlhf_jax.data.tokenizer import Tokenizer

PUBLISHED = {"train": "train", "valid": "validation", "test": "test"}  # names of its splits
TFDS = "tfds:"  # before the folder of a data set that TensorFlow Datasets prepared


@dataclass(frozen=True)
class Highlighted:
    """An article with highlights, as CNN/DM's records name them."""

    id: str
    article: str
    highlights: str
    extra: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Cnndm(Tldr):
    """Articles in the queries of TL;DR; of each split the first ones, as many as `most` says."""

    most: Mapping[str, int] = field(default_factory=dict)

    def records(self) -> Splits:
        if not self.data.posts:
            raise ConfigError("data.posts: CNN/DM is a file or folder of articles, or tfds:FOLDER")
        wanted = self.most or dict.fromkeys(PUBLISHED)
        return {split: load_articles(self.data.posts, split, count) for split, count in wanted.items()}

    def baselines(self, records: Sequence[Record], tokenizer: Tokenizer) -> dict[str, list[str]]:
        """The first three sentences, and the titles where there are any."""
        found = {"lead_3": [first_sentences(record) for record in records]}
        titles = [record.title for record in records]
        return found | ({"title": titles} if any(titles) else {})


TASK = Cnndm


def load_articles(source: str, split: str, count: int | None = None) -> list[Article]:
    """The first `count` articles, or all, of a split of `source`, which is named as `data.posts`."""
    published, path = PUBLISHED[split], Path(source).expanduser()
    found: Iterable[Article]
    if source.startswith(TFDS):
        found = map(article_of, _of_tfds(source.removeprefix(TFDS), published))
    elif path.is_dir():
        found = read_jsonl(path / f"{published}.jsonl", article_of)
    else:
        found = (article for article in read_jsonl(path, article_of) if split_of(article.id) == published)
    articles = list(islice(found, count))
    if not articles:
        raise RecordError(f"{source}: no articles of split {published} in it")
    return articles


def split_of(article_id: str) -> str:
    """train (8 of 10), validation or test."""
    return {8: "validation", 9: "test"}.get(zlib.crc32(article_id.encode()) % 10, "train")


def article_of(record) -> Article:
    """The article of a record of CNN/DM. Its highlights, one a line there, become one text."""
    story = from_json(Highlighted, record)
    site = story.extra.get("site") or story.extra.get("publisher") or "cnndm"
    summary = " ".join(line.strip() for line in story.highlights.splitlines())
    return Article(story.id, site, story.extra.get("title") or "", story.article, summary.strip())


def first_sentences(article: Record) -> str:
    """The first three sentences: for news a baseline that is hard to beat."""
    return " ".join(re.split(r"(?<=[.!?])\s+", article.text.strip())[:3])


def _of_tfds(folder: str, split: str) -> Iterator[dict]:
    from tensorflow_datasets.summarization.cnn_dailymail import CnnDailymail

    try:
        records = CnnDailymail(data_dir=folder, file_format="array_record").as_data_source(split)
    except (KeyError, AssertionError, OSError):
        raise RecordError(
            f"{folder}: no cnn_dailymail prepared there as array_record; with TensorFlow installed: "
            f"tfds build cnn_dailymail --file_format=array_record --data_dir={folder}"
        ) from None
    for record in records:
        yield {name: value.decode() if isinstance(value, bytes) else value for name, value in record.items()}

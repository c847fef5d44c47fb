"""Records as OpenAI publishes them: posts, comparisons and ratings, and prompts of one's own.

Keys that the format does not name are kept in the last field of each class.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple, TypeVar

from rlhf_jax.data.visible import has_text

SPLITS = ("train", "valid1", "valid2", "test")  # that comparisons and ratings may be of
ROLES = ("system", "developer", "user", "assistant", "tool")


class RecordError(ValueError):
    """A record or file of records that cannot be used; names file, line and field."""


class Words(NamedTuple):
    """What people call the records of a kind, and what is written for them."""

    prompt: str
    prompts: str
    response: str
    responses: str


class Turn(NamedTuple):
    """What one side of a conversation says."""

    role: str  # one of ROLES
    content: str


Prompt = str | tuple[Turn, ...]


@dataclass(frozen=True)
class Post:
    """A Reddit post; `summary` is the author's own TL;DR, empty where the record has none."""

    id: str
    subreddit: str
    title: str
    post: str
    summary: str = ""
    extra: dict = field(default_factory=dict)

    words: ClassVar[Words] = Words("post", "posts", "summary", "summaries")

    @property
    def place(self) -> str:
        return f"r/{self.subreddit}"

    @property
    def text(self) -> str:
        return self.post

    @property
    def reference(self) -> str:
        return self.summary


@dataclass(frozen=True)
class Article:
    """A news article (CNN/DM); `site` is cnn, dailymail, …; `summary` its highlights, if it has any."""

    id: str
    site: str
    title: str
    article: str
    summary: str = ""
    extra: dict = field(default_factory=dict)

    words: ClassVar[Words] = Words("article", "articles", "summary", "summaries")

    @property
    def place(self) -> str:
        return self.site

    @property
    def text(self) -> str:
        return self.article

    @property
    def reference(self) -> str:
        return self.summary


@dataclass(frozen=True)
class Example:
    """A prompt of any other task; `reference` is a person's response, empty where the record has none."""

    id: str
    prompt: Prompt
    reference: str = ""
    extra: dict = field(default_factory=dict)

    words: ClassVar[Words] = Words("prompt", "prompts", "response", "responses")
    title: ClassVar[str] = ""
    place: ClassVar[str] = ""

    @property
    def text(self) -> str:
        """The prompt as people read it: of several turns, each behind the name of who says it."""
        if isinstance(self.prompt, str):
            return self.prompt
        if len(self.prompt) == 1:
            return self.prompt[0].content
        return "\n\n".join(f"{turn.role.capitalize()}: {turn.content}" for turn in self.prompt)


Record = Post | Article | Example  # what is written about: each has id, title, place, text and reference


@dataclass(frozen=True)
class Summary:
    """A summary, the policy that wrote it ("ref": a human), and the labeler's note on it."""

    text: str
    policy: str
    note: str = ""
    extra: dict = field(default_factory=dict)


@dataclass(frozen=True)
class RatedSummary:
    """A summary with `axes`: overall, accuracy, coverage, coherence, each 1–7, and others."""

    text: str
    policy: str
    axes: dict
    note: str = ""
    extra: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Which of two summaries of one text a labeler preferred.

    `choice` is the index of the better one, `split` train, valid1 or valid2; `extra` is the
    format's own object, with `confidence` 1–9. Keys that the format does not name are in `unknown`.
    """

    info: Record
    summaries: tuple[Summary, Summary]
    choice: int
    worker: str
    batch: str
    split: str
    extra: dict = field(default_factory=dict)
    unknown: dict = field(default_factory=dict)


@dataclass(frozen=True)
class AxisRating:
    """A labeler's ratings of one summary; `split` is train, valid1, valid2 or test."""

    info: Record
    split: str
    summary: RatedSummary
    worker: str
    batch: str
    extra: dict = field(default_factory=dict)


Labelled = TypeVar("Labelled", Comparison, AxisRating)


def answered(record: Record, response: str) -> Record:
    """The record with `response` in the place of its reference."""
    if isinstance(record, Example):
        return replace(record, reference=response)
    return replace(record, summary=response)


def with_reference(records: Sequence[Record], told: str) -> Sequence[Record]:
    """The records that have a reference.

    Prints how many have none, behind `told`; raises RecordError where that is all of them.
    """
    found = [record for record in records if has_text(record.reference)]
    if len(found) < len(records):
        how_many = f"{told}: {len(records) - len(found):,} of {len(records):,} records have no reference"
        if not found:
            raise RecordError(
                f"{how_many}, what a person wrote for them, such as a summary: add some that have"
            )
        print(f"{how_many} and are left out")
    return found

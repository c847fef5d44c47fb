"""What a policy is asked to do: prompts, people's responses to them, and who can say how good a response is.

A task is a module whose `TASK` is a subclass of `Task`: a file of data/tasks/, or one of your own.
`data.source` names it. Nothing outside its file knows what its records look like.
"""

import dataclasses
import importlib
import importlib.util
import sys
import traceback
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from types import ModuleType
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
from etils.epath import Path

from rlhf_jax.config import FEW_SHOT_FRAME, ConfigError, DataConfig
from rlhf_jax.data.records import Comparison, Example, Record, RecordError, Words
from rlhf_jax.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer

SHOT_SEPARATOR = "\n\n=====\n\n"  # between the examples of a few-shot prompt
MOST_TOKENS_MERGED = 64  # a longer text has at most so many tokens less than a shorter one

Judge = Callable[[Record, str], Mapping[str, float]]  # ratings of a response, 1 to 7: overall, and other axes
Splits = Mapping[str, Sequence[Record]]


class Prompt(NamedTuple):
    """What a policy continues, in three parts, of which only `body` may be cut."""

    head: str
    body: str
    tail: str

    @property
    def text(self) -> str:
        return "".join(self)


class Labelers(Protocol):
    """Simulated people, who answer at once."""

    def answer(self, asked: Sequence[Comparison]) -> list[Comparison]:
        """The same comparisons in the same order, each with the choice of one of them."""

    def revise(self, record: Record, response: str, rng: np.random.Generator) -> str:
        """A response with one thing changed by one of them, mostly for the better."""


@dataclass(frozen=True)
class Task(ABC):
    """The texts of a run: records by split, and what a policy reads and writes for one of them."""

    data: DataConfig
    seed: int = 0  # of texts that are generated

    # Fields of `data` that it does not read, and what to do instead: to set one is an error.
    unread: ClassVar[Mapping[str, str]] = {
        "files": "--config.data.source=plain or chat reads tables",
        "columns": "--config.data.source=plain or chat reads tables",
        "template_variables": "--config.data.source=chat writes by a template",
    }
    pieces: ClassVar[tuple[str, ...]] = ()  # of its prompts: one token each in a tokenizer trained here
    words: ClassVar[Words] = Example.words  # in which its records are spoken of
    pipeline_tag: ClassVar[str] = "text-generation"  # on the hub, of what its policies do
    in_python: ClassVar[str] = "query = prompt"  # how a prompt is written, for model cards
    shot_end: ClassVar[str] = "\n"  # where the response of a base model ends

    @property
    def about(self) -> str:
        """Where the texts come from, for model cards."""
        return f"Prompts and responses: {self.data.posts or self.data.source}."

    @property
    def expected(self) -> tuple[int, int]:
        """How many records and comparisons there are to train on, for plans, which read neither."""
        return 10_000, 10_000

    @property
    def judge(self) -> Judge | None:
        """Who knows how good a response is, where the truth is known."""
        return None

    @property
    def labelers(self) -> Labelers | None:
        """Who is asked for comparisons where no people are."""
        return None

    @abstractmethod
    def records(self) -> Splits:
        """The records by split: train, valid and, where there is one, test."""

    def queries(self) -> Sequence[Record]:
        """The records whose prompts PPO samples responses to; their references are for own rewards alone."""
        return self.records()["train"]

    def prompt(self, record: Record) -> Prompt:
        """What a policy reads of a record."""
        return Prompt("", record.text, "")

    def shot(self, record: Record) -> Prompt:
        """What a base model reads of a record in a few-shot prompt, where a response ends at `shot_end`."""
        return self.prompt(record)

    def response(self, text: str) -> str:
        """What a policy should write for a response: the text after exactly one space."""
        return " " + text.lstrip(" ")

    def text(self, response: str) -> str:
        """What a response says that a policy wrote."""
        return response.strip()

    def record_of(self, text: str) -> Record:
        """The record of a lone text, which has no reference."""
        return Example(id="", prompt=text)

    def filtered(
        self, records: Sequence[Record], tokenizer: Tokenizer, references: bool = True
    ) -> Sequence[Record]:
        """The records that pass the task's filters, where `data.filters` asks for them."""
        if self.data.filters:
            raise ConfigError(f"data.filters: {self.data.source} has no filters")
        return records

    def baselines(self, records: Sequence[Record], tokenizer: Tokenizer) -> dict[str, list[str]]:
        """Responses to every record that cost nothing, by name."""
        return {}

    def load_tokenizer(self, place: PathLike[str] | str) -> Tokenizer:
        """The tokenizer of a folder or file, as the task needs it."""
        return load_tokenizer(place)

    def ideal(self, record: Record) -> str | None:
        """A response that the gold judge rates highest; None where nobody knows one."""
        return None

    def claims(self, response: str) -> frozenset:
        """What a response says, however it says it; of use where there is an ideal to compare it with."""
        return frozenset()

    def form(self, response: str) -> str | None:
        """What is left of a response when what it says is taken out; None where nobody can tell."""
        return None

    def errors(self, record: Record, response: str) -> Mapping[str, bool]:
        """Kind of error → whether the response makes it, for every kind that can be told."""
        return {}

    def changes(self, record: Record, rng: np.random.Generator) -> Mapping[str, tuple[str, str]]:
        """Kind of change → a true response and the same with that one thing changed, so that it is false."""
        return {}

    def given_tokenizer(self, pretrained: PathLike[str] | None) -> Tokenizer | None:
        """That of the pretrained model's folder, or the one named; None where one is to be trained."""
        place = pretrained or self.data.tokenizer
        return self.load_tokenizer(Path(place).expanduser()) if place else None

    def make_tokenizer(self, records: Sequence[Record], pretrained: PathLike[str] | None) -> Tokenizer:
        """The tokenizer that is given, or one trained on the records."""
        if (given := self.given_tokenizer(pretrained)) is not None:
            return given
        texts = [self.prompt(record).text + self.response(record.reference) for record in records]
        return train_tokenizer(texts, self.data.vocabulary, self.pieces)

    def encode(self, record: Record, tokenizer: Tokenizer) -> list[int]:
        """Token ids of the prompt, at most `data.query_tokens`, the tokenizer's prefix included.

        While it is too long, the body loses its last line or, when it has one line, its last
        character. Raises RecordError when the prompt without any of the body is still too long.
        """
        return self._fitted(record, tokenizer)[0]

    def encode_prompts(self, records: Sequence[Record], tokenizer: Tokenizer) -> tuple[list[list[int]], int]:
        """`encode` of each record; and how many lost text."""
        fitted = [self._fitted(record, tokenizer) for record in records]
        return [ids for ids, _ in fitted], sum(cut for _, cut in fitted)

    def _fitted(self, record: Record, tokenizer: Tokenizer) -> tuple[list[int], bool]:
        (head, body, tail), limit = self.prompt(record), self.data.query_tokens

        def encode(end: int) -> list[int]:
            return [*tokenizer.prefix, *tokenizer.encode(head + body[:end] + tail)]

        whole = encode(len(body))
        if len(whole) <= limit:
            return whole, False
        end = _first_fitting_cut(body, lambda end: len(encode(end)), limit)
        if end is None:
            needed = len(encode(0))
            raise RecordError(
                f"{record.id}: the query takes {needed} tokens without any text, the limit is {limit}"
            )
        return encode(end), True

    def answers_in_prompts(
        self, records: Sequence[Record], tokenizer: Tokenizer
    ) -> tuple[list[list[bool]], int]:
        """Which tokens of each prompt, as `encode_prompts` has them, are a response to learn from.

        Of an empty list, none are. And in how many prompts there are responses that cannot be learned.
        """
        return [[] for _ in records], 0

    def encode_responses(
        self, texts: Sequence[str], tokenizer: Tokenizer, limit: int
    ) -> tuple[list[list[int]], int]:
        """Token ids of each response, at most `limit`, the EOS included; and how many lost tokens to it."""
        whole = [tokenizer.encode(self.response(text)) for text in texts]
        responses = [ids[: limit - 1] + [tokenizer.eos_id] for ids in whole]
        return responses, sum(len(ids) > limit - 1 for ids in whole)

    def few_shot(self, examples: Sequence[Record]) -> "Task":
        """The same task for a base model: its prompts begin with the examples and their references."""
        each = self.data.query_tokens + self.data.response_tokens + FEW_SHOT_FRAME
        limit = (len(examples) + 1) * each
        data = dataclasses.replace(self.data, query_tokens=limit, query_buckets=(limit,))
        return FewShot(data, self.seed, task=self, examples=tuple(examples))


@dataclass(frozen=True)
class FewShot(Task):
    """A task in the prompts of a base model: the examples stand whole before the record, which may be cut."""

    task: Task = field(kw_only=True)
    examples: tuple[Record, ...] = field(kw_only=True)

    def records(self) -> Splits:
        return self.task.records()

    def prompt(self, record: Record) -> Prompt:
        shots = [
            self.task.shot(example).text + self.response(example.reference) + SHOT_SEPARATOR
            for example in self.examples
        ]
        head, body, tail = self.task.shot(record)
        return Prompt("".join(shots) + head, body, tail)

    def response(self, text: str) -> str:
        return self.task.response(text)

    def text(self, response: str) -> str:
        return self.task.text(response).split(self.task.shot_end)[0]


def find(data: DataConfig, seed: int) -> Task:
    """The task that `data.source` names. Raises ConfigError where there is none, or it reads other texts."""
    module = _module(data.source)
    if not (isinstance(found := getattr(module, "TASK", None), type) and issubclass(found, Task)):
        raise ConfigError(f"data.source: {data.source} has no TASK, a subclass of rlhf_jax.data.task.Task")
    for name, instead in found.unread.items():
        if getattr(data, name):
            raise ConfigError(f"data.{name}: {data.source} does not read it: {instead}")
    return found(data, seed)


def _module(name: str) -> ModuleType:
    if name.endswith(".py"):
        path = Path(name).expanduser()
        spec = importlib.util.spec_from_file_location(f"rlhf_jax_task_{path.stem}", path)
        if path.is_file() and spec and spec.loader:
            module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # as dataclasses want it
            try:
                spec.loader.exec_module(module)
            except (Exception, SystemExit) as error:  # it is a person's program
                raise _broken(str(path), error) from error
            return module
    elif name and not name.startswith("."):
        for place in (f"rlhf_jax.data.tasks.{name}", name):
            try:
                return importlib.import_module(place)
            except ModuleNotFoundError as error:
                if error.name is None or not f"{place}.".startswith(f"{error.name}."):
                    raise _broken(place, error) from error  # something that the module itself imports
            except (Exception, SystemExit) as error:
                raise _broken(place, error) from error
    ours = ", ".join(sorted(file.stem for file in Path(__file__).parent.glob("tasks/[a-z]*.py")))
    raise ConfigError(f"data.source: {name!r} is none of {ours}, no module and no file here")


def _broken(place: str, error: BaseException) -> ConfigError:
    last = traceback.extract_tb(error.__traceback__)[-1]  # of a syntax error, the message tells
    where = f"{last.filename}, line {last.lineno}" if last.filename.endswith(".py") else place
    return ConfigError(f"data.source: {where}: {type(error).__name__}: {error}")


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

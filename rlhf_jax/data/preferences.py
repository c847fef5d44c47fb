"""What rows of tables of any origin hold, told by their columns: prompts, responses, which one is preferred.

| columns | read as |
|---|---|
| prompt | `PromptOnly` |
| prompt, completion | `Demonstration` |
| messages | `Demonstration` of the last answer |
| prompt, chosen, rejected | `Preference` |
| prompt, response1, response2, votes | a `Preference` for each vote |
| prompt, responses, comparisons | a `Preference` for each comparison |
| chosen, rejected | `Preference`; the prompt is what they begin with |
| context, completions (NeMo-RL) | `Preference` |
| prompt, completion, label | `UnpairedPreference` |
| those of OpenAI's records | the records of rlhf_jax.data.records |

The names are TRL's. A value is a text or a conversation, `[{"role": …, "content": …}, …]`, of which the last
turn is the response; what stands before it is the prompt.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from rlhf_jax.data.columns import form_of
from rlhf_jax.data.conversations import answerable, parted, parted_or_empty, text_or_turns
from rlhf_jax.data.judgments import Judgment, comparisons_of, votes_of
from rlhf_jax.data.record_json import as_json, from_json, in_split
from rlhf_jax.data.records import Article, AxisRating, Comparison, Example, Post, Prompt, RecordError
from rlhf_jax.data.tables import Row
from rlhf_jax.data.visible import has_text

T = TypeVar("T")


@dataclass(frozen=True)
class PromptOnly:
    """A prompt. In every class here, `extra` has the columns that are not in other fields."""

    prompt: Prompt
    extra: dict = field(default_factory=dict)
    place: str = ""


@dataclass(frozen=True)
class Demonstration:
    """A prompt and a response that should be learned."""

    prompt: Prompt
    completion: str
    extra: dict = field(default_factory=dict)
    place: str = ""


@dataclass(frozen=True)
class Preference:
    """Two responses to a prompt, and which one `worker` chose; the name is empty where nothing tells it."""

    prompt: Prompt
    chosen: str
    rejected: str
    worker: str = ""
    extra: dict = field(default_factory=dict)
    place: str = ""


@dataclass(frozen=True)
class UnpairedPreference:
    """A response that is good (`label` is true) or bad."""

    prompt: Prompt
    completion: str
    label: bool
    extra: dict = field(default_factory=dict)
    place: str = ""


class LeftOut(NamedTuple):
    """What a row has that nothing is learned from: `what` is a part of a sentence, such as "ties"."""

    what: str


class Kind(NamedTuple):
    """What a table can hold: the columns that tell it, and what is made of a row."""

    columns: tuple[str, ...]
    parse: Callable[[Row], Iterable[Any]]  # a row's examples, and a LeftOut for each that it does not give
    blank: tuple[str, ...] = ()  # which of the columns may be empty

    def __str__(self) -> str:
        return ", ".join(self.columns)

    def lacks(self, columns: Iterable[str]) -> list[str]:
        return [name for name in self.columns if name not in columns and name not in self.blank]


# Rows of each kind ---------------------------------------------------------------------------


def _prompt_only(row: Row) -> Iterator[PromptOnly]:
    prompt = text_or_turns(row.values["prompt"], "prompt")
    yield PromptOnly(answerable(prompt, "prompt"), _extra(row, "prompt"), row.place)


def _demonstration(row: Row) -> Iterator[Demonstration]:
    prompt, (completion,) = parted(row.values, "completion")
    yield Demonstration(prompt, completion, _extra(row, "prompt", "completion"), row.place)


def _messages(row: Row) -> Iterator[Demonstration]:
    prompt, (completion,) = parted({"messages": row.values["messages"]}, "messages")
    yield Demonstration(prompt, completion, _extra(row, "messages"), row.place)


def _preference(row: Row) -> Iterator[Preference]:
    prompt, (chosen, rejected) = parted(row.values, "chosen", "rejected")
    if chosen.strip() == rejected.strip():
        raise RecordError("columns chosen and rejected are equal; leave the row out")
    worker, extra = row.values.get("worker", ""), _extra(row, "prompt", "chosen", "rejected", "worker")
    yield Preference(prompt, chosen, rejected, str(worker), extra, row.place)


def _ranked(row: Row) -> Iterator[Preference]:
    """NeMo-RL's format, in which the lowest rank is the best."""
    ranked = row.values["completions"]
    try:
        best, worst = sorted(ranked, key=lambda one: _number(one["rank"], "completions"))
        chosen, rejected = best["completion"], worst["completion"]
        tie = best["rank"] == worst["rank"]
    except (KeyError, TypeError, ValueError):
        raise RecordError("column completions should be two objects of rank and completion") from None
    if tie:
        raise RecordError("column completions has one rank twice")
    pair = {"prompt": row.values["context"], "chosen": chosen, "rejected": rejected}
    return _preference(Row(_extra(row, "context", "completions") | pair, row.place))


def _voted(row: Row) -> Iterator[Any]:
    names = ("response1", "response2")
    responses = {name: row.values.get(name) for name in names}
    votes = row.values["votes"]
    of_one = [] if isinstance(votes, list | dict) else ["worker"]
    judgments = votes_of(votes, str(row.values.get("worker", "1")))
    return _judged(row, responses, judgments, _extra(row, *names, "votes", *of_one))


def _compared(row: Row) -> Iterator[Any]:
    values = row.values["responses"]
    if not isinstance(values, list):
        raise RecordError(f"column responses should be a list of responses, not {form_of(values)}")
    responses = {f"responses[{i}]": value for i, value in enumerate(values)}
    judgments = comparisons_of(row.values["comparisons"], len(responses))
    return _judged(row, responses, judgments, _extra(row, "responses", "comparisons"))


def _judged(row: Row, given: dict[str, Any], judgments: Iterable[Judgment], rest: dict) -> Iterator[Any]:
    """A preference for each judgment, and a demonstration where the row has one.

    `given` are the responses, or None, by their names for messages; `rest` are the other columns.
    """
    there = {name: value for name, value in given.items() if value is not None}
    prompt, texts = parted_or_empty({"prompt": row.values["prompt"], **there}, *there)
    written = dict(zip(there, texts, strict=True))
    responses = [written.get(name, "") for name in given]
    extra = {name: value for name, value in rest.items() if name not in ("prompt", "completion")}
    for one in judgments:
        chosen, rejected = responses[one.better], responses[one.worse]
        if why := "ties" if one.tie else unlearnable(chosen, rejected):
            yield LeftOut(why)
        else:
            yield Preference(prompt, chosen, rejected, one.worker, extra, row.place)
    completion = rest.get("completion", "")
    if not isinstance(completion, str) or has_text(completion):
        yield from _demonstration(Row({**rest, "prompt": row.values["prompt"]}, row.place))


def unlearnable(first: str, second: str) -> str:
    """Why nothing can be learned from a choice between two responses, behind a number of them, if so."""
    if not (has_text(first) and has_text(second)):
        return "with an empty response"
    return "with equal responses" if first.strip() == second.strip() else ""


def _record(cls: type[T], row: Row) -> T:
    return from_json(cls, as_json(row.values))


def _comparison(row: Row) -> Iterator[Comparison | LeftOut]:
    """OpenAI's; of their own posts all are kept, as the paper counts them."""
    found = in_split(_record(Comparison, row))
    why = unlearnable(*(one.text for one in found.summaries)) if isinstance(found.info, Example) else ""
    yield LeftOut(why) if why else found


def _example(row: Row) -> Iterator[Example]:
    example = _record(Example, row)
    answerable(example.prompt, "prompt")
    yield example


def _unpaired(row: Row) -> Iterator[UnpairedPreference]:
    prompt, (completion,) = parted(row.values, "completion")
    told = str(row.values["label"]).lower().removesuffix(".0")  # a CSV has texts, pandas fractions
    if told not in (answers := {"true": True, "1": True, "false": False, "0": False}):
        raise RecordError(f"column label should be true or false, not {told}")
    extra = _extra(row, "prompt", "completion", "label")
    yield UnpairedPreference(prompt, completion, answers[told], extra, row.place)


KINDS = (  # the first whose columns are all there
    Kind(("info", "summaries", "choice"), _comparison),
    Kind(("info", "summary"), lambda row: [in_split(_record(AxisRating, row))]),
    Kind(("prompt", "chosen", "rejected"), _preference),
    Kind(("chosen", "rejected"), _preference),
    Kind(("context", "completions"), _ranked),
    Kind(("prompt", "response1", "response2", "votes"), _voted, blank=("response1", "response2")),
    Kind(("prompt", "responses", "comparisons"), _compared),
    Kind(("prompt", "completion", "label"), _unpaired),
    Kind(("prompt", "completion"), _demonstration),
    Kind(("messages",), _messages),
    Kind(("id", "prompt", "reference"), _example),
    Kind(("prompt",), _prompt_only),
    Kind(("subreddit", "post"), lambda row: [_record(Post, row)]),
    Kind(("site", "article"), lambda row: [_record(Article, row)]),
)


def _number(value: Any, column: str) -> float:
    try:
        number = float(value)  # a CSV has texts
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or isinstance(value, bool):
        raise RecordError(f"column {column} should be a number, not {value!r}")
    return number


def _extra(row: Row, *columns: str) -> dict[str, Any]:
    return as_json({name: value for name, value in row.values.items() if name not in columns})

"""What a table of any origin holds, told by its columns: prompts, responses, or which response is preferred.

| columns | read as |
|---|---|
| prompt | `PromptOnly` |
| prompt, completion | `Demonstration` |
| messages | `Demonstration` of the last answer |
| prompt, chosen, rejected | `Preference` |
| chosen, rejected | `Preference`; the prompt is what they begin with |
| context, completions (NeMo-RL) | `Preference` |
| prompt, completion, label | `UnpairedPreference` |
| those of OpenAI's records | the records of rlhf_jax.data.records |

The names are TRL's. A value is a text or a conversation, `[{"role": …, "content": …}, …]`, of which the last
turn is the response; what stands before it is the prompt.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rlhf_jax.data.conversations import answerable, form_of, parted, text_or_turns
from rlhf_jax.data.records import (
    Article,
    AxisRating,
    Comparison,
    Example,
    Post,
    Prompt,
    RecordError,
    from_json,
    in_split,
)
from rlhf_jax.data.tables import Row


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
    """Two responses to a prompt; `margin` says by how much the chosen one is better, where the table does."""

    prompt: Prompt
    chosen: str
    rejected: str
    margin: float | None = None
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


class Kind(NamedTuple):
    """What a table can hold: the columns that tell it, and what is made of a row."""

    columns: tuple[str, ...]
    parse: Callable[[Row], Any]

    def __str__(self) -> str:
        return ", ".join(self.columns)


class Table(NamedTuple):
    """The examples of a table, all of one class; as text, a line that tells what was found."""

    kind: Kind
    examples: list

    def __str__(self) -> str:
        first = self.examples[0]
        turns = " (conversations)" if isinstance(getattr(first, "prompt", ""), tuple) else ""
        extra = {} if isinstance(first, Comparison | AxisRating) else first.extra
        others = [name for name in extra if name not in self.kind.columns]  # as a reference that is empty
        unread = f"; not read: {', '.join(others)}" if others else ""
        return f"{len(self.examples):,} rows: {self.kind}{turns}{unread}"


def recognise(columns: Iterable[str]) -> Kind:
    """What a table of these columns holds. Raises RecordError, with the columns there, where none fits."""
    there = dict.fromkeys(columns)
    for kind in KINDS:
        if there.keys() >= set(kind.columns):
            return kind
    known = "; ".join(map(str, KINDS))
    told = ", ".join(there) or "(all are empty)"
    raise RecordError(f"columns {told} are none of {known}; name them by data.columns=question:prompt")


def read(rows: Iterable[Row]) -> Table:
    """The examples of a table's rows.

    Raises RecordError with the place of a row, and its column, that cannot be used: of another kind than the
    first row, without a response, with two responses that are equal.
    """
    kind: Kind | None = None
    forms: dict[str, str] = {}
    examples = []
    for row in rows:
        try:
            kind = kind or recognise(row.values)
            if missing := [name for name in kind.columns if name not in row.values]:
                raise RecordError(f"column {missing[0]} is missing; the rows before have {kind}")
            if (other := recognise(row.values)) is not kind:
                raise RecordError(f"columns {other}, where the rows before have {kind}")
            for name in kind.columns:
                form = form_of(row.values[name])
                if forms.setdefault(name, form) != form:
                    raise RecordError(f"column {name} is {form}, in the rows before {forms[name]}")
            examples.append(kind.parse(row))
        except RecordError as error:
            raise RecordError(f"{row.place}: {error}") from None
    if kind is None:
        raise RecordError("a table without rows")
    return Table(kind, examples)


# Rows of each kind ---------------------------------------------------------------------------


def _prompt_only(row: Row) -> PromptOnly:
    prompt = text_or_turns(row.values["prompt"], "prompt")
    return PromptOnly(answerable(prompt, "prompt"), _extra(row, "prompt"), row.place)


def _demonstration(row: Row) -> Demonstration:
    prompt, (completion,) = parted(row.values, "completion")
    return Demonstration(prompt, completion, _extra(row, "prompt", "completion"), row.place)


def _messages(row: Row) -> Demonstration:
    prompt, (completion,) = parted({"messages": row.values["messages"]}, "messages")
    return Demonstration(prompt, completion, _extra(row, "messages"), row.place)


def _preference(row: Row) -> Preference:
    prompt, (chosen, rejected) = parted(row.values, "chosen", "rejected")
    if chosen.strip() == rejected.strip():
        raise RecordError("columns chosen and rejected are equal; leave the row out")
    extra = _extra(row, "prompt", "chosen", "rejected", "margin", "score_chosen", "score_rejected")
    return Preference(prompt, chosen, rejected, _margin(row.values), extra, row.place)


def _ranked(row: Row) -> Preference:
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
    return _preference(Row(pair | _extra(row, "context", "completions"), row.place))


def _example(row: Row) -> Example:
    example = from_json(Example, row.values)
    answerable(example.prompt, "prompt")
    return example


def _unpaired(row: Row) -> UnpairedPreference:
    prompt, (completion,) = parted(row.values, "completion")
    told = str(row.values["label"]).lower()  # a CSV has texts
    if told not in (answers := {"true": True, "1": True, "false": False, "0": False}):
        raise RecordError(f"column label should be true or false, not {told}")
    extra = _extra(row, "prompt", "completion", "label")
    return UnpairedPreference(prompt, completion, answers[told], extra, row.place)


KINDS = (  # the first whose columns are all there
    Kind(("info", "summaries", "choice"), lambda row: in_split(from_json(Comparison, row.values))),
    Kind(("info", "summary"), lambda row: in_split(from_json(AxisRating, row.values))),
    Kind(("prompt", "chosen", "rejected"), _preference),
    Kind(("chosen", "rejected"), _preference),
    Kind(("context", "completions"), _ranked),
    Kind(("prompt", "completion", "label"), _unpaired),
    Kind(("prompt", "completion"), _demonstration),
    Kind(("messages",), _messages),
    Kind(("id", "prompt", "reference"), _example),
    Kind(("prompt",), _prompt_only),
    Kind(("subreddit", "post"), lambda row: from_json(Post, row.values)),
    Kind(("site", "article"), lambda row: from_json(Article, row.values)),
)


def _margin(values: dict[str, Any]) -> float | None:
    if "margin" in values:
        return _number(values["margin"], "margin")
    if {"score_chosen", "score_rejected"} <= values.keys():
        chosen, rejected = (_number(values[name], name) for name in ("score_chosen", "score_rejected"))
        return chosen - rejected
    return None


def _number(value: Any, column: str) -> float:
    try:
        number = float(value)  # a CSV has texts
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or isinstance(value, bool):
        raise RecordError(f"column {column} should be a number, not {value!r}")
    return number


def _extra(row: Row, *columns: str) -> dict[str, Any]:
    return {name: value for name, value in row.values.items() if name not in columns}

"""Comparisons as other programs read them: each format makes a row of a comparison, or says why it cannot.

| format | rows | file |
|---|---|---|
| trl | prompt, chosen, rejected: TRL's preferences, as texts | JSON lines |
| conversational | prompt, chosen, rejected: TRL's preferences, as lists of messages | JSON lines |
| parquet | prompt, response1, response2, votes: 1 or 2 for the better one, 0 for a tie | Parquet |
| csv | the same, with formulas defused (rlhf_jax/data/spreadsheets.py) | CSV for spreadsheets |

A text is what the task tldr writes of a post or an article, with the summary behind a space, and of any other
record its own. Of Parquet prompts and responses are texts where all prompts are, and else lists of messages.

Beside these, every row has the strength of the preference (0 is a tie, 4 the utmost), the comment, the
seconds that the answer took, who gave it and when (UTC), the batch, and the ids of the instructions and of
the record.
"""

import csv
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_jax.data.preferences import LeftOut, unlearnable
from rlhf_jax.data.record_json import to_json, write_jsonl
from rlhf_jax.data.records import Comparison, Example, Prompt, Turn
from rlhf_jax.data.spreadsheets import defused
from rlhf_jax.data.tasks.tldr import query
from rlhf_jax.feedback.splits import OF_POSTS
from rlhf_jax.feedback.tasks import TIE

Row = dict[str, Any]
Form = Callable[
    [Comparison], tuple[Any, Any, Any] | None
]  # the prompt and both responses, if it can say them


class Format(NamedTuple):
    """`rows` gives one for each comparison, ties (confidence 5) among them; `write` makes a file of some."""

    rows: Callable[[Sequence[Comparison]], Iterator[Row | LeftOut]]
    suffix: str
    write: Callable[[Path, Sequence[Row]], None]


# Formats -------------------------------------------------------------------------------------


def trl(comparisons: Sequence[Comparison]) -> Iterator[Row | LeftOut]:
    return _preferences(comparisons, _texts)


def conversational(comparisons: Sequence[Comparison]) -> Iterator[Row | LeftOut]:
    return _preferences(comparisons, _messages)


def parquet(comparisons: Sequence[Comparison]) -> Iterator[Row | LeftOut]:
    of_turns = any(_texts(one) is None for one in comparisons)
    return _votes(comparisons, _messages if of_turns else _texts)


def spreadsheet(comparisons: Sequence[Comparison]) -> Iterator[Row | LeftOut]:
    for row in _votes(comparisons, _texts):
        yield row if isinstance(row, LeftOut) else defused(row)


def _preferences(comparisons: Sequence[Comparison], form: Form) -> Iterator[Row | LeftOut]:
    for one in comparisons:
        first, second = (summary.text for summary in one.summaries)
        if why := unlearnable(first, second) or ("" if _strength(one) else "ties"):
            yield LeftOut(why)
        elif not (shown := form(one)):
            yield LeftOut("conversations")
        else:
            prompt, *responses = shown
            chosen, rejected = responses[one.choice], responses[1 - one.choice]
            yield {"prompt": prompt, "chosen": chosen, "rejected": rejected, **_beside(one)}


def _votes(comparisons: Sequence[Comparison], form: Form) -> Iterator[Row | LeftOut]:
    for one in comparisons:
        if not (shown := form(one)):
            yield LeftOut("conversations")
        else:
            row = dict(zip(("prompt", "response1", "response2"), shown, strict=True))
            yield row | {"votes": one.choice + 1 if _strength(one) else 0, **_beside(one)}


def _beside(one: Comparison) -> Row:
    return {
        "strength": _strength(one),
        "comment": one.extra.get("comment", ""),
        "seconds": one.extra["seconds"],
        "worker": one.worker,
        "date": one.extra["date"],
        "batch": one.batch,
        "instructions": one.extra.get("instructions", ""),
        "id": one.info.id,
    }


def _strength(one: Comparison) -> int:
    return abs(one.extra["confidence"] - TIE)


# Forms ---------------------------------------------------------------------------------------


def _texts(one: Comparison) -> tuple[str, str, str] | None:
    """None where the prompt is a conversation, of which a text would be somebody's template."""
    prompt, (first, second) = _prompt(one), (summary.text for summary in one.summaries)
    if isinstance(prompt, tuple):
        return None
    if isinstance(one.info, Example):
        return prompt, first, second
    return prompt, " " + first.lstrip(" "), " " + second.lstrip(" ")


def _messages(one: Comparison) -> tuple[list, list, list]:
    prompt = _prompt(one)
    turns = (Turn("user", prompt),) if isinstance(prompt, str) else prompt
    first, second = ((Turn("assistant", summary.text),) for summary in one.summaries)
    return to_json(turns), to_json(first), to_json(second)


def _prompt(one: Comparison) -> Prompt:
    """A text where that says all: also of a conversation in which a user alone says one thing."""
    if not isinstance(one.info, Example):
        return query(one.info).text
    prompt = one.info.prompt
    if isinstance(prompt, tuple) and [turn.role for turn in prompt] == ["user"]:
        return prompt[0].content
    return prompt


# Files ---------------------------------------------------------------------------------------


def _write_parquet(path: Path, rows: Sequence[Row]) -> None:
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def _write_csv(path: Path, rows: Sequence[Row]) -> None:
    """With the byte order mark by which spreadsheets know UTF-8, and with every cell in quotes."""
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write(name: str, folder: Path, comparisons: Sequence[Comparison]) -> tuple[int, Counter[str]]:
    """Writes a file a split to `folder`, which it makes.

    Returns how many comparisons are there, and how many are left out, by what they are.
    """
    rows, suffix, write_file = FORMATS[name]
    left_out: Counter[str] = Counter()
    found: dict[str, list[Row]] = {}
    for one, row in zip(comparisons, rows(comparisons), strict=True):
        if isinstance(row, LeftOut):
            left_out[row.what] += 1
        else:
            found.setdefault(OF_POSTS[one.split], []).append(row)
    folder.mkdir()
    for split, some in found.items():
        write_file(folder / f"{split}{suffix}", some)
    return sum(map(len, found.values())), left_out


FORMATS = {
    "trl": Format(trl, ".jsonl", write_jsonl),
    "conversational": Format(conversational, ".jsonl", write_jsonl),
    "parquet": Format(parquet, ".parquet", _write_parquet),
    "csv": Format(spreadsheet, ".csv", _write_csv),
}

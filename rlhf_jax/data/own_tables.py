"""The tables that `data.files` names: their rows as records and comparisons, by split.

Splits are train, valid and test. Where no table is of valid or test, a tenth of the prompts each is held out,
and where a table is of one of them, its prompts are halved: always by a hash of the prompt. No prompt is on
two sides, whichever tables it stands in: it is of the last of its splits alone.
"""

import dataclasses
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from rlhf_jax.config import ConfigError, DataConfig
from rlhf_jax.data import own_records, recognise, tables
from rlhf_jax.data.columns import parse_columns
from rlhf_jax.data.own_records import OF_COMPARISONS, Row, name_of, tell
from rlhf_jax.data.preferences import Demonstration, Preference, PromptOnly, UnpairedPreference
from rlhf_jax.data.records import Comparison, Example, RecordError
from rlhf_jax.files import named_by

SPLITS = ("train", "valid", "test")
HUB_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:/(.+))?")  # owner/name, and a folder in it
HUB_FILES = [f"*{suffix}" for suffix in tables.READERS]


class Gathered(NamedTuple):
    """What the tables hold; a record's id is made of its prompt, where it has none of its own."""

    records: dict[str, list[Example]]  # by split: prompts with the responses to learn, or without any
    queries: list[Example]  # the different prompts of train, with the first reference of each
    comparisons: list[Comparison]  # of train, valid1 (which is valid) and valid2 (which is test)
    places: dict[str, str]  # of records, for messages, by their ids


def gather(data: DataConfig) -> Gathered:
    """Reads the tables, and tells in a line each what it found.

    Raises ConfigError where the configuration names none, RecordError with the place of a row or a table that
    cannot be used.
    """
    if not data.files:
        raise ConfigError(f"data.files: name a table of {data.source}, such as pairs.parquet or owner/name")
    by_split: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for split, row in _held_out(list(_rows(data))):
        by_split[split].append(row)
    places = own_records.places(row for rows in by_split.values() for row in rows)
    by_split = _apart(by_split)
    taught = {split: list(own_records.demonstrations(rows)) for split, rows in by_split.items()}
    others = {split: list(own_records.preferred(rows)) for split, rows in by_split.items()}
    are_shown = bool(taught["train"])
    if others["train"] and not are_shown:
        tell("data.files: no demonstrations; fine-tuning learns the preferred responses")
        taught, others = others, taught  # of all splits, for what is held out is to be of one kind with train
    records = {}
    for split, rows in by_split.items():
        found = taught[split] or others[split] or list(map(own_records.query, rows))
        records[split] = own_records.distinct(found, once=split != "train")
        if not records[split]:
            raise RecordError(f"data.files: no row is of {split}; name a table of it, as {split}:more.jsonl")
        if are_shown:
            once = "each is learned once" if split == "train" else "a prompt there has one reference"
            _tell_repeated(f"responses of {split}", len(found), len(records[split]), once)
    comparisons = [one for split, rows in by_split.items() for one in own_records.comparisons(rows, split)]
    queries = [row for row in by_split["train"] if isinstance(row, PromptOnly)] or by_split["train"]
    asked = own_records.distinct(map(own_records.query, queries), once=True)
    if isinstance(queries[0], PromptOnly):
        _tell_repeated("prompts for PPO", len(queries), len(asked), "each is asked once in an epoch")
    references = {record.id: record.reference for record in reversed(records["train"])}  # the first of each
    asked = [dataclasses.replace(one, reference=references.get(one.id, "")) for one in asked]
    return Gathered(records, asked, comparisons, places)


def _tell_repeated(what: str, there: int, kept: int, why: str) -> None:
    if kept < there:
        tell(f"data.files: {there - kept:,} of {there:,} {what} are left out: {why}")


def are_here(data: DataConfig) -> bool:
    """Whether all tables that are named would lie on this machine, and none on the hub or in a bucket."""
    return not any("://" in place or _of_hub(place) for _, place in _named(data.files))


# Which tables --------------------------------------------------------------------------------


def _rows(data: DataConfig) -> Iterator[tuple[str, Row]]:
    """(split, or nothing where none is named; row) of all tables."""
    found = [table for split, place in _named(data.files) for table in _tables(split, place)]
    columns = parse_columns(data.columns)
    there = [tables.columns_of(place, theirs) if columns else [] for _, place, theirs in found]
    if unknown := [name for name in columns if not any(name in some for some in there)]:
        names = ", ".join(dict.fromkeys(name for some in there for name in some))
        raise RecordError(f"data.columns: no table has a column {unknown[0]!r}; there are {names}")
    for (split, place, theirs), some in zip(found, there, strict=True):
        own = {old: new for old, new in columns.items() if old in some}  # others are of another table
        table = recognise.read(tables.rows(place, own, theirs))
        tell(f"{place}{f' ({theirs})' if theirs else ''}: {table}")
        for example in table.examples:
            yield split, _checked(example, place)


def _named(files: str) -> Iterator[tuple[str, str]]:
    """(split, or nothing; place) of each part of data.files."""
    parts = [_split_and_place(part.strip()) for part in files.split(",") if part.strip()]
    for (_, one), (_, other) in pairwise(parts):
        if "://" not in one + other and named_by(name := f"{one},{other}"):
            raise ConfigError(f"data.files: commas stand between tables; for {name} write {one}?{other}")
    for split, place in parts:
        if not place:
            raise ConfigError(f"data.files: {split}: names no table; put one behind it: {split}:a.jsonl")
        yield split, place


def _split_and_place(part: str) -> tuple[str, str]:
    split, colon, place = map(str.strip, part.partition(":"))
    return (split, place) if colon and split in tables.SPLITS else ("", part)


def _tables(split: str, place: str) -> Iterator[tuple[str, str, str]]:
    """(our split, place, split as it is called there) of what one part of data.files names."""
    place = _on_disk(place)
    theirs = tables.splits(place)
    if split:
        yield tables.SPLITS[split], place, ""
        return
    ours = {name: tables.split_of(name) for name in theirs}
    for name, own in ours.items():
        if name and not own:
            raise RecordError(f"{place}: what is split {name!r}? Name it behind train:, valid: or test:")
        if twice := [other for other in ours if other != name and ours[other] == own]:
            raise RecordError(
                f"{place}: splits {name} and {twice[0]} are both to be {own}; name the files of one, such as "
                f"{own}:{place}/{name}*"
            )
        yield own, place, name


def _of_hub(place: str) -> re.Match[str] | None:
    """A data set and the folder in it, where the place is neither on disk nor called like a table."""
    here = named_by(place) or place.endswith(tuple(tables.READERS))
    return None if here else HUB_NAME.fullmatch(place)


def _on_disk(place: str) -> str:
    """The place, or where a data set of the hub lies once it is downloaded."""
    if not (match := _of_hub(place)):
        return place
    from rlhf_jax.data.hub import folder_of_hub  # which takes long to import

    name, below = match.groups()
    root = folder_of_hub(name, "data set", HUB_FILES, "dataset") / (below or "")
    files = [file for file in root.rglob("*") if file.name.endswith(tuple(tables.READERS))]
    folders = sorted({file.parent for file in files if not file.name.startswith(tables.ABOUT_TABLES)})
    if len(folders) != 1:
        there = ", ".join(f"{name}/{folder.relative_to(root)}" for folder in folders)
        raise RecordError(
            f"{place}: {f'tables in several folders; name one of {there}' if there else 'no table'}"
        )
    return str(folders[0])


def _held_out(rows: list[tuple[str, Row]]) -> Iterator[tuple[str, Row]]:
    """The rows with the splits that they are of."""
    held_out = {split for split, _ in rows} - {"train", ""}
    if not held_out:
        tell("data.files: no table is of valid or test; a tenth of the prompts is held out for each")
    for split, row in rows:
        if isinstance(row, Comparison):
            yield {ours: split for split, ours in OF_COMPARISONS.items()}.get(row.split, "test"), row
        elif not held_out:
            yield {8: "valid", 9: "test"}.get(_number(row) % 10, "train"), row
        elif split in held_out and len(held_out) == 1:
            yield SPLITS[1 + _number(row) % 2], row
        else:
            yield split or "train", row


def _apart(by_split: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """The rows without those whose prompt is of a later split, too."""
    found: dict[str, list[Row]] = {}
    taken: set[str] = set()
    for split in reversed(SPLITS):
        own = {name_of(row) for row in by_split[split]}
        found[split] = [row for row in by_split[split] if name_of(row) not in taken]
        if twice := len(own & taken):
            others = " or ".join(SPLITS[SPLITS.index(split) + 1 :])
            tell(f"data.files: {twice:,} prompts of {split} are left out: they are of {others}, too")
        taken |= own
    return {split: found[split] for split in SPLITS}


def _number(row: Row) -> int:
    return int(name_of(row), 16)


def _checked(row: Any, place: str) -> Row:
    """The row, if this format can be learned from here; the others belong to a task of their own."""
    if isinstance(row, Comparison) and isinstance(row.info, Example):
        return row
    if isinstance(row, PromptOnly | Demonstration | Preference | UnpairedPreference | Example):
        return row
    kind = type(row.info if isinstance(row, Comparison) else row).__name__.lower()
    hint = {
        "axisrating": "`rlhf-jax ratings` makes comparisons of them",
        "article": "--config.data.source=cnndm reads them (data.posts, data.comparisons)",
    }.get(kind, "--config.data.source=tldr reads them (data.posts, data.comparisons)")
    raise RecordError(f"{place}: rows of kind {kind}: {hint}")

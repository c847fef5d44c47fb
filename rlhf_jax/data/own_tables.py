"""The tables that `data.files` names: their rows as records and comparisons, by split.

Splits are train, valid and test. Where no table is of valid or test, a tenth of the prompts each is held out,
and where a table is of one of them, its prompts are halved: always by a hash of the prompt. No prompt is on
two sides, whichever tables it stands in: it is of the last of its splits alone.
"""

import functools
import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from rlhf_jax.config import ConfigError, DataConfig
from rlhf_jax.data import preferences, tables
from rlhf_jax.data.preferences import Demonstration, Preference, PromptOnly, UnpairedPreference
from rlhf_jax.data.records import Comparison, Example, Prompt, RecordError, Summary, to_json
from rlhf_jax.files import named_by

SPLITS = ("train", "valid", "test")
OF_COMPARISONS = {"train": "train", "valid": "valid1", "test": "valid2"}
HUB_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:/(.+))?")  # owner/name, and a folder in it
HUB_FILES = [f"*{suffix}" for suffix in tables.READERS]

Prompted = PromptOnly | Demonstration | Preference | UnpairedPreference | Example
Row = Prompted | Comparison


class Gathered(NamedTuple):
    """What the tables hold; a record's id is made of its prompt, where it has none of its own."""

    records: dict[str, list[Example]]  # by split: prompts with the responses to learn, or without any
    queries: list[Example]  # the different prompts of train
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
    places = _places([row for rows in by_split.values() for row in rows])
    by_split = _apart(by_split)
    demonstrated = {split: list(_demonstrations(rows)) for split, rows in by_split.items()}
    if not demonstrated["train"] and any(isinstance(row, Preference) for row in by_split["train"]):
        tell("data.files: no demonstrations; fine-tuning learns the preferred responses")
    records = {split: demonstrated[split] or list(_preferred(rows)) for split, rows in by_split.items()}
    for split, rows in by_split.items():
        records[split] = _distinct(records[split] or map(_query, rows), once=split != "train")
        if not records[split]:
            raise RecordError(f"data.files: no row is of {split}; name a table of it, as {split}:more.jsonl")
    comparisons = [one for split, rows in by_split.items() for one in _comparisons(rows, split)]
    if comparisons and not {"train", "valid1"} <= {one.split for one in comparisons}:
        raise RecordError("data.files: no preferences to train on, or none of valid; name tables of both")
    queries = [row for row in by_split["train"] if isinstance(row, PromptOnly)] or by_split["train"]
    return Gathered(records, _distinct(map(_query, queries), once=True), comparisons, places)


def are_here(data: DataConfig) -> bool:
    """Whether all tables that are named lie on this machine, and none on the hub or in a bucket."""
    return all("://" not in place and named_by(place) for _, place in _named(data.files))


@functools.cache
def tell(line: str) -> None:
    """Prints a line once, for each stage reads the tables again."""
    print(line)


# Which tables --------------------------------------------------------------------------------


def _rows(data: DataConfig) -> Iterator[tuple[str, Row]]:
    """(split, or nothing where none is named; row) of all tables."""
    found = [table for split, place in _named(data.files) for table in _tables(split, place)]
    columns = tables.parse_columns(data.columns)
    there = [tables.columns_of(place, theirs) if columns else [] for _, place, theirs in found]
    if unknown := [name for name in columns if not any(name in some for some in there)]:
        names = ", ".join(dict.fromkeys(name for some in there for name in some))
        raise RecordError(f"data.columns: no table has a column {unknown[0]!r}; there are {names}")
    for (split, place, theirs), some in zip(found, there, strict=True):
        own = {old: new for old, new in columns.items() if old in some}  # others are of another table
        table = preferences.read(tables.rows(place, own, theirs))
        tell(f"{place}{f' ({theirs})' if theirs else ''}: {table}")
        for example in table.examples:
            yield split, _checked(example, place)


def _named(files: str) -> Iterator[tuple[str, str]]:
    """(split, or nothing; place) of each part of data.files."""
    for part in filter(None, map(str.strip, files.split(","))):
        split, colon, place = map(str.strip, part.partition(":"))
        if not colon or split not in tables.SPLITS:
            split, place = "", part
        if not place:
            raise ConfigError(f"data.files: {part} names no table; put one behind it, as {part}pairs.jsonl")
        yield split, place


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


def _on_disk(place: str) -> str:
    """The place, or where a data set of the hub lies once it is downloaded."""
    match = HUB_NAME.fullmatch(place)
    if named_by(place) or not match or place.endswith(tuple(tables.READERS)):
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
        found[split] = [row for row in by_split[split] if _name(_prompt(row)) not in taken]
        if left_out := len(by_split[split]) - len(found[split]):
            others = " or ".join(SPLITS[SPLITS.index(split) + 1 :])
            tell(f"data.files: {left_out:,} rows of {split} are left out: their prompts are of {others}, too")
        taken |= {_name(_prompt(row)) for row in found[split]}
    return {split: found[split] for split in SPLITS}


def _number(row: Row) -> int:
    return int(_name(_prompt(row)), 16)


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


# What becomes of rows ------------------------------------------------------------------------


def _prompt(row: Row) -> Prompt:
    return _prompted(row).prompt


def _prompted(row: Row) -> Prompted:
    """The row, or the record that people compared responses to."""
    if not isinstance(row, Comparison):
        return row
    assert isinstance(row.info, Example)  # as _checked sees to it
    return row.info


def _places(rows: Iterable[Row]) -> dict[str, str]:
    """Where records stand, by their ids. Raises RecordError where an id is of two prompts."""
    found: dict[str, tuple[str, str]] = {}
    for row in rows:
        one, name = _prompted(row), _name(_prompt(row))
        own = one.id if isinstance(one, Example) else name
        place = one.place or f"id {own}"
        if found.setdefault(own, (name, place))[0] != name:
            raise RecordError(f"data.files: two prompts have the id {own!r}; give each one of its own")
    return {own: place for own, (_, place) in found.items()}


def _name(prompt: Prompt) -> str:
    """The id of a prompt: of a text, and of a conversation in which a user says that text alone, the same."""
    if not isinstance(prompt, str) and len(prompt) == 1 and prompt[0].role == "user":
        prompt = prompt[0].content
    said = prompt if isinstance(prompt, str) else json.dumps(to_json(prompt))
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def _query(row: Row) -> Example:
    return _record(row, "")


def _record(row: Row, reference: str) -> Example:
    one = _prompted(row)
    own = one.id if isinstance(one, Example) else _name(one.prompt)
    return Example(own, one.prompt, reference, json.loads(json.dumps(_finite(one.extra), default=str)))


def _finite(value: Any) -> Any:
    """Without the numbers that JSON does not have, which stand for missing ones."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items() if not _is_missing(item)}
    if isinstance(value, list):
        return [None if _is_missing(item) else _finite(item) for item in value]
    return value


def _is_missing(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _demonstrations(rows: Iterable[Row]) -> Iterator[Example]:
    for row in rows:
        if isinstance(row, Demonstration) or (isinstance(row, UnpairedPreference) and row.label):
            yield _record(row, row.completion)
        elif isinstance(row, Example) and row.reference:
            yield row


def _preferred(rows: Iterable[Row]) -> Iterator[Example]:
    for row in rows:
        if isinstance(row, Preference):
            yield _record(row, row.chosen)
        elif isinstance(row, Comparison):
            yield _record(row, row.summaries[row.choice].text)


def _distinct(records: Iterable[Example], once: bool) -> list[Example]:
    """Each prompt with each reference, or each prompt `once`."""
    found: dict[tuple[str, str], Example] = {}
    for record in records:
        found.setdefault((record.id, "" if once else record.reference), record)
    return list(found.values())


def _comparisons(rows: Iterable[Row], split: str) -> Iterator[Comparison]:
    """People's, and those of a good and a bad response to one prompt."""
    good: dict[str, list[UnpairedPreference]] = {}
    bad: dict[str, list[UnpairedPreference]] = {}
    for row in rows:
        if isinstance(row, Comparison):
            yield row
        elif isinstance(row, Preference):
            margin = {} if row.margin is None else {"margin": row.margin}
            yield _comparison(row, row.chosen, row.rejected, split, margin)
        elif isinstance(row, UnpairedPreference):
            (good if row.label else bad).setdefault(_name(row.prompt), []).append(row)
    both = [(g, b) for name in good for g, b in zip(good[name], bad.get(name, []), strict=False)]
    pairs = [(g, b) for g, b in both if g.completion != b.completion]
    yield from (_comparison(g, g.completion, b.completion, split, {}) for g, b in pairs)
    if labelled := sum(map(len, [*good.values(), *bad.values()])):
        made = f"{len(pairs):,} preferences, a good and a bad response to one prompt each"
        tell(f"data.files: {labelled:,} responses of {split} with a label make {made}")


def _comparison(row: Row, chosen: str, rejected: str, split: str, extra: dict) -> Comparison:
    texts = Summary(chosen, "chosen"), Summary(rejected, "rejected")
    return Comparison(_query(row), texts, 0, "", "", OF_COMPARISONS[split], extra)

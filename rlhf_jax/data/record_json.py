"""Records as JSON, one object a line.

Reading and writing a record again gives the same JSON object. Optional keys may be absent, null or, of texts,
blank: all read as the field's default, and what was there is kept among the keys that the format does not
name, so that a null is written as null and an absent one not at all.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import partial
from os import PathLike
from typing import Any, TypeVar

from etils.epath import Path

from rlhf_jax.data.records import (
    ROLES,
    SPLITS,
    Article,
    AxisRating,
    Comparison,
    Example,
    Labelled,
    Post,
    Prompt,
    RatedSummary,
    Record,
    RecordError,
    Summary,
    Turn,
)
from rlhf_jax.data.visible import has_text
from rlhf_jax.files import JsonError, parse_json, whole

T = TypeVar("T")
BESIDE_CONTENT = ("tool_calls", "function_call", "reasoning_content", "thinking")  # where others put words


def read_posts(path: str | PathLike[str]) -> Iterator[Post]:
    def parse(record: Any) -> Post:
        _check_one_text(record, "the line")
        return from_json(Post, record)

    return read_jsonl(path, parse)


def read_comparisons(path: str | PathLike[str]) -> Iterator[Comparison]:
    return read_jsonl(path, lambda record: in_split(from_json(Comparison, record)))


def read_axis_ratings(path: str | PathLike[str]) -> Iterator[AxisRating]:
    return read_jsonl(path, lambda record: in_split(from_json(AxisRating, record)))


def in_split(record: Labelled) -> Labelled:
    """The record. Raises RecordError where its split is none of SPLITS."""
    if record.split not in SPLITS:
        raise RecordError(f"field split is {record.split!r}, it should be one of {', '.join(SPLITS)}")
    return record


def read_jsonl(path: str | PathLike[str], parse: Callable[[Any], T]) -> Iterator[T]:
    """Yields `parse(object)` for every line of a JSON-lines file; blank lines are skipped.

    Raises RecordError naming the file and, for a bad line, its number and field.
    """
    try:
        with Path(path).open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield parse_line(line, parse, f"{path}, line {number}")
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from None


def parse_line(line: bytes, parse: Callable[[Any], T], where: str) -> T:
    """`parse(object)` of one line of JSON; `where` names it in a RecordError."""
    try:
        value = parse_json(line.rstrip())
        if b"\\ud" in line.lower():
            check_text(value)
        return parse(value)
    except (JsonError, RecordError) as error:
        raise RecordError(f"{where}: {error}") from None


def check_text(value, where: str = "") -> None:
    """Raises RecordError for a string in a JSON value that is not text.

    JSON can escape half of a surrogate pair, which no file could hold when it is written again.
    """
    if isinstance(value, dict):
        for name, item in value.items():
            check_text(name, f"a name of {where or 'the line'}")
            check_text(item, f"{where}.{name}" if where else name)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            check_text(item, f"{where}[{i}]")
    elif isinstance(value, str):
        _string(value, where)


def write_jsonl(path: str | PathLike[str], records: Iterable) -> None:
    """Writes records (or plain objects), one a line; the file appears whole or not at all."""
    with whole(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(to_json(record), ensure_ascii=False) + "\n" for record in records)


def to_json(record) -> Any:
    """The JSON object of a record, without the optional fields that hold their default."""
    if isinstance(record, Turn):
        return record._asdict()
    if isinstance(record, tuple):
        return [to_json(item) for item in record]
    if not is_dataclass(record):
        return record
    *named, last = fields(record)
    values = {f.name: getattr(record, f.name) for f in named}
    known = {f.name: to_json(values[f.name]) for f in named if values[f.name] or not _is_optional(f)}
    return known | getattr(record, last.name) | known


def from_json(cls: type[T], record, where: str = "") -> T:
    """The record of class `cls` in a JSON object; RecordError names the field, below `where`."""
    if not isinstance(record, dict):
        raise RecordError(f"{where or 'the line'} should be a JSON object, not {_kind(record)}")
    prefix = f"{where}." if where else ""
    *named, last = fields(cls)  # type: ignore[arg-type]
    values, rest = {}, dict(record)
    for f in named:
        if f.name not in record and not _is_optional(f):
            raise RecordError(f"field {prefix}{f.name} is missing")
        if record.get(f.name) is None and _is_optional(f):
            continue
        value = (PARSERS.get(f.name) or PARSERS[f.type])(record[f.name], prefix + f.name)
        missing = not has_text(value) if isinstance(value, str) else not value
        if not (missing and _is_optional(f)):
            values[f.name] = value
            del rest[f.name]
    return cls(**values, **{last.name: rest})


def as_json(value: Any) -> Any:
    """The value of a table as JSON holds it, where what JSON does not have is text, such as a date."""
    return json.loads(json.dumps(value, default=str))


def plain(record: Record) -> dict[str, Any]:
    """The named fields of a record as JSON holds them, those that hold their default too."""
    *named, _ = fields(record)
    return {f.name: to_json(getattr(record, f.name)) for f in named}


def _is_optional(f) -> bool:
    return f.default is not MISSING or f.default_factory is not MISSING


def _kind(value) -> str:
    return {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}.get(
        type(value), "a number"
    )


def _string(value, where: str) -> str:
    if not isinstance(value, str):
        raise RecordError(f"field {where} should be a string, not {_kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RecordError(f"field {where} holds half of a surrogate pair, which is not text") from None
    return value


def _text(value, where: str) -> str:
    if not has_text(_string(value, where)):
        raise RecordError(f"field {where} is empty")
    return value


def turns_of(values: list, where: str) -> tuple[Turn, ...]:
    """The turns in a list of JSON values; `where` names it in a RecordError, such as "field prompt"."""
    return tuple(_turn(value, f"{where}[{i}]") for i, value in enumerate(values))


def _turn(value, where: str) -> Turn:
    if not isinstance(value, dict):
        raise RecordError(f"{where} should be an object of role and content, not {_kind(value)}")
    for name in Turn._fields:
        if value.get(name) is None:
            raise RecordError(f"{where}.{name} is missing; there is {', '.join(value) or 'nothing'}")
        if not isinstance(value[name], str):
            raise RecordError(f"{where}.{name} should be a text, not {_kind(value[name])}")
    if others := [name for name in BESIDE_CONTENT if value.get(name)]:
        raise RecordError(f"{where}.{others[0]} would be lost; write it into content, or leave the row out")
    if value["role"] not in ROLES:
        raise RecordError(f"{where}.role is {json.dumps(value['role'])}, none of {', '.join(ROLES)}")
    return Turn(value["role"], value["content"])


def _prompt(value, where: str) -> Prompt:
    if isinstance(value, list) and value:
        return turns_of(value, f"field {where}")
    return _text(value, where)


def _object(value, where: str) -> dict:
    if not isinstance(value, dict):
        raise RecordError(f"field {where} should be an object, not {_kind(value)}")
    return value


def record_of(value, where: str = "") -> Record:
    """The record in a JSON object, whose text tells by its field which kind it is; null is none."""
    kinds: dict[str, type[Record]] = {"article": Article, "post": Post, "prompt": Example}
    found = [kind for name, kind in kinds.items() if _object(value, where).get(name) is not None]
    _check_one_text(value, f"field {where}" if where else "the line")
    return from_json(found[0] if found else Post, value, where)


def _check_one_text(value: Any, where: str) -> None:
    if isinstance(value, dict) and None not in (value.get("article"), value.get("post")):
        raise RecordError(f"{where} has both an article and a post: which is the text?")


def _summaries(value, where: str) -> tuple[Summary, Summary]:
    if not isinstance(value, list) or len(value) != 2:
        found = f"{len(value)} of them" if isinstance(value, list) else _kind(value)
        raise RecordError(f"field {where} should be two summaries, not {found}")
    first, second = (from_json(Summary, item, f"{where}[{i}]") for i, item in enumerate(value))
    return first, second


def _choice(value, where: str) -> int:
    if type(value) is not int or value not in (0, 1):
        raise RecordError(f"field {where} should be 0 or 1, not {json.dumps(value)}")
    return value


def _axes(value, where: str) -> dict:
    for name in {"overall", "accuracy", "coverage", "coherence"} & _object(value, where).keys():
        if value[name] is not None and (type(value[name]) is not int or not 1 <= value[name] <= 7):
            raise RecordError(f"field {where}.{name} should be 1 to 7, not {json.dumps(value[name])}")
    return value


# By the name of a field, else by its type.
PARSERS: dict[Any, Callable] = {
    "post": _text,
    "article": _text,
    "prompt": _prompt,
    "choice": _choice,
    "axes": _axes,
    str: _string,
    dict: _object,
    Record: record_of,
    tuple[Summary, Summary]: _summaries,
    RatedSummary: partial(from_json, RatedSummary),
}

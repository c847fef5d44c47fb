"""Columns of a table by other names, and several columns as one: `instruction:prompt,input:prompt`."""

from collections.abc import Mapping
from numbers import Number
from typing import Any

from rlhf_jax.config import ConfigError
from rlhf_jax.data.records import RecordError
from rlhf_jax.data.visible import has_text

Columns = Mapping[str, str]  # the new name of a column by its old one; several columns may get one name


class Joined(dict[str, Any]):
    """What several columns that get one name hold, by their old names and in the order of `Columns`."""


def distinct(names: list[str], table: str) -> list[str]:
    """The names of a table's columns. Raises RecordError where two have the same."""
    if twice := [name for name in names if names.count(name) > 1]:
        raise RecordError(f"{table}: two columns have the name {twice[0]!r}")
    return names


def parse_columns(text: str) -> Columns:
    """The new name of each column in `question:prompt,answer:completion`; none where the text is blank.

    Raises ConfigError where it is not so written, or a column would have two names.
    """
    found: dict[str, str] = {}
    for part in filter(str.strip, text.split(",")):
        names = [name.strip() for name in part.split(":")]
        if len(names) != 2 or not all(names):
            raise ConfigError(f"data.columns: {part.strip()!r} should be theirs:ours, as question:prompt")
        old, new = names
        if old in found:
            raise ConfigError(f"data.columns: {old} stands twice in {text!r}")
        found[old] = new
    return found


def renamed(values: dict[str, Any], columns: Columns) -> dict[str, Any]:
    """A row's values by their new names, of which those that several columns get are `Joined`.

    Raises RecordError where a column that keeps its name has the new name of another.
    """
    found = {columns.get(old, old): value for old, value in values.items()}
    for new in dict.fromkeys(columns.values()):
        olds = [old for old in columns if columns[old] == new]
        there = {old: values[old] for old in olds if old in values}
        if there and new in values and new not in columns:
            raise RecordError(
                f"two columns would be {new}; rename the other one, too, or join them: "
                f"{olds[0]}:{new},{new}:{new}"
            )
        if there and len(olds) > 1:
            found[new] = Joined(there)
    return found


def with_texts(values: dict[str, Any]) -> dict[str, Any]:
    """The values with one text for what several columns hold, and for a prompt that is a list of texts.

    Votes of several columns stay `Joined`. Raises RecordError naming a column with something else than texts.
    """

    def one(name: str, value: Any) -> Any:
        if name == "prompt" and isinstance(value, list):
            joined = not any(isinstance(one, dict) for one in value)  # which are turns
        else:
            joined = name != "votes" and isinstance(value, Joined)
        return _text(value, f"column {name}") if joined else value

    return {name: one(name, value) for name, value in values.items()}


def _text(value: Any, column: str) -> str:
    """The texts that are not empty: those of a list on lines, an empty line between lists and columns."""
    if isinstance(value, str):
        return value
    if isinstance(value, Joined):
        return _one_below_another("\n\n", [_text(one, f"column {old}") for old, one in value.items()])
    if not isinstance(value, list):
        raise RecordError(f"{column} holds {form_of(value)}; only texts and lists of them can be joined")
    between = "\n\n" if any(isinstance(one, list) for one in value) else "\n"
    there = [(i, one) for i, one in enumerate(value) if one is not None]
    return _one_below_another(between, [_text(one, f"{column}[{i}]") for i, one in there])


def _one_below_another(between: str, texts: list[str]) -> str:
    return between.join(filter(has_text, texts))


def form_of(value: Any) -> str:
    """What a value is, in words for messages."""
    names = {str: "a text", list: "a list", dict: "an object", bool: "true or false", bytes: "bytes"}
    others = "a number" if isinstance(value, Number) else f"a {type(value).__name__}"  # such as a date
    return names.get(type(value), "null" if value is None else others)

"""A table of any origin: its kind, told by its columns, the examples in its rows, and a line about both."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rlhf_jax.data.columns import form_of, with_texts
from rlhf_jax.data.preferences import KINDS, Demonstration, Kind, LeftOut, Preference
from rlhf_jax.data.record_json import BESIDE_CONTENT
from rlhf_jax.data.records import AxisRating, Comparison, RecordError, Turn
from rlhf_jax.data.tables import Row

# Objects in values, by the key that tells them → what they are called, and their keys that are read.
OBJECTS = {
    "role": ("turns", (*Turn._fields, *BESIDE_CONTENT)),
    "first": ("comparisons", ("first", "second", "preferred", "worker")),
    "rank": ("completions", ("rank", "completion")),
}


@dataclass
class Table:
    """The examples of a table; as text, a line that tells what was found."""

    kind: Kind
    examples: list = field(default_factory=list)
    rows: int = 0
    fruitless: int = 0  # rows that give no example
    left_out: Counter[str] = field(default_factory=Counter)  # how many examples, by what they are
    unread: dict[str, None] = field(default_factory=dict)  # columns and keys of objects, in order

    def __str__(self) -> str:
        first, given = self.examples[0], Counter(map(type, self.examples))
        turns = " (conversations)" if isinstance(getattr(first, "prompt", ""), tuple) else ""
        told = [f"{self.rows:,} rows: {self.kind}{turns}"]
        if len(self.examples) != self.rows or self.left_out:
            names = {Preference: "comparisons", Comparison: "comparisons", Demonstration: "demonstrations"}
            told.append(", ".join(f"{number:,} {names[of]}" for of, number in given.items()))
        if self.left_out:
            told.append(f"left out: {self.without()}")
        if self.fruitless:
            told.append(f"{self.fruitless:,} rows give nothing")
        if self.unread:
            told.append(self.not_read())
        return "; ".join(told)

    def without(self) -> str:
        return ", ".join(f"{number:,} {what}" for what, number in sorted(self.left_out.items()))

    def not_read(self) -> str:
        return f"not read: {', '.join(self.unread)}"

    def add(self, found: Iterable[Any]) -> None:
        """Takes what a row gives."""
        before = len(self.examples)
        for one in found:
            if isinstance(one, LeftOut):
                self.left_out[one.what] += 1
                continue
            self.examples.append(one)
            if not isinstance(one, Comparison | AxisRating):
                others = (name for name in one.extra if name not in self.kind.columns)  # an empty reference
                self.unread |= dict.fromkeys(others)
        self.rows += 1
        self.fruitless += len(self.examples) == before


def recognise(columns: Iterable[str]) -> Kind:
    """What a table of these columns holds. Raises RecordError, with the columns there, where none fits."""
    there = dict.fromkeys(columns)
    for kind in KINDS:
        if not kind.lacks(there):
            return kind
    known = "; ".join(map(str, KINDS))
    told = ", ".join(there) or "(all are empty)"
    raise RecordError(f"columns {told} are none of {known}; name them by data.columns=question:prompt")


def read(rows: Iterable[Row]) -> Table:
    """The examples of a table's rows.

    Raises RecordError with the place of a row, and its column, that cannot be used: of another kind than the
    first row, without a response, with two responses that are equal.
    """
    table: Table | None = None
    forms: dict[str, str] = {}
    for row in rows:
        try:
            row = Row(with_texts(row.values), row.place)
            if table and (missing := table.kind.lacks(row.values)):
                raise RecordError(f"column {missing[0]} is missing; the rows before have {table.kind}")
            kind = recognise(row.values)
            table = table or Table(kind)
            if kind is not table.kind:
                raise RecordError(f"columns {kind}, where the rows before have {table.kind}")
            found = list(kind.parse(row))
            for name in kind.columns:
                value = row.values.get(name, "")
                form = form_of(value)
                if value != "" and forms.setdefault(name, form) != form:
                    raise RecordError(f"column {name} is {form}, in the rows before {forms[name]}")
            table.add(found)
            table.unread |= _unread_keys([row.values.get(name) for name in kind.columns])
        except RecordError as error:
            raise RecordError(f"{row.place}: {error}") from None
    if table is None:
        raise RecordError("a table without rows")
    if not table.examples:
        told = f"nothing to learn from, left out: {table.without()}" if table.left_out else "no judgments"
        told += f"; {table.not_read()}" if table.unread else ""
        raise RecordError(f"{row.place}: this and the rows before have {told}")
    return table


def _unread_keys(value: Any) -> dict[str, None]:
    """The keys of objects, however deep in a value, that are not read, such as a turn's name or weight."""
    if isinstance(value, list):
        return dict.fromkeys(key for one in value for key in _unread_keys(one))
    if not isinstance(value, dict):
        return {}
    called, read = next((OBJECTS[key] for key in OBJECTS if key in value), ("", (*value,)))
    return {f"{key} of {called}": None for key in value if key not in read} | _unread_keys([*value.values()])

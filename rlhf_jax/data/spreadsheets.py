"""Texts that no spreadsheet takes for a formula: CSV is opened in one, and what strangers wrote would run.

An apostrophe is put before = + - @ tab and carriage return wherever a cell could begin: at the start of a
text, and behind a line break, a tab or a semicolon, at which programs of some languages part the cells.
The column `defused` names the columns of a row that have such apostrophes, so that reading takes off those,
and no apostrophe of anybody else's table.
"""

import re
from collections.abc import Mapping
from typing import Any

DEFUSED = "defused"
BEGINS = r"(?:\A|(?<=[\n\r\t;]))"
FORMULA = re.compile(BEGINS + r"(?=[' ]*[=+\-@\t\r])")
DEFUSED_FORMULA = re.compile(BEGINS + r"'(?=[' ]*[=+\-@\t\r])")


def defused(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with its texts made harmless, and with the column that says which."""
    found = {
        name: FORMULA.sub("'", value) if isinstance(value, str) else value for name, value in row.items()
    }
    return found | {DEFUSED: " ".join(name for name in row if found[name] != row[name])}


def restored(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row that `defused` was given; any other as it is."""
    found = {name: value for name, value in row.items() if name != DEFUSED}
    named = (row.get(DEFUSED) or "").split()
    texts = {name: found[name] for name in named if isinstance(found.get(name), str)}
    return found | {name: DEFUSED_FORMULA.sub("", text) for name, text in texts.items()}

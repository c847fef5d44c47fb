"""Formulas in a CSV: none is left that a spreadsheet could see, and each comes back as it was."""

import csv
import itertools
import re

import pytest

from rlhf_jax.data.spreadsheets import DEFUSED, defused, restored
from rlhf_jax.data.tables import rows

TEXTS = ["".join(letters) for size in range(5) for letters in itertools.product("=- '\t\r\n;a", repeat=size)]


@pytest.mark.parametrize(
    "text, harmless",
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@sum", "'@sum"),
        ("\tx", "'\tx"),
        ("\r\nx", "'\r\nx"),
        ("  =1", "'  =1"),
        ("'=1", "''=1"),
        ("a\n- b", "a\n'- b"),
        ("a;=b", "a;'=b"),
        ("a = b - c, =d", "a = b - c, =d"),
        ("'quoted'", "'quoted'"),
    ],
)
def test_a_formula_is_text_wherever_a_cell_could_begin(text, harmless):
    row = defused({"said": text, "plain": "p", "number": -1})
    assert row == {"said": harmless, "plain": "p", "number": -1, DEFUSED: "said" * (text != harmless)}
    assert restored(row) == {"said": text, "plain": "p", "number": -1}


def test_whatever_stands_in_a_cell_comes_back():
    """All texts of up to four letters that matter."""
    for text in TEXTS:
        row = defused({"a": text})
        assert restored(row) == {"a": text}
        assert not any(re.match("[ ]*[=+@\t\r-]", cell) for cell in re.split("[\n;]", row["a"]))


def test_the_reader_undoes_it_in_our_tables_and_leaves_those_of_others_alone(tmp_path):
    found = [text for text in TEXTS if text]
    with (tmp_path / "ours.csv").open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", DEFUSED], quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writeheader()
        writer.writerows(defused({"prompt": text}) for text in found)
    assert [row.values for row in rows(tmp_path / "ours.csv")] == [{"prompt": text} for text in found]
    (tmp_path / "theirs.csv").write_text("prompt\n'-' or '+'?\n'=' is a sign\n")
    assert [row.values["prompt"] for row in rows(tmp_path / "theirs.csv")] == ["'-' or '+'?", "'=' is a sign"]

"""A small table, and what writes it in each format that tables are read from."""

import csv
import gzip
import json
from pathlib import Path

import pyarrow.ipc
import pyarrow.parquet

TABLE = [
    {"prompt": 'A "quoted", long\nquestion', "completion": " naïve 🙂"},
    {"prompt": "2 + 2 =", "completion": " 4", "note": "easy"},
    {"prompt": "q", "completion": "x" * 200_000},  # longer than a cell of the module csv may be
]
COLUMNS = ("prompt", "completion", "note")


def lines(table: list) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table).encode()


def jsonl(path: Path, table: list) -> None:
    path.write_bytes(lines(table))


def jsonl_of_windows(path: Path, table: list) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + lines(table).replace(b"\n", b"\r\n") + b"\r\n")


def json_list(path: Path, table: list) -> None:
    path.write_text(json.dumps(table, indent=2))


def json_nulls(path: Path, table: list) -> None:
    json_list(path, [dict.fromkeys(COLUMNS) | row for row in table])


def gzipped(path: Path, table: list) -> None:
    path.write_bytes(gzip.compress(lines(table)))


def comma_separated(path: Path, table: list, encoding: str = "utf-8") -> None:
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(table)


def comma_separated_of_excel(path: Path, table: list) -> None:
    comma_separated(path, table, "utf-8-sig")


def parquet(path: Path, table: list) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(padded(table)), path, row_group_size=2)


def arrow(path: Path, table: list) -> None:
    content = pyarrow.Table.from_pylist(padded(table))
    with pyarrow.ipc.new_stream(path, content.schema) as file:
        file.write_table(content)


def indexed_arrow(path: Path, table: list) -> None:
    content = pyarrow.Table.from_pylist(padded(table))
    with pyarrow.ipc.new_file(path, content.schema) as file:
        file.write_table(content)


def padded(table: list) -> list:
    """Arrow takes the columns from the first row."""
    names = dict.fromkeys(name for row in table for name in row)
    return [dict.fromkeys(names) | row for row in table]


FORMATS = {
    "a.jsonl": jsonl,
    "windows.jsonl": jsonl_of_windows,
    "lines.json": jsonl,
    "list.json": json_list,
    "nulls.json": json_nulls,
    "a.jsonl.gz": gzipped,
    "a.json.gz": gzipped,
    "a.csv": comma_separated,
    "excel.csv": comma_separated_of_excel,
    "a.parquet": parquet,
    "a.arrow": arrow,
    "indexed.arrow": indexed_arrow,
}

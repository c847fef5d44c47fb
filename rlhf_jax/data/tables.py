"""Tables of any origin, row by row: JSON, CSV, Parquet, their shards, and what the library `datasets` saves.

A table is named by a file, a folder or glob of shards, or a folder of `save_to_disk`. Its files may be of
several splits, such as train and test, which are never mixed: splits are those of a saved DatasetDict, or the
names of shards, `test-00000-of-00002.parquet` or `test.jsonl`. JSON lines, CSV, Parquet and Arrow are read as
a stream; a JSON list is read whole.
"""

import csv
import gzip
import math
import re
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from itertools import chain, islice
from os import PathLike
from typing import IO, Any, NamedTuple

from etils.epath import Path

from rlhf_jax.data.arrow_tables import ARROW, PARQUET, Batches, arrow_values
from rlhf_jax.data.columns import Columns, distinct, renamed
from rlhf_jax.data.record_json import parse_line
from rlhf_jax.data.records import RecordError
from rlhf_jax.data.spreadsheets import restored
from rlhf_jax.files import matching, named_by, read_object

SPLITS = {  # ours, by the first word of the names that people give them
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "validation", "val", "dev", "eval"), "valid"),
    "test": "test",
}
FIRST_ROWS = 100  # of a table, which tell its columns: a line of JSON may leave some out
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # which Windows writes before UTF-8
ABOUT_TABLES = ("dataset_info", "dataset_dict")  # beginnings of names of files that describe tables


class Row(NamedTuple):
    """A row without what stands for nothing, however deep: nulls, NaN and infinity, empty cells of a CSV.

    All values of a CSV are texts. A list keeps its places: a null in it is None.
    """

    values: dict[str, Any]  # by column
    place: str  # where it stands, for messages: "data/pairs.jsonl, line 3"; rows are counted from 1


def rows(path: str | PathLike[str], columns: Columns | None = None, split: str = "") -> Iterator[Row]:
    """The rows of a table, or of the one of its splits that is named, with columns renamed by `columns`.

    Raises RecordError naming file, row and column: also where there is no row, a column to rename is in none
    or gets the name of another, or the table has several splits and none of them is named.
    """
    there = columns_of(path, split, columns) if columns else []
    if unknown := [name for name in columns or () if name not in there]:
        raise RecordError(f"{path}: no column {unknown[0]!r} there; it has {', '.join(there)}")
    empty = True
    for row in chain.from_iterable(map(_read_file, _files(path, split))):
        empty = False
        yield _filled(row, columns or {})
    if empty:
        raise RecordError(f"{path}: no rows in it")


def splits(path: str | PathLike[str]) -> dict[str, list[Path]]:
    """The files of a table by split, in the order of their names; "" is the split that has no name."""
    found = named_by(str(path))
    if not found:
        raise RecordError(f"{path}: No such file or folder")
    if len(found) == 1 and found[0].is_dir():
        if saved := _saved(found[0]):
            return saved
        found = matching(found[0], "*")
    files = [file for file in found if _suffix(file) and not file.name.startswith(ABOUT_TABLES)]
    if not files:
        there = ", ".join(file.name for file in found[:5]) or "nothing"
        raise RecordError(f"{path}: no table, which is one of {', '.join(READERS)}; there is {there}")
    if len(kinds := {_suffix(file).removesuffix(".gz"): None for file in files}) > 1:
        raise RecordError(
            f"{path}: {' and '.join(kinds)} files; name one kind by a pattern, such as '*.jsonl'"
        )
    names = [re.sub(r"[-_.]?\d+(-of-\d+)?$", "", file.name.removesuffix(_suffix(file))) for file in files]
    if not any(map(split_of, names)):
        return {"": files}
    of = list(zip(names, files, strict=True))
    return {split: [file for name, file in of if name == split] for split in sorted(set(names))}


def split_of(name: str) -> str:
    """train, valid or test, as the first word of the name of a split says; nothing where it does not."""
    return SPLITS.get(re.split("[-_.]", name)[0], "")


def columns_of(path: str | PathLike[str], split: str = "", wanted: Collection[str] = ()) -> list[str]:
    """The columns of a table, or of one of its splits, in its first rows and, for `wanted`, in all of them.

    Raises as `rows` does.
    """
    read = chain.from_iterable(map(_read_file, _files(path, split)))
    found = dict.fromkeys(name for row in islice(read, FIRST_ROWS) for name in row.values)
    if not found:
        raise RecordError(f"{path}: no rows in it")
    while not found.keys() >= set(wanted) and (row := next(read, None)):
        found |= dict.fromkeys(row.values)
    return list(found)


def _files(path: str | PathLike[str], split: str) -> list[Path]:
    """The files of a table, or of the one of its splits that is named."""
    found = splits(path)
    if split not in found and (split or len(found) > 1):
        names = ", ".join(found) if any(found) else "no splits"
        raise RecordError(f"{path}: {f'no split {split!r}' if split else 'which split?'}; it has {names}")
    return found[split] if split in found else next(iter(found.values()))


def _saved(folder: Path) -> dict[str, list[Path]]:
    """The splits of what `save_to_disk` wrote; none of another folder."""
    try:
        if (folder / "dataset_dict.json").exists():
            names = read_object(folder / "dataset_dict.json", RecordError)["splits"]
            return {name: next(iter(_saved(folder / name).values())) for name in names}
        if (folder / "state.json").exists():
            state = read_object(folder / "state.json", RecordError)
            return {state.get("_split") or "": [folder / part["filename"] for part in state["_data_files"]]}
    except (KeyError, TypeError, StopIteration):
        raise RecordError(f"{folder}: not as Dataset.save_to_disk leaves a folder; save it again") from None
    return {}


def _filled(row: Row, columns: Columns) -> Row:
    """The row with its columns renamed, without what stands for nothing."""
    try:
        return Row(_without_nulls(renamed(row.values, columns)), row.place)
    except RecordError as error:
        raise RecordError(f"{row.place}: {error}") from None
    except RecursionError:
        raise RecordError(f"{row.place}: nested too deeply") from None


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return type(value)((name, _without_nulls(one)) for name, one in value.items() if not _is_null(one))
    if isinstance(value, list):
        return [None if _is_null(one) else _without_nulls(one) for one in value]
    return value


def _is_null(value: Any) -> bool:
    """Whether it is a null, or a number that JSON does not have: pandas writes NaN for what is missing."""
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def _read_file(path: Path) -> Iterator[Row]:
    """The rows of a file as they are there."""
    suffix = _suffix(path)
    try:
        with path.open("rb") as file:
            content: Any = gzip.GzipFile(fileobj=file) if suffix.endswith(".gz") else file
            yield from READERS[suffix](content, str(path))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RecordError(f"{path}: broken gzip ({error}); fetch or write the file again") from None
    except OSError as error:
        if error.errno is None:
            raise  # a bucket's, which storage.py explains
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from None


def _read_json(file: IO[bytes], name: str) -> Iterator[Row]:
    """A list of objects, or an object a line."""
    filled = ((number, line) for number, line in enumerate(lines_of(file), 1) if line.strip())
    for row, (number, line) in enumerate(filled):
        place = f"{name}, line {number}"
        if not row and line.lstrip().startswith(b"["):
            whole = b"\n" * (number - 1) + line + file.read()  # whose lines have the numbers of the file's
            for row, value in enumerate(parse_line(whole, list, name), 1):
                yield Row(_object(value, f"{name}, row {row}"), f"{name}, row {row}")
            return
        if line.strip() == b"{":
            raise RecordError(f"{place}: an object should stand on one line, or all of them in a list")
        yield Row(_object(parse_line(line, lambda value: value, place), place), place)


def _read_csv(file: IO[bytes], name: str) -> Iterator[Row]:
    """Cells separated by commas, below their columns' names, as they were before `spreadsheets.defused`."""
    csv.field_size_limit(2**31 - 1)  # the module's own limit, 131,072 characters, is less than some texts
    lines = csv.reader((line.decode() for line in lines_of(file)), strict=True)
    try:
        header = distinct(next(lines, []), name)
        for number, cells in enumerate(filter(None, lines), 1):
            place = f"{name}, row {number}"
            if len(cells) != len(header):
                raise RecordError(f"{place}: {len(cells)} cells, but the header names {len(header)} columns")
            values = {column: cell or None for column, cell in zip(header, cells, strict=True)}
            yield Row(restored(values), place)
    except csv.Error as error:
        raise RecordError(f"{name}, line {lines.line_num}: not CSV ({error})") from None
    except UnicodeDecodeError:
        raise RecordError(f"{name}, line {lines.line_num + 1}: not UTF-8 text") from None


def _read_columns(batches: Batches, file: IO[bytes], name: str) -> Iterator[Row]:
    for number, values in enumerate(arrow_values(batches, file, name), 1):
        yield Row(values, f"{name}, row {number}")


def lines_of(file: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a file, without the byte order mark before them."""
    for number, line in enumerate(file):
        yield line if number else line.removeprefix(BYTE_ORDER_MARK)


def _object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RecordError(f"{place}: should be a JSON object of columns and their values")
    return value


def _suffix(path: Path) -> str:
    """The one of READERS that the file's name ends with, or nothing."""
    return next((suffix for suffix in READERS if path.name.endswith(suffix)), "")


TEXTS = {".jsonl": _read_json, ".json": _read_json, ".csv": _read_csv}
READERS: dict[str, Callable[[IO[bytes], str], Iterator[Row]]] = {
    **TEXTS,
    **{f"{suffix}.gz": reader for suffix, reader in TEXTS.items()},
    ".parquet": partial(_read_columns, PARQUET),
    ".arrow": partial(_read_columns, ARROW),
}

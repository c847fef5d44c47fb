"""Tables that hold Arrow's columns, as Parquet and Arrow files do, as rows of Python's values."""

from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, NamedTuple

from rlhf_jax.data.columns import distinct
from rlhf_jax.data.records import RecordError

BATCH_ROWS = 1024  # of Parquet, that are in memory at once
INDEXED = b"ARROW1"  # the first bytes of an Arrow file that has an index
END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"  # the last bytes of an Arrow stream


class Batches(NamedTuple):
    """A format: its name, and what reads a file's batches, which are pyarrow's."""

    format: str
    read: Callable[[IO[bytes]], Iterable[Any]]


def arrow_values(batches: Batches, file: IO[bytes], name: str) -> Iterator[dict[str, Any]]:
    """The rows of a file, by column; `name` is the file's, for messages.

    Moments finer or farther off than those of Python are texts, as in JSON. Raises RecordError where the file
    is broken or has something that Python cannot hold.
    """
    import pyarrow

    number = 0
    try:
        for batch in batches.read(file):
            distinct(batch.schema.names, name)
            for values in _values(batch, name, number):
                number += 1
                yield values
    except (pyarrow.ArrowException, OSError) as error:
        why, behind = str(error).partition("\n")[0].rstrip("."), f" after row {number}" if number else ""
        told = f"broken {batches.format}{behind} ({why}); fetch or write the file again"
        raise RecordError(f"{name}: {told}") from None


def _parquet(file: IO[bytes]) -> Iterator[Any]:
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(file).iter_batches(BATCH_ROWS)


def _arrow(file: IO[bytes]) -> Iterator[Any]:
    """A stream, as `datasets` writes it, or a file with an index at its end, as Polars writes it."""
    import pyarrow.ipc

    beginning = file.read(len(INDEXED))
    file.seek(0)
    if beginning == INDEXED:
        indexed = pyarrow.ipc.open_file(file)
        yield from map(indexed.get_batch, range(indexed.num_record_batches))
        return
    yield from pyarrow.ipc.open_stream(file)
    file.seek(-len(END_OF_STREAM), 2)
    if file.read() != END_OF_STREAM:  # at the end of a batch, pyarrow takes a file cut short for whole
        raise pyarrow.ArrowInvalid("it ends early")


def _values(batch: Any, name: str, before: int) -> list[dict[str, Any]]:
    """The rows of a batch, which has so many rows before it."""
    try:
        return batch.to_pylist()
    except (ValueError, OverflowError):  # of one of its columns
        columns = [_column(batch[i], column, name, before) for i, column in enumerate(batch.schema.names)]
        return [dict(zip(batch.schema.names, row, strict=True)) for row in zip(*columns, strict=True)]


def _column(array: Any, column: str, name: str, before: int) -> list[Any]:
    """The values of one column of a batch."""
    import pyarrow

    try:
        return array.to_pylist()
    except UnicodeDecodeError:
        for number, value in enumerate(array, before + 1):
            try:
                value.as_py()
            except UnicodeDecodeError:
                raise RecordError(f"{name}, row {number}: column {column} is not UTF-8 text") from None
        raise
    except (ValueError, OverflowError):
        try:
            return array.cast(_with_texts(array.type)).to_pylist()
        except pyarrow.ArrowException as error:
            why = str(error).partition("\n")[0]
            raise RecordError(f"{name}: column {column} cannot be read ({why}); leave it out") from None


def _with_texts(kind: Any) -> Any:
    """A type of Arrow with texts for the moments in it."""
    import pyarrow

    if pyarrow.types.is_temporal(kind):
        return pyarrow.string()
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
        return pyarrow.list_(_with_texts(kind.value_type))
    if pyarrow.types.is_struct(kind):
        return pyarrow.struct([(field.name, _with_texts(field.type)) for field in kind])
    return kind


PARQUET = Batches("Parquet", _parquet)
ARROW = Batches("Arrow", _arrow)

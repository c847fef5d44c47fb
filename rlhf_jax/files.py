"""Files: JSON of unknown origin, read with errors for people; files and folders whole or not at all."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from os import PathLike
from typing import Any, NoReturn

from etils.epath import Path


class JsonError(ValueError):
    """Bytes that are not JSON; the message says why and where in them, not in which file."""


def parse_json(content: bytes) -> Any:
    """The JSON value in UTF-8 bytes.

    Numbers that JSON does not have, such as NaN, are refused, and a name that stands twice in an object, of
    which one value would be lost.
    """
    try:
        return json.loads(content.decode(), parse_constant=_refuse, object_pairs_hook=_object)
    except UnicodeDecodeError:
        raise JsonError("not UTF-8 text") from None
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise JsonError(f"not JSON ({error.msg} at {line}column {error.colno})") from None
    except RecursionError:
        raise JsonError("not JSON that can be read (it is nested too deeply)") from None
    except JsonError:
        raise
    except ValueError:
        raise JsonError("not JSON that can be read (a number has thousands of digits)") from None


def _refuse(constant: str) -> NoReturn:
    raise JsonError(f"not JSON ({constant} is no number of JSON)")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise JsonError(f"the name {twice!r} stands twice in an object")
    return found


def matching(folder: Path, pattern: str) -> list[Path]:
    """What lies in a folder under names such as `metrics/*.jsonl`, sorted; nothing where it is no folder.

    The folder's own name is no pattern: to `glob` of etils.epath, `runs/lr[1e-4]` is another folder.
    """
    name, _, deeper = pattern.partition("/")
    found, hidden = sorted(folder.iterdir()) if folder.is_dir() else [], name.startswith(".")
    found = [path for path in found if fnmatchcase(path.name, name) and path.name.startswith(".") == hidden]
    return [one for path in found for one in matching(path, deeper)] if deeper else found


def named_by(pattern: str) -> list[Path]:
    """The file or folder of that name, or what lies under the names that it is a pattern of."""
    path = Path(pattern).expanduser()
    if path.exists():
        return [path]
    there = next((parent for parent in path.parents if parent.is_dir()), path.parent)
    return matching(there, str(path.relative_to(there)))


def read_object(
    path: str | PathLike[str], error: type[ValueError], missing: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The JSON object in a file; `missing`, where one is given and no file is there.

    Raises `error` naming the file. To ask before whether it exists is not the same: of a store that does
    not answer, exists() says no.
    """
    try:
        value = parse_json(Path(path).read_bytes())
    except OSError as fault:
        gone = isinstance(fault, FileNotFoundError)
        if gone and missing is not None:
            return missing
        if fault.errno is None and not gone:
            raise  # a bucket's, which storage.py explains
        raise error(f"{path}: cannot be read ({fault.strerror or 'no such file'})") from None
    except JsonError as fault:
        raise error(f"{path}: {fault}") from None
    if not isinstance(value, dict):
        raise error(f"{path}: should be a JSON object")
    return value


@contextmanager
def naming(path: PathLike[str]) -> Iterator[None]:
    """Gives `path` to an OSError of the block: that of a full disk does not say what was written."""
    try:
        yield
    except IsADirectoryError:  # of etils, without a number
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path)) from None
    except OSError as error:
        if error.errno is None:
            raise  # a bucket's, which storage.py explains
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


@contextmanager
def whole(path: str | PathLike[str]) -> Iterator[Path]:
    """A file to write that takes the name `path` at the end of the block; makes the folder.

    Where the block fails, nothing is left of it and what was at `path` stays.
    """
    target = Path(path)
    partial = target.with_name(f"{target.name}.{os.getpid()}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    with naming(target):
        try:
            yield partial
            partial.replace(target)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise


@contextmanager
def whole_folder(path: str | PathLike[str], error: type[ValueError]) -> Iterator[Path]:
    """The same for a folder, which the block makes. Raises `error` where `path` holds something already."""
    target = Path(path)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise error(f"--out: {target} is not empty; name a new folder")
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield partial
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(path: str | PathLike[str], text: str) -> None:
    """Writes the whole file or nothing; makes its folder."""
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: str | PathLike[str], value: Any) -> None:
    """The same with a JSON value as the text."""
    write_text(path, json.dumps(value, indent=1) + "\n")

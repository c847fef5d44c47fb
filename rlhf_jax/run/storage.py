"""Folders on gs://: what a bucket refuses, told in one line.

gcsfs, by which etils.epath reads and writes there, raises errors of its own that do not name the folder.
"""

import functools
import logging
from collections.abc import Callable
from os import PathLike
from typing import Concatenate, ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Folder = str | PathLike[str]


class StorageError(ValueError):
    """A bucket that cannot be used; the message says what to do."""


def explained(
    function: Callable[Concatenate[Folder, Arguments], Result],
) -> Callable[Concatenate[Folder, Arguments], Result]:
    """`function(folder, …)`, which raises a StorageError where gs:// refuses the folder."""

    @functools.wraps(function)
    def call(folder: Folder, *arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        if not str(folder).startswith("gs://"):
            return function(folder, *arguments, **named)
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # with a traceback it logs what it raises, too
        try:
            return function(folder, *arguments, **named)
        except Exception as error:
            reason = _reason(error)
            if reason is None:
                raise
            raise StorageError(f"{folder}: {reason}") from error

    return call


def _reason(error: Exception) -> str | None:
    """Why the store did not do what it was asked for; None of other errors."""
    told = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    if isinstance(error, ImportError):
        return "folders on gs:// need gcsfs: pip install -e '.[gs]'"
    if isinstance(error, FileNotFoundError):
        return "there is no such bucket: gcloud storage buckets create makes one"
    if getattr(error, "code", None) in (401, 403) or str(error).startswith("Forbidden"):
        return (
            f"the bucket may not be read or written from here ({told}): log in by gcloud auth "
            "application-default login, or give the machine's service account roles/storage.objectUser"
        )
    return f"the store does not answer ({told})" if isinstance(error, OSError) else None

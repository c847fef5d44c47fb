"""Folders on gs://: what a bucket refuses, told in one line.

gcsfs, by which etils.epath reads and writes there, raises errors of its own that do not name the folder.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike


class StorageError(ValueError):
    """A bucket that cannot be used; the message says what to do."""


@contextmanager
def explained(folder: str | PathLike[str]) -> Iterator[None]:
    """Raises a StorageError where gs:// refuses what the block does in `folder`."""
    remote = str(folder).startswith("gs://")
    if remote:
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # with a traceback it logs what it raises, too
    try:
        yield
    except Exception as error:
        reason = _reason(error) if remote else None
        if reason is None:
            raise
        raise StorageError(f"{folder}: {reason}") from error


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

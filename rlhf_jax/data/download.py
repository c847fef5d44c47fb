"""Fetching a published file once, into a cache."""

import os
import shutil
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

TIMEOUT = 60  # seconds without a byte


class DownloadError(ValueError):
    """A file that could not be fetched whole."""


def download(url: str, path: str | Path, size: int | None = None) -> Path:
    """Fetches `url` to `path` unless it is there; returns `path`.

    What has arrived is kept in `path`.part and completed by the next call. The file takes
    its name once it has as many bytes as the server announced, and as `size` where given.
    """
    path = Path(path)
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    try:
        announced = _fetch_rest(url, partial)
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        message = f"cannot download {url} ({reason}): run again, or put the file at {path}"
        raise DownloadError(message) from None
    expected = announced if size is None else size
    arrived = partial.stat().st_size
    if arrived < expected == announced:
        raise DownloadError(f"{url} broke off at {arrived} of {expected} bytes: run again to resume")
    if arrived != expected:
        partial.unlink()
        raise DownloadError(f"{url} has {arrived} bytes, not {expected}: not the file expected, deleted")
    os.replace(partial, path)
    return path


def _fetch_rest(url: str, partial: Path) -> int:
    """Appends to `partial` what it lacks; returns the bytes that the server says the whole file has."""
    have = partial.stat().st_size if partial.exists() else 0
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urlopen(request, timeout=TIMEOUT)
    except HTTPError as error:
        if error.code != 416:  # the part is as long as the file, or longer
            raise
        partial.unlink()
        return _fetch_rest(url, partial)
    with response, open(partial, "ab" if response.status == 206 else "wb") as file:
        shutil.copyfileobj(response, file)
        if response.status == 206:
            return int(response.headers["Content-Range"].rpartition("/")[2])
        return int(response.headers["Content-Length"])

"""Fetching a published file once, into a cache that several processes may share."""

import fcntl
import os
import shutil
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError
from urllib.request import Request, urlopen

TIMEOUT = 60  # seconds without a byte


class DownloadError(ValueError):
    """A file that could not be fetched whole."""


def download(url: str, path: str | Path, size: int | None = None) -> Path:
    """Fetches `url` to `path` unless it is there; returns `path`.

    What has arrived is kept in `path`.part and completed by the next call. The file takes
    its name once it has as many bytes as the server announced, and as `size` where given.
    Of processes that ask for it together one fetches, the others wait for it.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while not path.exists():
            with open(partial, "ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # given up with the file, also by a process that is killed
                if not _is_at(file, partial):
                    continue  # who had it has finished or deleted it
                if path.exists():
                    partial.unlink()  # made since then
                else:
                    _complete(url, file, partial, size)
                    os.replace(partial, path)
    except DownloadError:
        raise
    except (OSError, HTTPException, ValueError) as error:  # the last of what is no address
        reason = getattr(error, "reason", None) or error
        message = f"cannot download {url} ({reason}): run again, or put the file at {path}"
        raise DownloadError(message) from None
    return path


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _complete(url: str, file: BinaryIO, partial: Path, size: int | None) -> None:
    """Fetches what the open file `partial` lacks. Raises DownloadError where it is not whole then."""
    announced = _fetch_rest(url, file)
    file.flush()
    expected = announced if size is None else size
    arrived = os.fstat(file.fileno()).st_size
    if arrived < expected == announced:
        raise DownloadError(f"{url} broke off at {arrived} of {expected} bytes: run again to resume")
    if arrived != expected:
        partial.unlink()
        raise DownloadError(f"{url} has {arrived} bytes, not {expected}: not the file expected, deleted")


def _fetch_rest(url: str, file: BinaryIO) -> int:
    """Appends to `file` what it lacks; returns the bytes that the server says the whole file has."""
    have = os.fstat(file.fileno()).st_size
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urlopen(request, timeout=TIMEOUT)
    except HTTPError as error:
        if error.code != 416:  # the part is as long as the file, or longer
            raise
        file.truncate(0)
        return _fetch_rest(url, file)
    with response:
        if response.headers.get_content_type() == "text/html":
            raise DownloadError(f"{url}: a web page answers; perhaps this network asks to log in first")
        if response.status != 206:
            file.truncate(0)
        shutil.copyfileobj(response, file)
        if response.status == 206:
            announced = response.headers.get("Content-Range", "").rpartition("/")[2]
        else:
            announced = response.headers.get("Content-Length", "")
    if not announced.isdecimal():
        raise DownloadError(
            f"{url}: the server does not say how long the file is; download it by other means"
        )
    return int(announced)

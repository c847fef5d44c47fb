"""The site's memory: one SQLite file, whose writes are on disk before anybody hears of them.

Whoever writes takes the one lock, so each transaction sees the last one's result. A server killed
at any moment loses nothing that it has acknowledged. Names and what people wrote are in the file, so
its owner alone can read it, and what is deleted is overwritten.
"""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import sqlalchemy as sa

from rlhf_jax.feedback.migration import migrate
from rlhf_jax.feedback.schema import VERSION

LONGEST_NAME = 247  # bytes: of the 255 of a file system, SQLite's own files add 8 for "-journal"
PATIENCE = 5.0  # seconds that a write waits for others, of this process or another
CONNECTIONS = 24  # at once; each needs three open files


class StoreError(ValueError):
    """A file that is not a store, is of another version, or is damaged."""


class StoreBusy(StoreError):
    """A store that another program holds; a moment later it may be free."""


class Store:
    """An open store; `read()` and `write()` each give a connection for one transaction."""

    def __init__(self, path: str | Path, must_exist: bool = False):
        named, path = str(path), Path(path)
        self.path = path
        if must_exist and not path.is_file():
            raise StoreError(f"{path}: there is no such store")
        if path.is_dir() or named.endswith("/"):
            raise StoreError(f"{path}: a store is a file, and this names a folder")
        if (size := len(os.fsencode(path.name))) > LONGEST_NAME:
            raise StoreError(f"{path}: a store's name has at most {LONGEST_NAME} bytes, and this one {size}")
        if not path.parent.is_dir():
            raise StoreError(f"{path.parent}: there is no such folder for the store")
        self._lock = threading.Lock()
        # The URL made of its parts takes a path as it is, and a whole one is never ":memory:".
        url = sa.URL.create("sqlite", database=os.path.realpath(path))
        self._engine = sa.create_engine(url, pool_size=CONNECTIONS // 3, max_overflow=CONNECTIONS * 2 // 3)
        sa.event.listen(self._engine, "connect", _on_connect)
        sa.event.listen(self._engine, "begin", _on_begin)
        made = not path.exists()
        if made:
            self._make()
        try:
            self._open(new=not must_exist and not path.stat().st_size)
        except StoreError:
            self.close()
            if made:
                path.unlink()
            raise

    def _make(self) -> None:
        """An empty file that its owner alone can read, as will be what SQLite lays beside it."""
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o600))
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be opened for writing ({error.strerror})") from None

    def _open(self, new: bool) -> None:
        """Makes the tables of a new store, or looks whether this is one, undamaged and of which version."""
        with self.read() as db:
            version = db.exec_driver_sql("PRAGMA user_version").scalar_one()
            mode = db.exec_driver_sql("PRAGMA journal_mode").scalar_one()
            found = db.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
        if found != "ok":
            raise StoreError(f"{self.path}: damaged ({' '.join(found.split())}); restore a backup")
        if version > VERSION:
            raise StoreError(f"{self.path}: made by a newer version of the site, which can open it")
        if version == 0 and not new:
            raise StoreError(f"{self.path}: not a store of the site")
        if version < VERSION:
            with self.write() as db:
                migrate(db)  # to which a new store is one without tables
            with suppress(PermissionError):  # of somebody else, who decides
                self.path.chmod(0o600)
        if mode != "wal":  # kept in the file, so not before it is known to be ours
            with self._told(), closing(self._engine.raw_connection()) as connection:
                connection.cursor().execute("PRAGMA journal_mode=WAL")

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Raises StoreError where the store cannot be read."""
        with self._told(), self._engine.begin() as db:
            yield db

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Committed, and on disk, when the block ends; nothing of it happens where it raises.

        Raises StoreBusy where others write for longer than PATIENCE, and StoreError.
        """
        if not self._lock.acquire(timeout=PATIENCE):
            raise self._busy()
        try:
            with self._told(), self._engine.connect().execution_options(writes=True) as db:
                with db.begin():
                    yield db
                # Into the one file, so that a copy of it has all answers, whatever lies beside it.
                db.connection.cursor().execute("PRAGMA wal_checkpoint(PASSIVE)")
        finally:
            self._lock.release()

    def forget(self) -> None:
        """Has what was deleted leave also the file beside the store that has the newest changes."""
        with self._lock, self._told(), closing(self._engine.raw_connection()) as own:
            own.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def backup(self, path: Path) -> None:
        """Copies the store, as it is at one moment, to a file at `path`; others may go on writing."""
        source, target = closing(self._engine.raw_connection()), closing(sqlite3.connect(path))
        with self._told(), source as own, target as copy:
            own.driver_connection.backup(copy)  # type: ignore[union-attr]
            copy.execute("PRAGMA journal_mode=DELETE")  # so that the one file is all of it

    def close(self) -> None:
        self._engine.dispose()

    def _busy(self) -> StoreBusy:
        return StoreBusy(f"{self.path}: another program is writing to it; close that one and try again")

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Says what SQLite says as people need it."""
        try:
            yield
        except (sa.exc.IntegrityError, sa.exc.ProgrammingError):
            raise  # a mistake of ours
        except (sa.exc.OperationalError, sqlite3.OperationalError) as error:
            reason = getattr(error, "orig", error)
            if "locked" in str(reason):
                raise self._busy() from None
            raise StoreError(f"{self.path}: cannot be opened for writing ({reason})") from None
        except (sa.exc.DatabaseError, sqlite3.DatabaseError) as error:
            reason = getattr(error, "orig", error)
            raise StoreError(f"{self.path}: not a store, or damaged ({reason}); restore a backup") from None


def _on_connect(connection, _record) -> None:
    # sqlite3 would begin transactions by itself, too late for a read before a write.
    connection.isolation_level = None
    settings = (
        "synchronous=FULL",
        "foreign_keys=ON",
        "secure_delete=ON",
        f"busy_timeout={PATIENCE * 1000:.0f}",
    )
    for setting in settings:
        connection.execute(f"PRAGMA {setting}")


def _on_begin(db: sa.Connection) -> None:
    db.exec_driver_sql("BEGIN IMMEDIATE" if db.get_execution_options().get("writes") else "BEGIN")

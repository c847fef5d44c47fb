"""The site's memory: one SQLite file, whose writes are on disk before anybody hears of them.

Whoever writes takes the one lock, so each transaction sees the last one's result. A server killed
at any moment loses nothing that it has acknowledged.
"""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Boolean, Column, Float, ForeignKey, Integer, Table, Text

VERSION = 1  # of the tables, kept in the file
LONGEST_NAME = 247  # bytes: of the 255 of a file system, SQLite's own files add 8 for "-journal"

metadata = sa.MetaData()

# role: labeler, researcher or administrator. standing: training, failed or passed (the onboarding).
# `worker` stands for the person in exports; `invitation` is the SHA-256 of the token of the newest link,
# behind "used " once it is.
people = Table(
    "people",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("worker", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("invitation", Text, unique=True),
    Column("paused", Boolean, nullable=False, default=False),
    Column("standing", Text, nullable=False),
    Column("created", Float, nullable=False),
)
# `cookie` is the SHA-256 of the cookie's value.
sessions = Table(
    "sessions",
    metadata,
    Column("cookie", Text, primary_key=True),
    Column("person", ForeignKey("people.id"), nullable=False),
    Column("csrf", Text, nullable=False),
    Column("created", Float, nullable=False),
)
# `part`: work, calibration (everybody does it) or onboarding. `position` orders the tasks.
tasks = Table(
    "tasks",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("record", sa.JSON, nullable=False),
    Column("part", Text, nullable=False),
    Column("position", Float, nullable=False, index=True),
)
# A person's task. `flipped`: the second summary of the record is shown first. `step` and `fields`: how
# far the person is, and what is typed. `seen`: the last sign of work; `seconds`: time worked.
assignments = Table(
    "assignments",
    metadata,
    Column("task", ForeignKey("tasks.id"), primary_key=True),
    Column("person", ForeignKey("people.id"), primary_key=True, index=True),
    Column("flipped", Boolean, nullable=False),
    Column("step", Integer, nullable=False, default=0),
    Column("fields", sa.JSON, nullable=False, default=dict),
    Column("opened", Float, nullable=False),
    Column("seen", Float, nullable=False),
    Column("seconds", Float, nullable=False, default=0.0),
    Column("done", Boolean, nullable=False, default=False),
)
# `id` is the key that the form's page has made: sent again, it changes nothing.
answers = Table(
    "answers",
    metadata,
    Column("person", ForeignKey("people.id"), primary_key=True),
    Column("id", Text, primary_key=True),
    Column("task", ForeignKey("tasks.id"), nullable=False, index=True),
    Column("answer", sa.JSON, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("created", Float, nullable=False),
    sa.UniqueConstraint("person", "task"),
)
questions = Table(
    "questions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("task", ForeignKey("tasks.id")),
    Column("person", ForeignKey("people.id"), nullable=False),
    Column("text", Text, nullable=False),
    Column("created", Float, nullable=False),
)
replies = Table(
    "replies",
    metadata,
    Column("id", Text, primary_key=True),
    Column("question", ForeignKey("questions.id"), nullable=False),
    Column("person", ForeignKey("people.id"), nullable=False),
    Column("text", Text, nullable=False),
    Column("created", Float, nullable=False),
)


class StoreError(ValueError):
    """A file that is not a store, or one of another version."""


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
        self._engine = sa.create_engine(url, pool_size=8, max_overflow=32)
        sa.event.listen(self._engine, "connect", _on_connect)
        sa.event.listen(self._engine, "begin", _on_begin)
        try:
            with self.write() as db:
                version = db.exec_driver_sql("PRAGMA user_version").scalar_one()
                if version == 0 and not must_exist and not sa.inspect(db).get_table_names():
                    metadata.create_all(db)
                    db.exec_driver_sql(f"PRAGMA user_version = {VERSION}")
                elif version != VERSION:
                    raise StoreError(f"{path}: not a store of this version of the site")
            # Kept in the file, so not before it is known to be ours.
            with closing(self._engine.raw_connection()) as connection:
                connection.cursor().execute("PRAGMA journal_mode=WAL")
        except (sa.exc.OperationalError, sqlite3.OperationalError) as error:
            reason = getattr(error, "orig", error)
            raise StoreError(f"{path}: cannot be opened for writing ({reason})") from None
        except sa.exc.DatabaseError as error:
            raise StoreError(f"{path}: not a store, or damaged ({error.orig})") from None

    def read(self) -> AbstractContextManager[sa.Connection]:
        return self._engine.begin()

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Committed, and on disk, when the block ends; nothing of it happens where it raises."""
        with self._lock, self._engine.connect().execution_options(writes=True) as db, db.begin():
            yield db

    def close(self) -> None:
        self._engine.dispose()


def _on_connect(connection, _record) -> None:
    # sqlite3 would begin transactions by itself, too late for a read before a write.
    connection.isolation_level = None
    for pragma in ("synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000"):
        connection.execute(f"PRAGMA {pragma}")


def _on_begin(db: sa.Connection) -> None:
    db.exec_driver_sql("BEGIN IMMEDIATE" if db.get_execution_options().get("writes") else "BEGIN")

"""The store: whole transactions, on disk, and nothing else taken for one."""

import sqlite3
import subprocess
import sys
import threading

import pytest
import sqlalchemy as sa
from labelling import ROOT

from rlhf_jax.feedback import people
from rlhf_jax.feedback.store import Store, StoreError
from rlhf_jax.feedback.store import people as table


def names(store: Store) -> list[str]:
    with store.read() as db:
        return list(db.scalars(sa.select(table.c.name).order_by(table.c.name)))


def test_a_write_that_fails_leaves_nothing(tmp_path):
    store = Store(tmp_path / "s.sqlite")
    with pytest.raises(RuntimeError), store.write() as db:
        people.add(db, "Ana", "labeler")
        raise RuntimeError
    assert names(store) == []


def test_what_was_written_outlives_a_process_that_is_killed(tmp_path):
    program = f"""
import os, signal
from rlhf_jax.feedback import people
from rlhf_jax.feedback.store import Store
store = Store({str(tmp_path / "s.sqlite")!r})
with store.write() as db:
    people.add(db, "Ana", "labeler")
with store.write() as db:
    people.add(db, "Bo", "labeler")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", program], cwd=ROOT)
    assert killed.returncode == -9
    assert names(Store(tmp_path / "s.sqlite")) == ["Ana"]


def test_every_connection_waits_for_the_disk(tmp_path):
    store = Store(tmp_path / "s.sqlite")
    with store.read() as db, store.read() as other:
        for connection in (db, other):
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
            assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_writers_see_each_others_results(tmp_path):
    store = Store(tmp_path / "s.sqlite")
    with store.write() as db:
        person, _ = people.add(db, "0", "labeler")

    def count():
        for _ in range(10):
            with store.write() as db:
                found = people.find(db, person.worker)
                people.change(db, person.id, name=str(int(found.name) + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names(store) == ["40"]


def test_other_files_are_not_taken_for_stores(tmp_path):
    (tmp_path / "text").write_text("a text, and long enough to be no empty database" * 100)
    with pytest.raises(StoreError, match="text: not a store"):
        Store(tmp_path / "text")
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.execute("CREATE TABLE mine (x)")
    other.close()
    before = (tmp_path / "other.sqlite").read_bytes()
    with pytest.raises(StoreError, match="other.sqlite: not a store"):
        Store(tmp_path / "other.sqlite")
    assert (tmp_path / "other.sqlite").read_bytes() == before
    with pytest.raises(StoreError, match="there is no such store"):
        Store(tmp_path / "none", must_exist=True)
    with pytest.raises(StoreError, match="there is no such folder"):
        Store(tmp_path / "no" / "where")


NAMES = [
    "round%201.sqlite", "which?.sqlite", "a#b", "[1]", "*", "it's", '"said"', " blanks ", "-x", "Наука é",
    ":memory:", "file:x", "file:x?mode=memory", "a&b=c", "n" * 247, "ы" * 123,
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_store_is_the_file_that_its_path_names(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for path in (name, tmp_path / name):
        store = Store(path)
        with store.write() as db:
            people.add(db, "Ana", "labeler")
        store.close()
        assert [file.name for file in tmp_path.iterdir()] == [name]
    assert names(Store(name, must_exist=True)) == ["Ana", "Ana"]


def test_links_lead_to_a_store_as_the_system_follows_them(tmp_path):
    (tmp_path / "far" / "folder").mkdir(parents=True)
    (tmp_path / "near").symlink_to("far/folder")
    (tmp_path / "link").symlink_to("file")
    Store(tmp_path / "near" / ".." / "up").close()
    Store(tmp_path / "link").close()
    assert (tmp_path / "far" / "up").is_file() and (tmp_path / "file").is_file()


@pytest.mark.parametrize(
    "path, message",
    [
        ("", "names a folder"),
        ("folder", "folder: a store is a file, and this names a folder"),
        ("new.sqlite/", "names a folder"),
        ("n" * 248, "at most 247 bytes, and this one 248"),
        ("ы" * 124, "at most 247 bytes, and this one 248"),
        ("/proc/new.sqlite", "cannot be opened for writing"),
        ("/dev/full", "cannot be opened for writing"),
    ],
)
def test_what_cannot_be_a_store_leaves_nothing(tmp_path, monkeypatch, path, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match=message):
        Store(path)
    assert [file.name for file in tmp_path.rglob("*")] == ["folder"]

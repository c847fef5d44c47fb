"""The store: whole transactions, on disk, and nothing else taken for one."""

import sqlite3
import stat
import subprocess
import sys
import threading

import pytest
import sqlalchemy as sa
from labelling import ROOT

from rlhf_jax.feedback import people
from rlhf_jax.feedback.answers import export
from rlhf_jax.feedback.schema import people as table
from rlhf_jax.feedback.splits import by_hash
from rlhf_jax.feedback.store import Store, StoreBusy, StoreError


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
from rlhf_jax.feedback.answers import export
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


def test_a_store_of_the_first_version_opens_with_all_it_has(tmp_path):
    db = sqlite3.connect(tmp_path / "s.sqlite")
    db.executescript((ROOT / "tests" / "fixtures" / "feedback_store_1.sql").read_text())
    db.close()
    store = Store(tmp_path / "s.sqlite", must_exist=True)
    found = export(store, tmp_path / "out", "b")
    assert found.counts["comparisons"] == 1 and names(store) == ["Ana"]
    assert found.comparisons == {by_hash("post0"): 1}  # where version 1 has exported it
    store.close()
    assert names(Store(tmp_path / "s.sqlite")) == ["Ana"]


def test_a_store_of_a_later_version_is_left_alone(tmp_path):
    Store(tmp_path / "s.sqlite").close()
    with sqlite3.connect(tmp_path / "s.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreError, match="a newer version"):
        Store(tmp_path / "s.sqlite")


def test_its_owner_alone_can_read_it(tmp_path):
    store = Store(tmp_path / "s.sqlite")
    with store.write() as db:
        people.add(db, "Ana", "labeler")
        modes = {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert modes == {0o600} and len(list(tmp_path.iterdir())) == 3  # with what SQLite lays beside it


def test_who_reads_does_not_wait_for_another_program_that_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("rlhf_jax.feedback.store.PATIENCE", 0.1)
    store = Store(tmp_path / "s.sqlite")
    other = sqlite3.connect(tmp_path / "s.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert names(store) == [] and names(Store(tmp_path / "s.sqlite", must_exist=True)) == []
    with pytest.raises(StoreBusy, match="another program is writing"), store.write():
        pass
    other.execute("ROLLBACK")
    other.close()
    with store.write() as db:
        people.add(db, "Ana", "labeler")


def test_damage_is_told_in_a_line(tmp_path):
    store = Store(tmp_path / "s.sqlite")
    with store.write() as db:
        for i in range(300):
            people.add(db, f"Somebody {i}", "labeler")
    store.close()
    whole = (tmp_path / "s.sqlite").read_bytes()
    holed = b"".join(
        b"\xff" * 64 + whole[i + 64 : i + 4096] if i >= 8192 else whole[i : i + 4096]
        for i in range(0, len(whole), 4096)
    )
    for bad in (holed, whole[:6000], whole[:-5000]):
        (tmp_path / "bad.sqlite").write_bytes(bad)
        with pytest.raises(StoreError, match=r"bad.sqlite: .*damaged.*restore a backup"):
            Store(tmp_path / "bad.sqlite")
        assert (tmp_path / "bad.sqlite").read_bytes() == bad

"""Copies of a store: whole at any moment, for their owner alone, put back where nothing is lost by it."""

import shutil
import stat

import pytest
from labelling import count, join, make_site, pair

from rlhf_jax.feedback import backup, restore
from rlhf_jax.feedback.schema import answers
from rlhf_jax.feedback.store import Store
from rlhf_jax.feedback.study import Study


@pytest.fixture
def site(tmp_path):
    site = make_site(tmp_path, [pair(i) for i in range(5)], Study(calibration=0.0, steps=("choose",)))
    ana = join(site, "Ana")
    for _ in range(3):
        ana.compare(2)
    return site


def run(command, *arguments) -> int:
    return command.main(["rlhf-jax x", *arguments])


def held(path) -> int:
    store = Store(path, must_exist=True)
    with store.read() as db:
        found = len(db.execute(answers.select()).all())
    store.close()
    return found


def test_a_running_store_is_copied_and_put_back(site, tmp_path):
    out, new = tmp_path / "copy.sqlite", tmp_path / "new.sqlite"
    assert run(backup, f"--store={site.store.path}", f"--out={out}") == 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert run(restore, f"--backup={out}", f"--store={new}") == 0
    assert held(out) == held(new) == count(site, answers) == 3


def test_a_plain_copy_of_the_one_file_has_the_last_answer(site, tmp_path):
    shutil.copy(site.store.path, tmp_path / "plain.sqlite")
    assert held(tmp_path / "plain.sqlite") == 3


def test_nothing_is_overwritten_and_nothing_half_is_left(site, tmp_path, capsys):
    store = site.store.path
    (tmp_path / "there").write_text("mine")
    (tmp_path / "bad.sqlite").write_bytes(store.read_bytes()[:6000])
    before = sorted(tmp_path.iterdir())
    assert run(backup, f"--store={store}", f"--out={tmp_path / 'there'}") == 2
    assert run(backup, f"--store={tmp_path / 'bad.sqlite'}", f"--out={tmp_path / 'new'}") == 2
    assert run(restore, f"--backup={store}", f"--store={tmp_path / 'there'}") == 2
    assert run(restore, f"--backup={tmp_path / 'bad.sqlite'}", f"--store={tmp_path / 'new'}") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 4 and "Traceback" not in error and "restore a backup" in error
    assert sorted(tmp_path.iterdir()) == before and (tmp_path / "there").read_text() == "mine"

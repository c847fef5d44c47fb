import errno
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from counting import count, steps

from rlhf_jax.command_line import Stopped
from rlhf_jax.config import ConfigError, HealthConfig
from rlhf_jax.run import checkpoint
from rlhf_jax.run import steps as saved
from rlhf_jax.run.checkpoint import CheckpointError
from rlhf_jax.training.health import TrainingError


def test_saves_every_so_often_and_at_the_end(tmp_path):
    state = count(tmp_path, 25)
    assert state.params[0] == 25 and state.total == sum(range(25))
    folder = tmp_path / "checkpoints" / "counter"
    assert sorted(int(path.name) for path in folder.iterdir()) == [20, 25]
    assert steps(tmp_path) == list(range(25))


@pytest.fixture
def interruptible():
    """SIGINT as a terminal's programs have it: a shell's background jobs, and their tests, ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_once_its_step_is_saved(tmp_path, number, capfd, interruptible):
    before = signal.getsignal(number)
    with pytest.raises(Stopped, match=f"{number.name} after step 4 of 25 of counter, saved; the same") as end:
        count(tmp_path, 25, lambda i: os.kill(os.getpid(), number) if i == 3 else None)
    assert end.value.status == 128 + number and signal.getsignal(number) is before
    assert f"{number.name}: saving after this step" in capfd.readouterr().err
    assert checkpoint.latest_step(tmp_path / "checkpoints" / "counter") == 4
    state = count(tmp_path, 25)
    assert state.params[0] == 25 and state.total == sum(range(25))
    assert steps(tmp_path) == list(range(25))


def test_an_error_of_another_program_leaves_the_steps_before_it(tmp_path):
    def broken(i):
        if i == 13:
            raise ConfigError("mine.py:f: out of words")

    with pytest.raises(
        ConfigError, match="out of words; 13 of 25 steps of counter are saved; the same command"
    ):
        count(tmp_path, 25, broken, rescued=ConfigError)
    assert checkpoint.latest_step(tmp_path / "checkpoints" / "counter") == 13
    state = count(tmp_path, 25)
    assert state.params[0] == 25 and state.total == sum(range(25))
    with pytest.raises(ConfigError, match="; no step of counter was made; the same command resumes"):
        count(tmp_path / "new", 25, lambda i: broken(13), rescued=ConfigError)


def test_a_second_signal_ends_at_once(tmp_path, interruptible):
    def twice(i):
        if i == 3:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)  # two that come together are one
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)

    with pytest.raises(KeyboardInterrupt):
        count(tmp_path, 25, twice)
    assert checkpoint.latest_step(tmp_path / "checkpoints" / "counter") is None


def test_a_signal_that_is_ignored_stays_so(tmp_path, interruptible):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    state = count(tmp_path, 5, lambda i: os.kill(os.getpid(), signal.SIGINT) if i == 3 else None)
    assert state.params[0] == 5 and signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.parametrize(("total", "ended"), [(25, 13), (14, 13), (13, None)])
def test_a_run_without_updates_ends_before_its_last_step_is_called_done(tmp_path, total, ended):
    """Skipped from step 11 on: with a patience of 3 it ends at step 13, in the last step too."""
    folder = tmp_path / "checkpoints" / "counter"
    options = {"skipped": lambda i: max(i - 10, 0), "health": HealthConfig(patience=3)}
    if ended is None:
        count(tmp_path, total, **options)
        return
    with pytest.raises(TrainingError, match=f"to {ended} .* step: 10; .* {folder}/10\\."):
        count(tmp_path, total, **options)
    assert steps(tmp_path) == list(range(ended + 1))
    assert checkpoint.latest_step(folder) == 10


def test_a_signal_in_the_last_step_ends_the_run_behind_it(tmp_path):
    with pytest.raises(Stopped, match="SIGTERM after step 5 of 5 of counter, saved"):
        count(tmp_path, 5, lambda i: os.kill(os.getpid(), signal.SIGTERM) if i == 4 else None)
    assert count(tmp_path, 5, lambda i: 1 / 0).params[0] == 5


def test_what_began_to_be_saved_is_though_the_run_fails(tmp_path):
    with pytest.raises(ZeroDivisionError):
        count(tmp_path, 25, lambda i: 1 / (10 - i))
    assert checkpoint.latest_step(tmp_path / "checkpoints" / "counter") == 10


def test_the_training_goes_on_while_a_step_is_written_and_the_next_save_waits(tmp_path, monkeypatch):
    """The save of step 10 waits for step 15; that of step 20 begins after the first has ended."""
    later, finish, told = threading.Event(), checkpoint._finish, []

    def slow(path, *rest):
        assert later.wait(60)
        finish(path, *rest)
        told.append(f"whole {path.name}")

    def during(i):
        if i == 15:
            assert checkpoint.latest_step(tmp_path / "checkpoints" / "counter") is None
            later.set()
        told.append(i)

    monkeypatch.setattr(checkpoint, "_finish", slow)
    count(tmp_path, 25, during)
    assert told.index("whole 10") < told.index(20) and told[-1] == "whole 25"


def test_what_is_saved_is_the_step_s_state_though_its_memory_is_given_to_the_next(tmp_path, monkeypatch):
    finish, ended = checkpoint._finish, threading.Event()

    def late(*arguments):
        assert ended.wait(60)
        finish(*arguments)

    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    state = step(jnp.zeros(100_000))
    monkeypatch.setattr(checkpoint, "_finish", late)
    saving = checkpoint.start_save(tmp_path, 1, params={"x": state}, rest={"n": jnp.int32(1)}, meta={})
    for _ in range(5):
        state = step(state)
    state.block_until_ready()
    ended.set()
    saving.result()
    like = {"x": jax.ShapeDtypeStruct((100_000,), jnp.float32)}
    assert (checkpoint.restore_params(tmp_path, 1, like)["x"] == 1).all() and (state == 6).all()


def test_a_save_that_fails_ends_the_run_with_the_step_before_whole(tmp_path, monkeypatch):
    write_json = saved.write_json

    def full(file, value):
        if file.name == saved.MANIFEST and file.parent.name == "20":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_json(file, value)

    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(saved, "write_json", full)
        with pytest.raises(CheckpointError, match="counter/20 could not be written: No space left on device"):
            count(tmp_path, 1000, seen.append)
    folder = tmp_path / "checkpoints" / "counter"
    assert seen[-1] <= 30 and [path.name for path in folder.iterdir()] == ["10"]
    assert count(tmp_path, 25).total == sum(range(25)) and steps(tmp_path) == list(range(25))


FULL = """
import sys
from pathlib import Path

import counting
from absl import logging
from rlhf_jax.run import checkpoint
from rlhf_jax.command_line import command

workdir = Path(sys.argv[1])
ballast = workdir / "ballast"
ballast.write_bytes(b"x" * 2_000_000)
sizes = {"size": 150_000}  # a step takes 1.2 MB, as Orbax fills the zstd of what is all the same

def train():
    logging.set_verbosity(logging.FATAL)  # as rlhf-jax run does
    counting.count(workdir, 40, counting.fill(ballast), **sizes)

status = command(["rlhf_jax"], train)
print("status", status, "newest", checkpoint.latest_step(workdir / "checkpoints" / "counter"))
ballast.unlink()
state = counting.count(workdir, 40, **sizes)
print("then", state.params[0], state.total, counting.steps(workdir) == list(range(40)))
"""


def test_a_full_disk_is_told_in_one_line_and_the_run_goes_on_once_there_is_room(tmp_path):
    """A real one: a file system of 4 MB in a name space of its own."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount")
    (tmp_path / "full.py").write_text(FULL)
    tests = Path(__file__).parents[1]
    ended = subprocess.run(
        ["unshare", "-rm", "sh", "-c"]
        + ['mkdir $0/run && mount -t tmpfs -o size=4m none $0/run && exec "$@"', tmp_path]
        + [sys.executable, tmp_path / "full.py", tmp_path / "run"],
        env=os.environ | {"PYTHONPATH": f"{tests.parent}:{tests}", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.stdout.split("\n")[:2] == ["status 2 newest 10", "then 40.0 780.0 True"], (
        ended.stdout + ended.stderr
    )
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("rlhf_jax: ")]
    assert "counter/20 could not be written: No space left on device" in line
    assert "Traceback" not in ended.stderr


BEST = [5.0] * 10 + [3.0] * 5 + [1.0] * 5 + [4.0] * 10 + [6.0] * 10  # the mean of ten is the least in step 20


def best_of(workdir):
    folder, step = checkpoint.require(workdir, "counter")
    return step, sorted(int(path.name) for path in folder.iterdir())


def test_the_best_step_stays_and_is_what_later_stages_read(tmp_path):
    count(tmp_path, 40, losses=BEST, best="-loss", keep_checkpoints=1)
    assert best_of(tmp_path) == (20, [20, 40])
    assert saved.read_json(tmp_path / "checkpoints/counter/20/meta.json") == {
        "best": "-loss",
        "value": 2.0,
    }
    assert checkpoint.latest_step(tmp_path / "checkpoints" / "counter") == 40


def test_the_best_step_of_a_stopped_run_is_that_of_the_undisturbed_one(tmp_path):
    """Stopped in step 17, whose own save is no candidate though the steps since 10 would be the best yet."""
    with pytest.raises(Stopped):
        count(
            tmp_path,
            40,
            lambda i: os.kill(os.getpid(), signal.SIGTERM) if i == 16 else None,
            losses=BEST,
            best="-loss",
            keep_checkpoints=1,
        )
    assert best_of(tmp_path) == (10, [10, 17])
    count(tmp_path, 40, losses=BEST, best="-loss", keep_checkpoints=1)
    assert best_of(tmp_path) == (20, [20, 40])
    assert saved.read_json(tmp_path / "checkpoints/counter/20/meta.json")["value"] == 2.0


def test_highest_is_best_without_a_sign_and_nan_never_is(tmp_path):
    count(tmp_path, 40, losses=[math.nan] * 10 + [1.0] * 10 + [7.0] * 10 + [2.0] * 10, best="loss")
    assert best_of(tmp_path) == (30, [30, 40])


def test_a_damaged_best_step_gives_way_to_the_next_best(tmp_path):
    count(tmp_path, 40, losses=BEST, best="-loss", keep_checkpoints=3)
    (tmp_path / "checkpoints/counter/20/meta.json").write_text("{")
    assert best_of(tmp_path)[0] == 30


def test_a_metric_that_is_not_there_is_told_with_those_that_are(tmp_path):
    with pytest.raises(ConfigError, match="counter.best: '-los' is no metric of counter; it has count, "):
        count(tmp_path, 40, best="-los")
    assert checkpoint.latest_step(tmp_path / "checkpoints" / "counter") is None

import os
import signal

import jax
import jax.numpy as jnp
import pytest
from flax import struct

from rlhf_jax import checkpoint, loop
from rlhf_jax.command_line import Stopped
from rlhf_jax.config import HealthConfig
from rlhf_jax.health import TrainingError, Watch
from rlhf_jax.metrics import MetricsLog, read_metrics


class Counter(struct.PyTreeNode):
    """Steps made, as the parameters, and their sum beside it."""

    params: jax.Array
    total: jax.Array

    def parts(self):
        return {"count": self.params}, self.replace(params=None)

    def with_params(self, params):
        return self.replace(params=params["count"])


def count(workdir, total, during=lambda i: None, save_every=10, profile=None):
    """A run that counts to `total`; `during(i)` is called within step i."""
    folder = workdir / "checkpoints" / "counter"
    start = checkpoint.latest_step(folder) or 0
    state = loop.resume(folder, start, Counter(jnp.zeros(8), jnp.float32(0)))

    def update(state, i):
        during(i)
        return Counter(state.params + 1, state.total + i), {"count": state.params[0]}

    log = MetricsLog(workdir, "counter", start, total, "counter")
    return loop.run(log, folder, state, update, save_every=save_every, counted=("steps", 1), profile=profile)


def steps(workdir):
    return [int(record["step"]) for record in read_metrics(workdir / "metrics" / "counter.jsonl")]


def test_saves_every_so_often_and_at_the_end(tmp_path):
    state = count(tmp_path, 25)
    assert state.params[0] == 25 and state.total == sum(range(25))
    folder = tmp_path / "checkpoints" / "counter"
    assert sorted(int(path.name) for path in folder.iterdir()) == [20, 25]
    assert steps(tmp_path) == list(range(25))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_once_its_step_is_saved(tmp_path, number, capfd):
    before = signal.getsignal(number)
    with pytest.raises(Stopped, match=f"{number.name} after step 4 of 25 of counter, saved; the same") as end:
        count(tmp_path, 25, lambda i: os.kill(os.getpid(), number) if i == 3 else None)
    assert end.value.status == 128 + number and signal.getsignal(number) is before
    assert f"{number.name}: saving after this step" in capfd.readouterr().err
    assert checkpoint.latest_step(tmp_path / "checkpoints" / "counter") == 4
    state = count(tmp_path, 25)
    assert state.params[0] == 25 and state.total == sum(range(25))
    assert steps(tmp_path) == list(range(25))


def test_a_second_signal_ends_at_once(tmp_path):
    def twice(i):
        if i == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        count(tmp_path, 25, twice)
    assert checkpoint.latest_step(tmp_path / "checkpoints" / "counter") is None


def test_a_signal_in_the_last_step_is_too_late_to_matter(tmp_path):
    state = count(tmp_path, 5, lambda i: os.kill(os.getpid(), signal.SIGTERM) if i == 4 else None)
    assert state.params[0] == 5


@pytest.mark.parametrize(("total", "ended"), [(25, 13), (14, 13), (13, None)])
def test_a_run_without_updates_ends_before_its_last_step_is_called_done(tmp_path, total, ended):
    """Skipped from step 11 on: with a patience of 3 it ends at step 13, in the last step too."""
    folder = tmp_path / "checkpoints" / "counter"

    def update(state, i):
        idle = max(0, i - 10)
        return state.replace(params=state.params + 1), {"skipped": idle > 0, "skipped_in_a_row": idle}

    log = MetricsLog(tmp_path, "counter", 0, total, "counter", watch=Watch(folder, HealthConfig(patience=3)))
    state = Counter(jnp.zeros(8), jnp.float32(0))
    if ended is None:
        loop.run(log, folder, state, update, save_every=10, counted=("steps", 1))
        return
    with pytest.raises(TrainingError, match=f"to {ended} .* step: 10; .* {folder}/10\\."):
        loop.run(log, folder, state, update, save_every=10, counted=("steps", 1))
    assert steps(tmp_path) == list(range(ended + 1))
    assert checkpoint.latest_step(folder) == 10

import os
import signal

import jax
import jax.numpy as jnp
import pytest
from flax import struct

from rlhf_jax import checkpoint, loop
from rlhf_jax.command_line import Stopped
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

import json
import math
import time
from types import SimpleNamespace

import jax.numpy as jnp
import pytest
from etils.epath import Path
from tensorboardX.proto import event_pb2

from rlhf_jax.training.metrics import MetricsLog, read_metrics, show_results
from rlhf_jax.training.tracking import Table


def open_log(workdir, resume_step=0, **options):
    return MetricsLog(workdir, "sft", resume_step, total=10, **options)


def path(workdir):
    return workdir / "metrics" / "sft.jsonl"


def tensorboard_scalars(folder):
    """(step, tag, value) of every scalar; a record is its length, 4 bytes, the event, 4 bytes."""
    for file in sorted(folder.iterdir()):
        content, at = file.read_bytes(), 0
        while at < len(content):
            length = int.from_bytes(content[at : at + 8], "little")
            event = event_pb2.Event.FromString(content[at + 12 : at + 12 + length])
            at += 16 + length
            for value in event.summary.value:
                yield event.step, value.tag, value.simple_value


def test_a_step_is_written_when_the_next_one_is_logged(tmp_path):
    with open_log(tmp_path) as log:
        log.log(0, {"loss": jnp.float32(2.5)})
        assert read_metrics(path(tmp_path)) == []
        log.log(1, {"loss": jnp.float32(1.5)})
        assert read_metrics(path(tmp_path)) == [{"step": 0, "loss": 2.5}]
    assert read_metrics(path(tmp_path)) == [{"step": 0, "loss": 2.5}, {"step": 1, "loss": 1.5}]


def test_what_a_step_read_is_written_a_second(tmp_path, monkeypatch):
    times = iter([10.0, 12.0, 12.5])
    clock = SimpleNamespace(monotonic=lambda: next(times), time=time.time)
    monkeypatch.setattr(
        "rlhf_jax.training.metrics.time", clock
    )  # this module's alone: other threads have theirs
    with open_log(tmp_path) as log:
        log.log(0, {}, pairs=64, tokens=jnp.float32(900))
        log.log(1, {}, pairs=64, tokens=1000)
    first, second = read_metrics(path(tmp_path))
    assert first == {"step": 0, "pairs_per_second": 32, "tokens_per_second": 450}
    assert second == {"step": 1, "pairs_per_second": 128, "tokens_per_second": 2000}


def test_the_time_that_is_left_is_told_by_steps_that_do_not_compile(tmp_path):
    with open_log(tmp_path, resume_step=3) as log:
        log.log(3, {})
        compiled = time.time()
        log.log(4, {})
        log.log(5, {})
        bar = log._bar
        assert bar.start_t >= compiled and (bar.n, bar.initial) == (5, 4)  # one step since, not two


def test_flush_writes_the_held_step_once(tmp_path):
    with open_log(tmp_path) as log:
        log.log(0, {"loss": 1.0})
        log.flush()
        assert [r["step"] for r in read_metrics(path(tmp_path))] == [0]
    assert [r["step"] for r in read_metrics(path(tmp_path))] == [0]


def test_held_step_is_written_when_the_run_fails(tmp_path):
    with pytest.raises(KeyboardInterrupt), open_log(tmp_path) as log:
        log.log(0, {"loss": 1.0})
        raise KeyboardInterrupt
    assert [r["step"] for r in read_metrics(path(tmp_path))] == [0]


def test_resumed_run_has_every_step_once_and_the_later_values(tmp_path):
    with open_log(tmp_path) as log:
        for step in range(6):
            log.log(step, {"loss": 1.0})
    with open(path(tmp_path), "a") as file:
        file.write('{"step": 6, "lo')  # killed while writing
    with open_log(tmp_path, resume_step=4) as log:
        for step in range(4, 8):
            log.log(step, {"loss": 2.0})
    records = read_metrics(path(tmp_path))
    assert [(r["step"], r["loss"]) for r in records] == [(s, 1.0 if s < 4 else 2.0) for s in range(8)]


def test_a_line_cut_off_by_a_kill_is_not_read(tmp_path):
    with open_log(tmp_path) as log:
        log.log(0, {"loss": 1.0})
    with open(path(tmp_path), "a") as file:
        file.write('{"step": 1, "loss": 2')
    assert read_metrics(path(tmp_path)) == [{"step": 0, "loss": 1.0}]


def test_non_finite_values_are_valid_json_and_floats_when_read(tmp_path):
    with open_log(tmp_path) as log:
        log.log(0, {"nan": jnp.float32(jnp.nan), "up": jnp.float32(jnp.inf), "down": -jnp.float32(jnp.inf)})

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    json.loads(path(tmp_path).read_text(), parse_constant=refuse)
    (record,) = read_metrics(path(tmp_path))
    assert math.isnan(record["nan"]) and record["up"] == math.inf and record["down"] == -math.inf


def test_tensorboard_has_the_same_figures(tmp_path):
    with open_log(tmp_path) as log:
        log.log(0, {"loss": 2.5, "lr": 0.5})
        log.log(1, {"loss": 1.5, "lr": 0.25})
    scalars = sorted(tensorboard_scalars(tmp_path / "tensorboard" / "sft"))
    assert scalars == [(0, "loss", 2.5), (0, "lr", 0.5), (1, "loss", 1.5), (1, "lr", 0.25)]


def test_tensorboard_has_the_configuration_and_a_table_of_samples(tmp_path):
    samples = Table(["post", "sft"], [["a | b\nc", "x"]])
    show_results(
        Path(tmp_path), "eval", "", {"ppo.lam": 0.95, "data.buckets": [1, 2]}, {"ppo.kl": 6.0}, samples
    )
    (file,) = (tmp_path / "tensorboard" / "eval").iterdir()
    content = file.read_bytes()
    assert b"ppo.lam" in content and b"[1, 2]" in content and b"_hparams_/session_start_info" in content
    assert b"| post | sft |\n| --- | --- |\n| a \\| b c | x |" in content
    assert (0, "ppo.kl", 6.0) in list(tensorboard_scalars(file.parent))


def test_bar_names_the_stage_the_count_and_the_figures_asked_for(tmp_path, capsys):
    with open_log(tmp_path, resume_step=3, shown=("loss",)) as log:
        log.log(3, {"loss": 2.5, "lr": 0.5})
    bar = capsys.readouterr().err.split("\r")[-1]
    assert bar.startswith("sft:") and "4/10" in bar and "loss=2.5" in bar and "lr" not in bar

"""Trackers: a service gets every step once, whatever happens to the run or to the service."""

import os
import signal
import sys

import pytest
import services
from counting import count
from etils.epath import Path

from rlhf_jax.command_line import Stopped
from rlhf_jax.training import tracking
from rlhf_jax.training.metrics import MetricsLog, read_metrics, show_results
from rlhf_jax.training.tracking import Table, Tracker, TrackError, require


@pytest.fixture(params=["wandb", "trackio", "mlflow"])
def package(request, monkeypatch):
    made = services.MlflowPackage("mlflow") if request.param == "mlflow" else services.Package(request.param)
    monkeypatch.setitem(sys.modules, request.param, made)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    return made


def stop(i):
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_training_is_a_run_with_the_numbers_of_its_steps_and_the_configuration(tmp_path, package):
    count(tmp_path / "mine", 12, track=package.__name__)
    (run,) = package.runs
    assert package.steps() == list(range(12)) and package.finished == 1
    assert [values["count"] for _, _, values in package.logged] == list(range(12))
    assert run["group"] == "mine" and run["name"].startswith("mine/counter")
    assert run["config"]["ppo.kl_coef"] == 0.05 and run["config"]["track"] == package.__name__


def test_a_stopped_training_goes_on_in_the_same_run(tmp_path, package):
    with pytest.raises(Stopped):
        count(tmp_path, 25, lambda i: stop(i) if i == 3 else None, track=package.__name__)
    count(tmp_path, 25, track=package.__name__)
    first, second = package.runs
    assert package.steps() == list(range(25))
    assert first.get("id", first["name"]) == second.get("id", second["name"])


def test_steps_made_again_behind_a_checkpoint_are_not_sent_again(tmp_path, package):
    with pytest.raises(ZeroDivisionError):
        count(tmp_path, 25, lambda i: 1 / (17 - i), track=package.__name__)
    assert package.steps()[-1] == 16  # the checkpoint is of step 10
    with pytest.raises(ZeroDivisionError):  # once more, before it has come as far
        count(tmp_path, 25, lambda i: 1 / (13 - i), track=package.__name__)
    count(tmp_path, 25, track=package.__name__)
    assert package.steps() == list(range(25))


def test_what_a_service_did_not_take_is_sent_once_it_answers(tmp_path, package, monkeypatch, capsys):
    monkeypatch.setattr(tracking, "RETRY_SECONDS", 0)

    def during(i):
        package.down = 4 <= i < 9

    count(tmp_path, 12, during, track=package.__name__)
    told = [line for line in capsys.readouterr().err.splitlines() if "WARNING track" in line]
    assert package.steps() == list(range(12))
    wanted = f"{package.__name__}: no answer from the server; the run goes on, and what was not sent is sent"
    assert told == [f"WARNING track: {wanted} later"]


def test_a_service_that_is_gone_for_good_ends_no_run_and_the_next_start_sends_what_it_lacks(
    tmp_path, package, capsys
):
    package.down = True
    with pytest.raises(Stopped):
        count(tmp_path, 25, lambda i: stop(i) if i == 13 else None, track=package.__name__)
    assert "14 steps were not sent; the files in metrics/ have them" in capsys.readouterr().err
    package.down = False
    count(tmp_path, 25, track=package.__name__)
    assert package.steps() == list(range(25))


def test_a_run_that_is_tracked_from_its_second_start_on_is_there_whole(tmp_path, package):
    with pytest.raises(Stopped):
        count(tmp_path, 25, lambda i: stop(i) if i == 13 else None)
    count(tmp_path, 25, track=package.__name__)
    assert package.steps() == list(range(25))


def test_a_record_that_a_kill_cut_off_counts_to_its_last_whole_line(tmp_path, package):
    log = ("counter", {}, Path(tmp_path), Path(tmp_path))
    (tmp_path / f"counter.{package.__name__}").write_text("abc\n0\n1\n2")
    tracker = Tracker(package.__name__, "mine", *log)
    tracker.hold([(step, {}) for step in range(5)])
    tracker.close()
    assert package.steps() == [2, 3, 4]
    assert Tracker(package.__name__, "mine", *log).next == 5


def test_a_step_counts_as_sent_once_a_kill_cannot_lose_it(tmp_path, package):
    """Weights & Biases keeps the newest step until another one comes, or the end."""
    tracker = Tracker(package.__name__, "mine", "counter", {}, Path(tmp_path), Path(tmp_path))
    tracker.hold([(step, {}) for step in range(3)])
    tracker.send()
    record = tmp_path / f"counter.{package.__name__}"
    assert record.read_text().split()[1:] == ["0", "1"] + ["2"] * (package.__name__ != "wandb")
    tracker.close()
    assert record.read_text().split()[1:] == ["0", "1", "2"]


def test_other_processes_send_nothing(tmp_path, package, monkeypatch):
    monkeypatch.setattr("rlhf_jax.run.hosts.is_first", lambda: False)
    with MetricsLog(tmp_path, "sft", 0, 3, track=package.__name__) as log:
        log.log(0, {"loss": 1.0})
    assert package.runs == []


def test_an_evaluation_is_a_run_with_its_figures_and_a_table_and_another_one_is_its_next_step(
    tmp_path, package
):
    samples = Table(["post", "sft"], [["a | b\nc", "x"], ["d", "y"]])
    for kl in (6.0, 7.0):
        show_results(Path(tmp_path), "eval", package.__name__, {"seed": 1}, {"ppo.kl": kl}, samples)
    assert package.steps() == [0, 1]
    assert [values["ppo.kl"] for _, _, values in package.logged] == [6.0, 7.0]
    assert package.runs[0]["config"] == {"seed": 1}
    if package.__name__ == "mlflow":
        assert package.table == ({"post": ["a | b\nc", "d"], "sft": ["x", "y"]}, "samples.json")
    else:
        table = package.logged[0][2]["samples"]
        assert (table.columns, table.data) == (["post", "sft"], samples.rows)


def test_a_round_has_the_name_of_the_run_before_it():
    assert tracking.group_of(Path("/runs/mini/rounds/2")) == "mini/rounds/2"
    assert tracking.group_of(Path("/runs/mini")) == "mini"


@pytest.mark.parametrize("service", ["wandb", "trackio", "mlflow"])
def test_a_package_that_is_not_installed_is_told_with_the_command_that_installs_it(service, monkeypatch):
    monkeypatch.setitem(sys.modules, service, None)
    with pytest.raises(TrackError, match=rf"track: {service} cannot .*: pip install 'rlhf-jax\[{service}\]'"):
        require(service)
    require("")


def test_without_a_tracker_nothing_is_sent(tmp_path, package):
    count(tmp_path, 3)
    assert package.runs == [] and len(read_metrics(tmp_path / "metrics/counter.jsonl")) == 3
    assert sorted(path.name for path in (tmp_path / "metrics").iterdir()) == ["counter.jsonl"]

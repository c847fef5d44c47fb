import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_jax.config import Config, MeshConfig
from rlhf_jax.run import workdir as wd
from rlhf_jax.run.workdir import WorkdirError


def test_first_start_stores_the_configuration_and_the_same_one_may_come_back(tmp_path):
    workdir = wd.open_workdir(tmp_path / "runs" / "a", Config(seed=3))
    assert json.loads((workdir / "config.json").read_text())["seed"] == 3
    assert wd.open_workdir(workdir, Config(seed=3)) == workdir


def begin(workdir, how: str) -> None:
    if how == "a stage has finished":
        wd.record_stage(workdir, "sft", done=True)
    else:
        (workdir / "checkpoints" / "sft" / "2").mkdir(parents=True)
        (workdir / "checkpoints" / "sft" / "2" / "manifest.json").write_text("{}")


@pytest.mark.parametrize("how", ["a stage has finished", "a training has saved a step"])
def test_another_configuration_is_refused_and_changes_nothing(tmp_path, how):
    wd.open_workdir(tmp_path, Config())
    begin(tmp_path, how)
    before = (tmp_path / "config.json").read_bytes()
    other = Config(seed=1)
    other.ppo.kl_coef = 0.1
    with pytest.raises(WorkdirError, match="ppo.kl_coef: 0.05 → 0.1; seed: 0 → 1.*another --workdir"):
        wd.open_workdir(tmp_path, other)
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_folder_in_which_nothing_has_begun_takes_any_configuration(tmp_path):
    wd.open_workdir(tmp_path, Config())
    wd.record_stage(tmp_path, "sft", 1.0)
    (tmp_path / "checkpoints" / "sft" / "2").mkdir(parents=True)  # without a manifest: it is not whole
    wd.open_workdir(tmp_path, Config(seed=1))
    assert wd.read_config(tmp_path).seed == 1


def test_a_run_may_go_on_on_another_mesh(tmp_path):
    wd.open_workdir(tmp_path, Config())
    wd.record_stage(tmp_path, "sft", done=True)
    elsewhere = Config(mesh=MeshConfig(fsdp=4, tensor=2))
    elsewhere.ppo.microbatches, elsewhere.model.rematerialize = 8, True
    elsewhere.keep_checkpoints = 5
    wd.open_workdir(tmp_path, elsewhere)
    assert wd.read_config(tmp_path) == elsewhere
    elsewhere.sft.microbatches = 2  # decides how many rows a packed batch has
    with pytest.raises(WorkdirError, match="sft.microbatches: 1 → 2"):
        wd.open_workdir(tmp_path, elsewhere)


def test_unreadable_configuration_is_one_clear_line(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WorkdirError, match="config.json: not JSON .*; restore the file, or use another"):
        wd.open_workdir(tmp_path, Config())


def test_seconds_add_up_over_starts(tmp_path):
    wd.record_stage(tmp_path, "sft", 2.0)
    wd.record_stage(tmp_path, "sft", 0.5)
    wd.record_stage(tmp_path, "ppo", 4.0)
    assert wd.read_seconds(tmp_path) == {"sft": 2.5, "ppo": 4.0}


def test_a_stage_is_done_only_when_marked(tmp_path):
    wd.record_stage(tmp_path, "sft")
    wd.record_stage(tmp_path, "reward")
    wd.record_stage(tmp_path, "sft", done=True)
    assert wd.stage_done(tmp_path, "sft") and not wd.stage_done(tmp_path, "reward")
    assert wd.stages_interrupted(tmp_path) == ["reward"]


def test_comparisons_of_a_folder_of_an_older_version_are_collected(tmp_path):
    """There was no stage collect: stage reward asked the labelers, and kept what they said."""
    wd.record_stage(tmp_path, "sft", done=True)
    wd.record_stage(tmp_path, "reward", done=True)
    assert wd.stage_done(tmp_path, "collect") and wd.stages_interrupted(tmp_path) == []


def test_what_a_stage_leaves_is_told_by_the_folder(tmp_path):
    wd.record_stage(tmp_path, "sft", label="Fine-tuning", networks={"sft": "SFT"})
    wd.record_stage(tmp_path, "dpo", 3.0, label="DPO", networks={"dpo": "DPO"})
    wd.record_stage(tmp_path, "old", 1.0)
    assert wd.labels(tmp_path) == {"sft": "Fine-tuning", "dpo": "DPO", "old": "old"}
    assert wd.networks(tmp_path) == {"sft": "SFT", "dpo": "DPO"}


HOLD = """
import sys, time
from pathlib import Path
from rlhf_jax.run import workdir
from rlhf_jax.config import Config

workdir.open_workdir(Path(sys.argv[1]), Config())
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_process_on_a_folder_is_refused_until_the_first_has_ended(tmp_path):
    """Killed, it leaves the file of the lock, which locks nobody out."""
    folder = tmp_path / "run"
    command = [sys.executable, "-c", HOLD, folder]
    variables = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "held\n"
        before = (folder / "config.json").stat().st_mtime_ns
        told = f"run is in use by process {first.pid} on {socket.gethostname()}: stop that one"
        with pytest.raises(WorkdirError, match=told):
            wd.open_workdir(folder, Config(mesh=MeshConfig(fsdp=2)))
        assert (folder / "config.json").stat().st_mtime_ns == before
        first.send_signal(signal.SIGKILL)
    assert (folder / "run.lock").exists()
    assert wd.open_workdir(folder, Config()) == wd.open_workdir(folder, Config())


def test_another_host_of_the_same_run_needs_no_lock(tmp_path):
    wd.open_workdir(tmp_path, Config())
    (tmp_path / "run.lock").unlink()
    wd.open_workdir(tmp_path, Config(), create=False)
    assert not (tmp_path / "run.lock").exists()

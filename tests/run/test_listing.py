"""What people are told of checkpoints, without JAX."""

import subprocess
import sys
from pathlib import Path

import pytest
import states
from states import flip_a_byte, largest, make_state

from rlhf_jax.config import MeshConfig
from rlhf_jax.mesh import make_mesh
from rlhf_jax.run import checkpoint, listing


@pytest.fixture
def workdir(tmp_path):
    """Two trainings: of sft the second of three steps is the best, of ppo the newest was never finished."""
    params, rest = make_state(make_mesh(MeshConfig(1, 2, 1)))
    for step, loss in ((10, 3.0), (20, 2.0), (30, 2.5)):
        meta = {"best": "-loss", "value": loss}
        checkpoint.save(tmp_path / "checkpoints" / "sft", step, params=params, rest=rest, meta=meta)
    states.save_steps(tmp_path / "checkpoints" / "ppo", (params, rest), 1, 2)
    (tmp_path / "checkpoints" / "ppo" / "3" / "params").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def told(workdir, capsys):
    """Runs the command on `workdir`: (exit status, stdout, stderr)."""

    def call(*arguments):
        status = listing.main(["rlhf-jax checkpoint", arguments[0], str(workdir), *arguments[1:]])
        return status, *capsys.readouterr()

    return call


def test_list_says_which_step_is_what(told, workdir):
    flip_a_byte(largest(workdir / "checkpoints" / "sft" / "30" / "params"))
    checkpoint.latest_step(workdir / "checkpoints" / "sft")  # sets it aside
    largest(workdir / "checkpoints" / "ppo" / "1" / "rest").unlink()
    status, out, _ = told("list")
    states = {}
    for line in out.splitlines()[1:]:
        training, step, rest = line.split(None, 2)
        states[training, int(step)] = rest.split("  ")[-1]
    assert status == 0 and states == {
        ("ppo", 1): states["ppo", 1],
        ("ppo", 2): "whole, newest, read by later stages",
        ("ppo", 3): "unfinished",
        ("sft", 20): "whole, newest, best by -loss (2), read by later stages",
        ("sft", 30): "damaged, set aside",
    }
    assert states["ppo", 1].startswith("damaged: rest/") and states["ppo", 1].endswith(" is missing")


def test_the_best_step_is_what_later_stages_read(told, workdir):
    lines = told("list")[1].splitlines()
    assert [line.split("  ")[-1] for line in lines if line.startswith("sft")] == [
        "whole, best by -loss (2), read by later stages",
        "whole, newest",
    ]
    assert checkpoint.require(workdir, "sft")[1] == 20


def test_verify_reads_every_file_and_names_the_damaged_one(told, workdir):
    status, out, _ = told("verify")
    assert status == 0 and out.count("is whole") == 4 and "ppo/3 was never finished" in out
    file = largest(workdir / "checkpoints" / "sft" / "20" / "rest")
    flip_a_byte(file)
    status, out, _ = told("verify")
    name = file.relative_to(workdir / "checkpoints" / "sft" / "20")
    assert status == 1 and f"sft/20 is damaged: {name} is not what was written" in out
    assert out.count("is whole") == 3
    assert told("list")[0] == 0  # and nothing was set aside


@pytest.mark.parametrize("meta", ['{"best": "-loss", "valve": 2.0}', '{"best": 5, "value": "x"}', "[]", "{"])
def test_a_damaged_description_is_no_reason_to_read_a_step(told, workdir, meta):
    (workdir / "checkpoints" / "sft" / "20" / "meta.json").write_text(meta)
    assert told("list")[0] == 0 and told("verify")[0] == 1
    assert checkpoint.require(workdir, "sft")[1] == 30


def test_verify_names_a_file_that_is_not_of_a_step(told, workdir):
    step = workdir / "checkpoints" / "sft" / "20"
    (step / "params" / "notes.txt").write_text("mine")
    (step / ".DS_Store").write_text("the system's")
    status, out, _ = told("verify")
    assert status == 1 and "sft/20 is whole, " in out and "what is not of it: params/notes.txt\n" in out
    assert checkpoint.require(workdir, "sft")[1] == 20  # no reason to train it again


def test_show_tells_arrays_counts_and_plain_values(told):
    status, out, _ = told("show", "--training=ppo")
    assert status == 0 and "checkpoints/ppo/2\n" in out
    assert "params: 2 arrays, 136 numbers" in out and "['embed']  float32[16, 8]" in out
    assert ".key  uint32[2]" in out and 'meta: {"step": 2}' in out
    assert "ppo/1\n" in told("show", "--training=ppo", "--step=1")[1]
    assert "sft/20\n" in told("show", "--training=sft")[1]  # the best


@pytest.mark.parametrize(
    "arguments, line",
    [
        (("show", "--training=reward"), "--training=reward: "),
        (("show", "--training=sft", "--step=7"), "--step=7: "),
        (("lists",), "list, verify or show and a work folder are wanted"),
        (("show", "--stepp=7"), "stepp"),
    ],
)
def test_a_wrong_use_is_told_in_one_line(told, arguments, line):
    status, _, err = told(*arguments)
    assert status == 2 and err.startswith("rlhf-jax checkpoint: ") and err.count("\n") == 1 and line in err


def test_a_folder_that_is_no_run_is_named(tmp_path, capsys):
    assert listing.main(["rlhf-jax checkpoint", "list", str(tmp_path / "none")]) == 2
    assert "none is not the folder of a run with checkpoints" in capsys.readouterr().err


def test_command_from_a_shell(workdir):
    command = [sys.executable, "-m", "rlhf_jax", "checkpoint", "verify", workdir]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=60)
    assert ended.returncode == 0 and ended.stdout.count("is whole") == 4


@pytest.mark.parametrize("size, said", [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2.5e13, "25 TB")])
def test_sizes_for_people(size, said):
    assert listing.human(size) == said

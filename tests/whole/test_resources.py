"""A full disk, a folder that cannot be written, a file that vanishes: one line, and nothing half-written.

Disks are of 256 KiB, in memory, mounted where the tests run as root; else their tests are skipped.
"""

import os
import subprocess
import sys
from pathlib import Path

import bad_inputs
import numpy as np
import pytest
import tiny
from safetensors.numpy import save_file

from rlhf_jax import main
from rlhf_jax.command_line import command
from rlhf_jax.data.record_json import write_jsonl
from rlhf_jax.data.tokenizer import load_tokenizer
from rlhf_jax.feedback import agreement, answers, viewer
from rlhf_jax.files import write_text
from rlhf_jax.run import checkpoint
from rlhf_jax.run import workdir as runs
from rlhf_jax.training.metrics import MetricsLog, read_metrics

FULL = "No space left on device"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("inputs")
    bad_inputs.make_place(place)
    return place


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> None:
    """Leaves room for names, not for content."""
    with pytest.raises(OSError, match=FULL), open(disk / "filler", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@pytest.fixture
def stage(monkeypatch):
    """Puts a function in the place of stage sft."""

    def make(train):
        tiny.stand_in(monkeypatch, "sft", train)

    return make


def start(place: Path, workdir: Path, *more: str) -> int:
    arguments = [f"--config={place / 'config.py'}", f"--workdir={workdir}", "--stage=sft", *more]
    return main.main(["rlhf-jax run", *arguments])


def told(capsys, status: int, *words: str) -> None:
    errors = capsys.readouterr().err
    assert status == 2 and "Traceback" not in errors
    line = errors.strip().split("\n")[-1].split("\r")[-1]
    assert all(word in line for word in words), errors


WRITERS = {
    "write_text": lambda place, out: write_text(out / "a.html", "x" * 9000),
    "write_jsonl": lambda place, out: write_jsonl(out / "a.jsonl", [{"a": "x" * 9000}]),
    "tokenizer": lambda place, out: load_tokenizer(place / "sp").save(out),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_nothing_half_written_stays_on_a_full_disk(place, disk, writer):
    fill(disk)
    with pytest.raises(OSError, match=FULL) as error:
        WRITERS[writer](place, disk)
    assert str(error.value.filename).startswith(str(disk))
    assert os.listdir(disk) == ["filler"]


COMMANDS = {
    "agreement": (agreement.main, "{place}/data/comparisons/pairs.json", "--json={disk}/figures.json"),
    "viewer": (viewer.main, "--samples={place}/samples.jsonl", "--out={disk}/viewer"),
    "feedback.answers": (answers.main, "--store={place}/store.sqlite", "--out={disk}/collected"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_cannot_write_ends_in_one_line(place, disk, capsys, name):
    fill(disk)
    command, *arguments = COMMANDS[name]
    status = command([name, *(a.format(place=place, disk=disk) for a in arguments)])
    told(capsys, status, FULL, str(disk))
    assert os.listdir(disk) == ["filler"]


def test_a_run_on_a_disk_that_fills_up_goes_on_when_there_is_room(place, disk, stage, capsys):
    lost = []

    def train(config, workdir):
        with MetricsLog(workdir, "sft", 0, 9000) as log:
            for step in range(9000):
                lost.append(step)
                log.log(step, {"loss": 1.0})

    stage(train)
    told(capsys, start(place, disk / "run"), FULL, "make room there; the same command resumes")
    records = read_metrics(disk / "run" / "metrics" / "sft.jsonl")
    assert [record["step"] for record in records] == list(range(len(records)))
    assert len(lost) - 200 < len(records) < 9000
    stage(lambda config, workdir: None)
    assert start(place, disk / "run") == 2  # there is still no room for progress.json
    for events in (disk / "run" / "tensorboard").rglob("events*"):
        events.unlink()
    assert start(place, disk / "run") == 0
    assert runs.stage_done(disk / "run", "sft")


def test_metrics_on_a_full_device_name_their_file(tmp_path, place, stage, capsys):
    def train(config, workdir):
        with MetricsLog(workdir, "sft", 0, 9) as log:
            file = workdir / "metrics" / "sft.jsonl"
            file.unlink()
            os.symlink("/dev/full", file)
            log.log(0, {"loss": 1.0})
            log.log(1, {"loss": 1.0})

    stage(train)
    told(capsys, start(place, tmp_path / "run"), "metrics/sft.jsonl: " + FULL)


def test_a_checkpoint_that_finds_no_room_leaves_the_one_before(disk, capsys):
    folder = disk / "checkpoints" / "sft"
    small = {"params": {"w": np.zeros(10, np.float32)}, "rest": {"x": np.zeros(1)}}
    large = small | {"params": {"w": np.random.default_rng(0).random(200_000)}}
    checkpoint.save(folder, 1, **small, meta={})
    told(capsys, command(["rlhf_jax"], lambda: checkpoint.save(folder, 2, **large, meta={})), FULL, str(disk))
    assert checkpoint.latest_step(folder) == 1
    restored, _ = checkpoint.restore(folder, 1, small["params"], small["rest"])
    assert np.array_equal(restored["w"], small["params"]["w"])


def test_a_library_that_writes_by_itself_finds_no_room(disk, capsys):
    weights = {"w": np.random.default_rng(0).random(200_000)}
    told(capsys, command(["rlhf_jax"], lambda: save_file(weights, disk / "model.safetensors")), FULL)


def read_only(folder: Path) -> None:
    for lock in runs._held.values():  # in tests the process goes on, and a file open for writing forbids it
        lock.close()
    runs._held.clear()
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


def test_a_folder_that_cannot_be_written_is_named_at_the_start(place, disk, capsys):
    read_only(disk)
    words = ("Read-only file system; name a folder that can be written", str(disk))
    told(capsys, start(place, disk / "run"), *words)


def test_a_run_whose_disk_became_read_only_ends_in_one_line(place, disk, stage, capsys):
    stage(lambda config, workdir: read_only(disk))
    told(capsys, start(place, disk / "run"), str(disk / "run"), "Read-only file system")
    assert sorted(os.listdir(disk / "run")) == ["config.json", "progress.json", "run.lock"]


WIDER = ("--config.data.query_tokens=64", "--config.data.query_buckets=64")  # for the other tokenizer


@pytest.mark.parametrize(
    "file, more",
    [
        ("data/posts/train.jsonl", ()),
        ("data/posts/valid.jsonl", ()),
        ("sp/tokenizer.model", ("--config.data.tokenizer={}/sp/tokenizer.model", *WIDER)),
        ("hf/tokenizer.json", ("--config.model.pretrained={}/hf",)),
        ("hf/model.safetensors", ("--config.model.pretrained={}/hf",)),
    ],
)
def test_a_file_that_vanishes_after_the_start_is_named(tmp_path, monkeypatch, capsys, file, more):
    bad_inputs.make_place(tmp_path)
    opened = runs.open_workdir

    def open_and_lose(*arguments):
        (tmp_path / file).unlink()
        return opened(*arguments)

    monkeypatch.setattr(runs, "open_workdir", open_and_lose)
    sys.modules.pop("config_config", None)
    words = Path(file).name if "hf/" not in file else "hf"
    told(capsys, start(tmp_path, tmp_path / "new", *(m.format(tmp_path) for m in more)), words)


def test_a_run_whose_folder_vanishes_is_told_so(place, tmp_path, stage, capsys):
    def train(config, workdir):
        with MetricsLog(workdir, "sft", 0, 9) as log:
            workdir.rmtree()
            log.log(0, {"loss": 1.0})
            log.log(1, {"loss": 1.0})

    stage(train)
    told(capsys, start(place, tmp_path / "run"), "metrics/sft.jsonl: No such file or directory")

"""A path is a name: whatever characters it has, every command reads and writes there and nowhere else."""

import os
import shutil
import sys
from pathlib import Path

import bad_inputs
import jax
import numpy as np
import pytest
from bad_inputs import COMMANDS
from etils.epath import Path as EPath
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax import __main__ as command_line
from rlhf_jax.files import matching, named_by
from rlhf_jax.run import checkpoint

NAMES = [
    "lr[1e-4] *? {a,b}",
    "50%25 #1 & 'x' \"y\" $HOME `z` ;|<>",
    "-Größe 标签 ~",
    "n" * 200,
]
# Those that end by themselves; the site is tried where it is served.
TRIED = "sft; sft, pretrained; export; agreement; axis ratings; news; viewer; feedback export".split("; ")
FOLDERS = st.text(st.sampled_from("ab[]*?!%#'\" ~-é标"), min_size=1, max_size=12).filter(
    lambda name: name.strip(" ~")
)


def tree(folder: Path) -> list[str]:
    """Names of all files, without those that tell the time or are drawn at random."""
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return [name for name in files if "tfevents" not in name and "/d/" not in name]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Where every command was run, in a folder of an ordinary name."""
    return tried(tmp_path_factory.mktemp("plain") / "place")


def tried(place: Path) -> Path:
    place.mkdir()
    bad_inputs.make_place(place)
    for name in TRIED:
        sys.modules.pop("config_config", None)
        main, *arguments = COMMANDS[name]
        for written in ("/out", "/new"):  # each its own
            arguments = [argument.replace(written, f"{written} of {name}") for argument in arguments]
        assert main([name, *(argument.replace("{}", str(place)) for argument in arguments)]) == 0, name
    return place


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name[:8])
def test_every_command_reads_and_writes_where_it_was_told(plain, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert tree(tried(tmp_path / name)) == tree(plain)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    shutil.rmtree(tmp_path / name)


def test_names_that_begin_with_a_dash_a_tilde_or_end_with_a_slash(plain, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    shutil.copytree(plain / "run", "-run")
    shutil.copytree(plain / "run", "home/run")
    os.symlink(tmp_path / "home" / "run", "linked")
    for place in ("-run", "~/run", "~/run/", "linked", "./-run/"):
        out = f"~/out {place.strip('~/.')}{place.count('/')}/"
        words = ["export", f"--workdir={place}", "--stage=sft", f"--out={out}"]
        assert command_line.run(words) == 0, capsys.readouterr().err
        assert Path(out.rstrip("/")).expanduser().is_dir()
    assert sorted(os.listdir()) == ["-run", "home", "linked"]


@given(FOLDERS, FOLDERS)
def test_a_folder_s_own_name_is_no_pattern(tmp_path_factory, name, other):
    folder = EPath(tmp_path_factory.mktemp("any"))
    for each in {name, other}:
        (folder / each / "10").mkdir(parents=True)
        (folder / each / "10" / f"{len(each)}.jsonl").write_text("")
    expected = [folder / name / "10" / f"{len(name)}.jsonl"]
    assert matching(folder / name, "1*/*.jsonl") == expected
    assert named_by(str(folder / name / "10" / "*.jsonl")) == expected
    assert named_by(str(folder / name)) == [folder / name]


def test_checkpoints_below_a_pattern_are_found_again(tmp_path):
    folder = tmp_path / "lr[1e-4]" / "sft"
    for step in (1, 2, 3):
        checkpoint.save(
            folder, step, params={"w": np.full(3, step, np.float32)}, rest={"n": np.ones(1)}, meta={}
        )
    assert sorted(os.listdir(folder)) == ["2", "3"] and checkpoint.latest_step(folder) == 3
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = {"w": jax.ShapeDtypeStruct((3,), np.float32, sharding=one)}
    assert checkpoint.restore_params(folder, 3, like)["w"].tolist() == [3, 3, 3]

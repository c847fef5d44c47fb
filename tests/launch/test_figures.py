"""launch/figures.sh with a stand-in of rlhf-jax, which records calls and leaves the figures."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "launch" / "figures.sh"
COMMAND = """#!/usr/bin/env bash
echo "$@" >>"$RECORD"
name=${1#metric-}
for word in "$@"; do
    if [[ $word == --workdir=* ]]; then run=${word#--workdir=}; fi
done
if [[ -n ${STOP_AT:-} && $* == *"$STOP_AT"* ]]; then exit 130; fi
if [[ -n ${run:-} ]]; then mkdir -p "$run" && echo '{}' >"$run/$name.json"; fi
"""


@pytest.fixture
def figures(tmp_path):
    """Runs the script in a repository of its own; returns its status and the commands since the last time."""
    launch, bin = tmp_path / "launch", tmp_path / "bin"
    launch.mkdir()
    bin.mkdir()
    for name in ("figures.sh", "commands.sh"):
        shutil.copy(SCRIPT.with_name(name), launch)
    (launch / "setup.sh").write_text('cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1\n')
    (bin / "rlhf-jax").write_text(COMMAND)
    (bin / "rlhf-jax").chmod(0o755)
    record = tmp_path / "record"

    def run(**variables):
        record.write_text("")
        environment = os.environ | {"PATH": f"{bin}:{os.environ['PATH']}", "RECORD": str(record)} | variables
        done = subprocess.run([launch / "figures.sh"], env=environment, capture_output=True, text=True)
        return done.returncode, [line for line in record.read_text().splitlines() if "results" not in line]

    return run


def test_every_experiment_of_the_page_is_made(figures):
    status, commands = figures()
    assert status == 0
    for seed in range(3):
        run = f"--workdir=runs/figures/seed{seed}"
        assert f"run --config=configs/mini.py {run} --config.seed={seed}" in commands
        for name in ("probes", "transfer", "overoptimization", "methods"):
            assert f"{name} {run}" in commands
        another = f"--another=runs/figures/seed{(seed + 2) % 3}"
        assert f"metric-agreement {run} {another}" in commands
        assert f"scaling {run} --policies" in commands
        assert f"feedback {run}" in commands
    assert "overoptimization --workdir=runs/figures/weak0" in commands


def test_stopped_and_started_again_it_makes_what_is_missing(figures):
    _, whole = figures(SEEDS="4", RUNS="runs/whole")
    assert not any("--another" in line for line in whole)  # a lone run has no other reward model to ask
    status, before = figures(SEEDS="4", RUNS="runs/parts", STOP_AT="transfer")
    assert status == 130 and "transfer" in before[-1]
    status, after = figures(SEEDS="4", RUNS="runs/parts")
    assert (
        status == 0 and after[0].startswith("run ") and "transfer" in after[1]
    )  # finished stages are skipped
    assert [line.replace("parts", "whole") for line in before[:-1] + after[1:]] == whole
    assert len(figures(SEEDS="4", RUNS="runs/parts")[1]) == 1

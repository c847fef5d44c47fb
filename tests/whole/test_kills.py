"""`kill -9` at a hundred moments of a run, a third of them inside a save: nothing is lost, no bit differs.

Takes about twenty minutes, --kills=30 less: python -m pytest -m reliability -s tests/whole/test_kills.py
"""

import collections
import contextlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import states
import tiny

TESTS = Path(__file__).parents[1]
SAVE_EVERY = 8
INSIDE = 0.3  # share of the kills that must fall between the first file of a step and its last
TRAININGS = ("sft", "reward_seed0", "ppo")
CONFIG = """
import dataclasses
from pathlib import Path

import tiny


def get_config():
    config = tiny.run_config(tiny.write_data(Path({data!r})))
    config.sft = dataclasses.replace(config.sft, epochs=8.0, save_every={every})
    config.reward = dataclasses.replace(config.reward, epochs=8.0, save_every={every})
    config.ppo = dataclasses.replace(config.ppo, episodes=256, save_every={every})
    return config
"""


def start(folder: Path, name: str) -> subprocess.Popen:
    """The command of a run, for the first time or again."""
    variables = {
        "PYTHONPATH": f"{TESTS.parent}:{TESTS}",
        "STEPS": str(folder / f"{name}.steps"),
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    with (folder / f"{name}.log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, TESTS / "reliability_worker.py", f"--config={folder / 'config.py'}"]
            + [f"--workdir={folder / name}"],
            env=os.environ | variables,
            stdout=log,
            stderr=log,
        )


def unfinished(workdir: Path) -> set[tuple[Path, int]]:
    """Steps without a manifest, a save in its midst, each with the time of its last change."""
    found = set()
    for step in workdir.glob("checkpoints/*/[0-9]*"):
        with contextlib.suppress(FileNotFoundError):  # one that is being removed
            if not (step / "manifest.json").exists():
                found.add((step, step.stat().st_ctime_ns))
    return found


def steps_told(folder: Path, name: str) -> list[tuple[str, int]]:
    file = folder / f"{name}.steps"
    if not file.exists():
        return []
    return [(line.split()[0], int(line.split()[1])) for line in file.read_text().splitlines()]


def wait_and_kill(process: subprocess.Popen, folder: Path, name: str, rng: random.Random) -> bool:
    """Kills at a moment drawn by `rng`; False where the run ended before.

    Half of the moments are aimed at a save, one in ten falls at any time from the start, the others
    while a training runs.
    """
    aim, before = rng.random(), len(steps_told(folder, name))
    saves, left, seen = rng.randint(1, 2), unfinished(folder / name), set()
    until = time.monotonic() + rng.uniform(0, 5) if aim < 0.1 else None
    while process.poll() is None:
        if until is not None:
            if time.monotonic() > until:
                process.kill()
                process.wait()
                return True
        elif aim < 0.6:
            seen |= {step for step, _ in unfinished(folder / name) - left}
            if len(seen) >= saves:
                until = time.monotonic() + rng.uniform(0, 0.15)
        elif len(steps_told(folder, name)) > before:
            until = time.monotonic() + rng.uniform(0, 2)
        time.sleep(0.001)
    return False


def newest(workdir: Path, training: str) -> int:
    """The newest finished step of a training; 0 before the first."""
    steps = workdir.glob(f"checkpoints/{training}/*/manifest.json")
    return max((int(file.parent.name) for file in steps), default=0)


@pytest.mark.reliability
def test_kill_at_any_moment_costs_one_save_interval_and_no_bit(tmp_path, request):
    """Where a save was being written: that interval, and the steps that ran behind it."""
    wanted = request.config.getoption("--kills")
    (tmp_path / "config.py").write_text(CONFIG.format(data=str(tmp_path / "data"), every=SAVE_EVERY))
    assert start(tmp_path, "undisturbed").wait() == 0
    rng, run, places = random.Random(0), 0, collections.Counter()
    most = {"inside a save": 0, "elsewhere": 0}
    print(f"\n{'kill':>4} {'run':>3}  {'training':<13}{'begun':>6}{'whole':>6}{'repeated':>9}  where")
    while places.total() < wanted or inside(places) < INSIDE * wanted:
        run += 1
        name = f"run{run}"
        while True:
            before, left = len(steps_told(tmp_path, name)), unfinished(tmp_path / name)
            process = start(tmp_path, name)
            if not wait_and_kill(process, tmp_path, name, rng):
                break
            told, cut = steps_told(tmp_path, name)[before:], unfinished(tmp_path / name) - left
            training, last = told[-1] if told else ("before a step", -1)
            begun, whole = last + 1, newest(tmp_path / name, training)
            kind = "inside a save" if cut else "elsewhere"
            most[kind] = max(most[kind], begun - whole)
            places[training, kind] += 1
            where = f"inside the save of {min(cut)[0].relative_to(tmp_path / name)}" if cut else kind
            repeated = max(begun - whole, 0)
            print(
                f"{places.total():>4} {run:>3}  {training:<13}{begun:>6}{whole:>6}{repeated:>9}  {where}",
                flush=True,
            )
        log = (tmp_path / f"{name}.log").read_text()
        assert process.returncode == 0 and "Traceback" not in log, log[-3000:]
        assert_same_run(tmp_path / name, tmp_path / "undisturbed")
    print(f"{places.total()} kills in {run} runs, each equal to the undisturbed one, bit for bit")
    for (training, kind), count in sorted(places.items()):
        print(f"  {training:<13} {kind:<13} {count:>3}")
    print(f"steps repeated at most, with a save every {SAVE_EVERY} steps: {most}")
    assert most["elsewhere"] <= SAVE_EVERY and most["inside a save"] <= 2 * SAVE_EVERY


def inside(places: collections.Counter) -> int:
    return sum(count for (_, kind), count in places.items() if kind != "elsewhere")


def assert_same_run(ours: Path, undisturbed: Path) -> None:
    """All arrays of the last checkpoints, and all metrics but times."""
    for training in (*TRAININGS, "reward"):
        step, state = states.last_checkpoint(ours, training)
        expected_step, expected = states.last_checkpoint(undisturbed, training)
        assert step == expected_step
        tiny.assert_same(state, expected)
    for training in TRAININGS:
        assert states.numbers_of(ours, training) == states.numbers_of(undisturbed, training)

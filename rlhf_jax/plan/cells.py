"""Plans that are compiled once and kept: a file for each stage of a configuration on a machine."""

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from rlhf_jax.config import Config
from rlhf_jax.files import read_object
from rlhf_jax.pipeline import stages
from rlhf_jax.plan.cards import CARDS
from rlhf_jax.plan.compiled import programs
from rlhf_jax.plan.topologies import PlanError, version_of

STAGES = tuple(stage for stage in stages.planned(Config()) if stage in programs(Config()))
ASSUMED_SPEED = "30%"  # of what the bound allows; one of the plan's utilisations


class Cell(NamedTuple):
    size: str  # the configuration's name
    topology: str
    stage: str
    flags: tuple[str, ...] = ()  # of the command line, where the configuration is changed

    @property
    def name(self) -> str:
        return f"{self.size}-{self.topology.replace(':', '-')}-{self.stage}"


def read(cell: Cell, folder: Path) -> dict | None:
    file = folder / f"{cell.name}.json"
    if not file.exists():
        return None
    found = read_object(file, PlanError)
    for name in ("jax", "compiler", "date", "plans"):
        if name not in found:
            raise PlanError(
                f"{file}: field {name} is missing; remove the file, and the cell is compiled again"
            )
    return found


def up_to_date(cell: Cell, folder: Path) -> bool:
    """Whether the cell was compiled by the versions that are installed."""
    done = read(cell, folder)
    if done is None:
        return False
    on_gpu = cell.topology.partition(":")[0] in CARDS
    package, extra = ("jax-cuda13-plugin", "plan-gpu") if on_gpu else ("libtpu", "plan-tpu")
    compiler = f"{package} {version_of(package, extra, cell.name)}"
    return done["compiler"] == compiler and done["jax"] == importlib.metadata.version("jax")


def compile_cell(cell: Cell, folder: Path) -> None:
    """In a process of its own, as compilers keep the memory they took; a file stands for a finished cell."""
    file = folder / f"{cell.name}.json"
    partial = file.with_suffix(".part")
    command = [sys.executable, "-m", "rlhf_jax", "plan", f"--config=configs/{cell.size}.py"]
    command += [f"--topology={cell.topology}", f"--stage={cell.stage}", f"--json={partial}"]
    command += ["--noremedies", *cell.flags]
    status = subprocess.run(command, check=False).returncode
    if status:
        raise PlanError(f"{cell.name}: could not be planned (exit status {status}); its output is above")
    os.replace(partial, file)


def summary(plans: list[dict]) -> str:
    """One cell: the largest of its programs, and the bound of each."""
    if not all(plan["fits"] for plan in plans):
        return "does not fit"
    largest = max(plan["memory"]["peak"] + plan["memory"]["beside"] for plan in plans)
    bounds = " + ".join(f"{plan['bound']['seconds']:.2g}" for plan in plans)
    return f"{largest / 2**30:.1f} GiB, ≥ {bounds} s"


def dates_of(cells: Iterable[dict]) -> str:
    """The first day on which one was compiled, and the last."""
    dates = sorted({cell["date"] for cell in cells})
    return " to ".join(dict.fromkeys([*dates[:1], *dates[-1:]]))


def versions_of(cells: Collection[dict]) -> str:
    versions = sorted({f"jax {cell['jax']}" for cell in cells})
    return ", ".join(versions + sorted({cell["compiler"] for cell in cells}))

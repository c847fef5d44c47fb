"""What fits where: the table docs/plans.md, of the paper's two sizes on TPU slices and H100s.

rlhf-jax plan-table --json=FOLDER --out=docs/plans.md

--json=FOLDER  a file for every cell; cells done there by the same versions are not compiled again
--out=FILE     the table, written anew after every cell
--only=TEXT    compiles only cells whose name holds it, such as 6_7b or v5p; the others stay as they are
"""

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from absl import flags

from rlhf_jax.command_line import command, parse_flags
from rlhf_jax.config import Config
from rlhf_jax.files import read_object, write_text
from rlhf_jax.pipeline import stages
from rlhf_jax.plan.compiled import programs
from rlhf_jax.plan.topologies import PlanError, version_of

SIZES = ("paper_1_3b", "paper_6_7b")
TOPOLOGIES = ("v4:2x4x4", "v5e:2x2", "v5e:4x4", "v5p:4x4x4", "v6e:4x4", "gpu:1x1x8", "gpu:1x4x8")
ASSUMED_SPEED = "30%"  # one of the plan's
HEADER = """# What fits where

Compiled with the real compilers of TPU and GPU on a machine that has neither, and not run: the compiler says
whether a program fits, and nobody has measured how fast it runs. The configurations are
`configs/paper_1_3b.py` and `configs/paper_6_7b.py` unchanged, with all chips along `fsdp` and the longest
bucket of tokens. A TPU slice is named by its shape in chips; `gpu:1x4x8` is one cluster of 4 machines with 8
H100 each. A cell gives the memory of a device in GiB and the least seconds of one step by published figures
of the chip (of eval: writing summaries + scoring them); an empty cell is not compiled yet. On GPUs the
scratch memory of cuDNN's attention is not counted, since only a GPU tells it. Written by
`rlhf-jax plan-table` on {dates}, with {versions}.
"""


class Cell(NamedTuple):
    size: str
    topology: str
    stage: str

    @property
    def name(self) -> str:
        return f"{self.size}-{self.topology.replace(':', '-')}-{self.stage}"


STAGES = tuple(stage for stage in stages.planned(Config()) if stage in programs(Config()))
CELLS = [Cell(size, topology, stage) for size in SIZES for topology in TOPOLOGIES for stage in STAGES]


def main(argv: list[str]) -> int:
    return command(argv, lambda: run(argv))


def run(argv: list[str]) -> None:
    options = flags.FlagValues()
    flags.DEFINE_string("json", None, "folder", required=True, flag_values=options)
    flags.DEFINE_string("out", None, "file", required=True, flag_values=options)
    flags.DEFINE_string("only", "", "part of a cell's name", flag_values=options)
    parse_flags(argv, options)
    folder, out = Path(options.json), Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    for cell in CELLS:
        if options.only in cell.name and not up_to_date(cell, folder):
            print(cell.name, flush=True)
            compile_cell(cell, folder)
            write_text(out, markdown(folder))
    write_text(out, markdown(folder))


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
    on_gpu = cell.topology.startswith("gpu:")
    package, extra = ("jax-cuda13-plugin", "plan-gpu") if on_gpu else ("libtpu", "plan-tpu")
    compiler = f"{package} {version_of(package, extra, cell.name)}"
    return done["compiler"] == compiler and done["jax"] == importlib.metadata.version("jax")


def compile_cell(cell: Cell, folder: Path) -> None:
    """In a process of its own, as compilers keep the memory they took; a file stands for a finished cell."""
    file = folder / f"{cell.name}.json"
    partial = file.with_suffix(".part")
    command = [sys.executable, "-m", "rlhf_jax", "plan", f"--config=configs/{cell.size}.py"]
    command += [f"--topology={cell.topology}", f"--stage={cell.stage}", f"--json={partial}"]
    status = subprocess.run(command, check=False).returncode
    if status:
        raise PlanError(f"{cell.name}: could not be planned (exit status {status}); its output is above")
    os.replace(partial, file)


def markdown(folder: Path) -> str:
    """The whole table; cells that are not compiled yet are empty."""
    done = {cell: found for cell in CELLS if (found := read(cell, folder))}
    dates = sorted({found["date"] for found in done.values()})
    versions = sorted({f"jax {found['jax']}" for found in done.values()})
    versions += sorted({found["compiler"] for found in done.values()})
    first_and_last = dict.fromkeys([*dates[:1], *dates[-1:]])
    parts = [HEADER.format(dates=" to ".join(first_and_last), versions=", ".join(versions))]
    for size in SIZES:
        parts.append(f"## configs/{size}.py\n")
        parts.append(grid(size, {cell: summary(found["plans"]) for cell, found in done.items()}))
        parts.append(f"Chip-hours of all its steps, at {ASSUMED_SPEED} of the speed that the bounds allow:\n")
        parts.append(grid(size, {cell: cost(found["plans"]) for cell, found in done.items()}))
    reasons = [
        f"- {cell.size}, {cell.topology}, {plan['program']}: {plan['reason']}"
        for cell, found in done.items()
        for plan in found["plans"]
        if not plan["fits"]
    ]
    if reasons:
        parts.append("## What does not fit, in the compiler's words\n\n" + "\n".join(reasons) + "\n")
    return "\n".join(parts)


def grid(size: str, texts: Mapping[Cell, str]) -> str:
    """Topologies by stages, for one size."""
    rows = [["", *STAGES], ["---"] * (len(STAGES) + 1)]
    for topology in TOPOLOGIES:
        rows.append([f"`{topology}`", *(texts.get(Cell(size, topology, stage), "") for stage in STAGES)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def summary(plans: list[dict]) -> str:
    """One cell: the largest of its programs, and the bound of each."""
    if not all(plan["fits"] for plan in plans):
        return "does not fit"
    largest = max(plan["memory"]["peak"] + plan["memory"]["beside"] for plan in plans)
    bounds = " + ".join(f"{plan['bound']['seconds']:.2g}" for plan in plans)
    return f"{largest / 2**30:.1f} GiB, ≥ {bounds} s"


def cost(plans: list[dict]) -> str:
    if not all(plan["fits"] for plan in plans):
        return ""
    return f"{sum(plan['chip_hours'][ASSUMED_SPEED] for plan in plans):.3g}"

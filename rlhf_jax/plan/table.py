"""What fits where: docs/plans.md, the paper's two sizes on TPU slices and H100s, and docs/one_card.md.

rlhf-jax plan-table --json=FOLDER --out=docs/plans.md
rlhf-jax plan-table --json=FOLDER --out=docs/one_card.md --one_card

--json=FOLDER  a file for every cell; cells done there by the same versions are not compiled again
--out=FILE     the page, written anew after every cell
--one_card     recipes on the one GPU that they are made for
--only=TEXT    compiles only cells whose name holds it, such as 6_7b or v5p; the others stay as they are
"""

from collections.abc import Mapping
from pathlib import Path

from absl import flags

from rlhf_jax.command_line import command, parse_flags
from rlhf_jax.files import write_text
from rlhf_jax.plan import card_page
from rlhf_jax.plan.cells import (
    ASSUMED_SPEED,
    STAGES,
    Cell,
    compile_cell,
    dates_of,
    read,
    summary,
    up_to_date,
    versions_of,
)

SIZES = ("paper_1_3b", "paper_6_7b")
TOPOLOGIES = ("v4:2x4x4", "v5e:2x2", "v5e:4x4", "v5p:4x4x4", "v6e:4x4", "gpu:1x1x8", "gpu:1x4x8")
HEADER = """# What fits where

Compiled with the real compilers of TPU and GPU on a machine that has neither, and not run: the compiler says
whether a program fits, and nobody has measured how fast it runs. The configurations are
`configs/paper_1_3b.py` and `configs/paper_6_7b.py` unchanged, with all chips along `fsdp` and the longest
bucket of tokens. A TPU slice is named by its shape in chips; `gpu:1x4x8` is one cluster of 4 machines with 8
H100 each. A cell gives the memory of a device in GiB and the least seconds of one step by published figures
of the chip (of eval: writing summaries + scoring them); an empty cell is not compiled yet. On GPUs the
scratch memory of cuDNN's attention is not counted, since only a GPU tells it. Recipes for a single GPU:
[What fits one card](one_card.md). Written by `rlhf-jax plan-table` on {dates}, with {versions}.
"""


CELLS = [Cell(size, topology, stage) for size in SIZES for topology in TOPOLOGIES for stage in STAGES]


def main(argv: list[str]) -> int:
    return command(argv, lambda: run(argv))


def run(argv: list[str]) -> None:
    options = flags.FlagValues()
    flags.DEFINE_string("json", None, "folder", required=True, flag_values=options)
    flags.DEFINE_string("out", None, "file", required=True, flag_values=options)
    flags.DEFINE_bool("one_card", False, "the other page", flag_values=options)
    flags.DEFINE_string("only", "", "part of a cell's name", flag_values=options)
    parse_flags(argv, options)
    folder, out = Path(options.json), Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    cells, page = (card_page.CELLS, card_page.markdown) if options.one_card else (CELLS, markdown)
    for cell in cells:
        if options.only in cell.name and not up_to_date(cell, folder):
            print(cell.name, flush=True)
            compile_cell(cell, folder)
            write_text(out, page(folder))
    write_text(out, page(folder))


def markdown(folder: Path) -> str:
    """The whole table; cells that are not compiled yet are empty."""
    done = {cell: found for cell in CELLS if (found := read(cell, folder))}
    parts = [HEADER.format(dates=dates_of(done.values()), versions=versions_of(done.values()))]
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


def cost(plans: list[dict]) -> str:
    if not all(plan["fits"] for plan in plans):
        return ""
    return f"{sum(plan['chip_hours'][ASSUMED_SPEED] for plan in plans):.3g}"

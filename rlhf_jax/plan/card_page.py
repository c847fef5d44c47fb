"""The page docs/one_card.md: which recipes fit the one GPU that they are made for, stage by stage."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from rlhf_jax.plan.cells import ASSUMED_SPEED, STAGES, Cell, dates_of, read, summary, versions_of
from rlhf_jax.plan.compiled import BY_CUBLAS

HEADER = """# What fits one card

Compiled by the real compiler of GPUs on a machine that has none, and not run: the compiler says whether a
program fits, and nobody has measured how fast it runs. A cell gives the memory in GiB and the least seconds
of one step by published figures of the card (of eval: writing responses + scoring them), for the longest
bucket of tokens; an empty cell is not compiled yet. A star says that the memory is more than the 75% that JAX
takes by itself: `XLA_PYTHON_CLIENT_MEM_FRACTION=0.95` lets it take what is there. Hours are those of all
episodes at {speed} of the speed that these figures allow. The scratch memory of cuDNN's attention is not
counted, since only a GPU tells it. Written by `rlhf-jax plan-table --one_card` on {dates}, with {versions}.
"""
CUBLAS = """Compiled with all products by cuBLAS: {cells}. Without a card the compiler cannot try its own
kernels for them, and failed at the one that it took.
"""
WHOLE = tuple(f"--config.{stage}.microbatches={n}" for stage, n in (("sft", 8), ("reward", 8), ("ppo", 64)))


class Row(NamedTuple):
    config: str
    card: str
    flags: tuple[str, ...] = ()


RECIPES = {"qwen3_0_6b_lora": "rtx4090", "gemma3_1b_lora": "rtx4090", "llama3_2_3b_lora_24gb": "rtx4090"}
RECIPES |= {"qwen2_5_7b_lora_80gb": "h100"}
ROWS = [Row(f"{task}_{name}", card) for task in ("tldr", "chat") for name, card in RECIPES.items()]
ROWS.append(Row("paper_1_3b", "h100", WHOLE))
CELLS = [Cell(row.config, row.card, stage, row.flags) for row in ROWS for stage in STAGES]


def markdown(folder: Path) -> str:
    """The whole page; cells that are not compiled yet are empty."""
    done = {cell: found for cell in CELLS if (found := read(cell, folder))}
    titles = ["configuration", "card", *STAGES, "bytes a parameter in PPO", "hours of PPO"]
    rows = [titles, ["---"] * len(titles)]
    for row in ROWS:
        by_stage = {stage: done.get(Cell(row.config, row.card, stage, row.flags)) for stage in STAGES}
        texts = [told(found["plans"]) if found else "" for found in by_stage.values()]
        name = " ".join((f"`configs/{row.config}.py`", *(f"`{flag}`" for flag in row.flags)))
        rows.append([name, f"`{row.card}`", *texts, a_parameter(by_stage["ppo"]), hours(by_stage["ppo"])])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    reasons = [
        f"- {cell.size}, {cell.topology}, {plan['program']}: {plan['reason']}"
        for cell, found in done.items()
        for plan in found["plans"]
        if not plan["fits"]
    ]
    facts = {"dates": dates_of(done.values()), "versions": versions_of(done.values())}
    parts = [HEADER.format(speed=ASSUMED_SPEED, **facts), table, ""]
    by_cublas = [
        f"{cell.stage} of `{cell.size}`"
        for cell, found in done.items()
        if any(BY_CUBLAS in plan["compiler"] for plan in found["plans"])
    ]
    if by_cublas:
        parts.append(CUBLAS.format(cells=", ".join(by_cublas)))
    if reasons:
        parts += ["\n## What does not fit\n", *reasons, ""]
    return "\n".join(parts)


def hours(found: Mapping | None) -> str:
    return f"{found['plans'][0]['chip_hours'][ASSUMED_SPEED]:.3g}" if found else ""


def told(plans: list[dict]) -> str:
    star = "\\*" if any(plan["memory_fraction"] for plan in plans) else ""
    return f"{summary(plans)}{star}"


def a_parameter(found: Mapping | None) -> str:
    """Of the model: bytes that PPO holds from step to step, and those at its peak."""
    if not found:
        return ""
    (plan,) = found["plans"]
    held, peak = (plan["memory"][name] / plan["model_parameters"] for name in ("arguments", "peak"))
    return f"{held:.1f} held, {peak:.1f} at the peak"

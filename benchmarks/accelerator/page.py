"""The page of what was measured: docs/accelerators.md from the files of the parts.

python -m benchmarks.accelerator.page FOLDER --out=docs/accelerators.md

It shows what ran and lists what did not; a part without a file is named as one that did not run.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks.accelerator.part import FAILED, MEASURED, read
from rlhf_jax.command_line import explain, parse_flags
from rlhf_jax.data.names import spoken
from rlhf_jax.files import write_text

PARTS = ("correct", "product", "ladder", "speed")
ON_CPU = {  # README.md: share of posts on which a policy is preferred, with its standard error
    "base": (0.332, 0.021),
    "sft": (0.532, 0.020),
    "sft_10x": (0.407, 0.020),
    "best_of_16": (0.872, 0.013),
    "ppo": (0.926, 0.009),
}
HEAD = """# On accelerators

This page is made from the files that `benchmarks/accelerator` wrote on the machine named below. It shows only
what was measured there, and lists at the end what did not run."""

Rows = list[dict[str, Any]]


def main(argv: list[str]) -> int:
    """Exit status: 0, or 2 after an error of use, told in one line."""
    if not {"-h", "--help"}.isdisjoint(argv):
        print(__doc__)
        return 0
    options = flags.FlagValues()
    flags.DEFINE_string("out", None, "the page", flag_values=options)
    try:
        folders = [word for word in argv[1:] if not word.startswith("-")]
        parse_flags([word for word in argv if word not in folders], options)
        if len(folders) != 1 or not options.out:
            raise flags.Error("one folder of results and --out are needed")
        files = {name: Path(folders[0]) / f"{name}.json" for name in PARTS}
        parts = {name: read(file) for name, file in files.items() if file.exists()}
        if not parts:
            raise flags.Error(f"{folders[0]} holds none of {', '.join(f'{name}.json' for name in PARTS)}")
        write_text(options.out, page(parts))
    except (flags.Error, OSError) as error:
        print(f"page: {explain(error)[1]}", file=sys.stderr)
        return 2
    return 0


def page(parts: dict[str, dict]) -> str:
    """Markdown of the parts' files by name."""
    sections = [HEAD, machine(parts)]
    shown = {"correct": correct, "product": product, "ladder": ladder, "speed": speed}
    sections += [show(measured(parts[name])) for name, show in shown.items() if name in parts]
    return "\n\n".join([*sections, missing(parts)]) + "\n"


def measured(part: dict) -> Rows:
    return [row for row in part["rows"] if row["state"] == MEASURED]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def gib(size: float) -> str:
    return f"{size / 2**30:.2f}"


def machine(parts: dict[str, dict]) -> str:
    told = [
        [name, part["date"], part["machine"]["card"] or "none", part["machine"]["processor"]]
        for name, part in parts.items()
    ]
    versions = next(iter(parts.values()))["machine"]
    packages = [f"{name} {versions[name]}" for name in versions if name not in ("card", "processor")]
    dry = [name for name, part in parts.items() if part["dry"]]
    warning = f"\n\n**Dry runs at toy size, no measurements: {', '.join(dry)}.**" if dry else ""
    return (
        table(("part", "date", "card, memory, driver", "processor"), told)
        + f"\n\nVersions: {', '.join(word for word in packages if not word.endswith(' '))}.{warning}"
    )


def correct(rows: Rows) -> str:
    bytes_, checks = ([row for row in rows if ("told" in row) is told] for told in (True, False))
    passed = sum(row["passed"] for row in rows)
    text = f"## Correctness\n\n{passed} of {len(rows)} checks that ran passed. "
    text += (
        "An error is relative to the norm of what is right; in decoding it is in nats, and where bits are "
        "compared it counts numbers that differ. A whole pass is compared with the same pass by blocked "
        "attention: its error is the factor by which it is farther from an exact one."
    )
    lines = [
        [row["group"], row["name"], f"{row['error']:.2g}", f"{row['allowed']:g}", _verdict(row)]
        for row in checks
    ]
    if lines:
        text += "\n\n" + table(("group", "check", "error", "allowed", ""), lines)
    if bytes_:
        text += (
            "\n\n### Memory\n\nThe most bytes in use while a program ran in a process of its own, beside "
            "what the compiler says of it, which is what `rlhf_jax.plan` prints.\n\n"
        )
        lines = [
            [
                row["name"],
                gib(row["measured"]),
                gib(row["told"]["peak"]),
                percent(row["error"]),
                _verdict(row),
            ]
            for row in bytes_
        ]
        text += table(("program", "measured, GiB", "compiler, GiB", "apart", ""), lines)
    return text


def _verdict(row: dict) -> str:
    return "passed" if row["passed"] else "**not passed**"


def product(rows: Rows) -> str:
    named = {(row["group"], row["name"]): row for row in rows}
    text = "## The product\n\nEach stage is a process of its own, so that starting and compiling count."
    seconds = [[row["group"], row["name"], f"{row['took']:.0f}"] for row in rows if row["took"] > 1]
    text += "\n\n" + table(("run", "stage", "seconds"), seconds)
    found = named.get(("demo", "results"))
    if found:
        lines = [
            [spoken(name), _rate(ON_CPU.get(name)), _rate(rate), percent(found["key_fact"].get(name))]
            for name, rate in found["preferred"].items()
        ]
        head = ("policy", "preferred, on two CPU cores", "preferred, here", "states the key fact, here")
        text += f"\n\n### The demo\n\n{table(head, lines)}"
    lines = [
        [
            row["name"].removeprefix("steps of "),
            str(row["steps"]),
            ", ".join(
                f"{value:,.0f} {name.removesuffix('_per_second')}" for name, value in row["median"].items()
            ),
        ]
        for (group, _), row in named.items()
        if group == "one_gpu" and "median" in row
    ]
    if lines:
        text += (
            "\n\n### A model of SmolLM2's shape\n\nRandom weights in bfloat16, a vocabulary of 2,048, "
            "invented posts as long as real ones, and the batches of N+.\n\n"
            + table(("training", "steps", "a second"), lines)
        )
    return text


def ladder(rows: Rows) -> str:
    named = {row["name"]: row for row in rows}
    text = "## The miniature's bases\n\nAll sizes at once, on the same documents."
    if "speed" in named:
        read_ = named["speed"]
        text += f" {read_['tokens_per_second']:,.0f} tokens a second, {read_['updates']:,} updates."
    sizes = {name: row for name, row in named.items() if "kinds" in row}
    if sizes:
        kinds = next(iter(sizes.values()))["kinds"]
        lines = [
            [name, f"{row['parameters']:,}", *(percent(row["kinds"][kind]["accuracy"]) for kind in kinds)]
            for name, row in sizes.items()
        ]
        text += " Right on statements of each kind of change:\n\n" + table(
            ("size", "parameters", *kinds), lines
        )
    return text


def _rate(rate: Sequence[float] | None) -> str:
    return f"{rate[0]:.1%} ± {rate[1]:.1%}" if rate else ""


def speed(rows: Rows) -> str:
    peaks = {row["name"]: row for row in rows if row["group"] == "card"}
    text = "## Speed"
    if {"product", "copy"} <= peaks.keys():
        flops, copied = peaks["product"]["flops_per_second"], peaks["copy"]["bytes_per_second"]
        text += (
            f"\n\nA bfloat16 product of {peaks['product']['size']}² matrices ran at "
            f"{flops / 1e12:.3g} TFLOP/s, and {copied / 1e12:.3g} TB/s were read and written together. "
            "The shares below are of these. Useful operations are counted, without padding, recomputation "
            "or what is computed twice."
        )
    lines = [
        [
            row["group"],
            row["name"],
            f"{row['seconds']:.3g} ({row['least']:.3g} to {row['most']:.3g})",
            f"{row['tokens_per_second']:,.0f}",
            f"{row['flops'] / row['seconds'] / 1e12:.3g}",
            percent(row["of_product"]),
            gib(row["planned_bytes"]),
            f"{row['compile_seconds']:.0f}",
        ]
        for row in rows
        if "planned_bytes" in row
    ]
    head = (
        "size",
        "program",
        "seconds",
        "tokens a second",
        "TFLOP/s",
        "of the product",
        "GiB",
        "compiled in, s",
    )
    text += "\n\n" + table(head, lines) if lines else ""
    lines = [
        [
            row["group"],
            f"{1000 * row['seconds_per_step']:.3g}",
            f"{row['tokens_per_second']:,.0f}",
            f"{row['least_bytes_per_step'] / 1e9:.3g}",
            percent(row["of_copy"]),
        ]
        for row in rows
        if row["name"] == "decoding"
    ]
    columns = ("size", "milliseconds a step", "tokens a second", "GB that a step must read", "of the copy")
    decoded = "\n\n### Decoding\n\nGeneration without its prefill; a step writes one token of every row.\n\n"
    return text + (decoded + table(columns, lines) if lines else "")


def missing(parts: dict[str, dict]) -> str:
    lines = [f"- The part {name} did not run." for name in PARTS if name not in parts]
    for name, part in parts.items():
        for row in part["rows"]:
            if row["state"] != MEASURED:
                what = f"{name}, {row['group']}" + (f", {row['name']}" if row["name"] else "")
                verb = "failed" if row["state"] == FAILED else "was not reached"
                lines.append(f"- {what} {verb}" + (f": {row['error']}" if "error" in row else "."))
    return "## What did not run\n\n" + ("\n".join(lines) or "Everything ran.")


if __name__ == "__main__":
    sys.exit(main(sys.argv))

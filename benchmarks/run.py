"""Compares the product with its peers, in one run on one machine.

python -m benchmarks.run [--suite=all] [--peer=torch,trl] [--peer_python=PATH] [--json=FILE]

--suite=NAMES        of generation, sft, reward, update, ppo, steady, with commas; all
--peer=NAMES         torch (PyTorch with transformers: all suites but ppo), trl (its PPO trainer: ppo)
--workload=NAMES     of small-fixed, small-real, 124M-fixed, 124M-real; default: what each suite needs
--peer_python=PATH   python of the peers' environment, benchmarks/requirements.txt; default: this one
--posts=FOLDER       whose lengths *real* has; default: ../shared/data/tldr_posts, or else the miniature
--repeats=5          of each side, in turns; in *real* each time another batch, the same rows on both sides
--json=FILE          also write `rows`, `machine` and `steady` there

Before a time is taken, both sides compute the same thing from the same weights, and the run stops where
that differs. docs/performance.md explains the columns.
"""

import dataclasses
import json
import platform
import sys
import tempfile
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

from absl import flags

from benchmarks import flops, steady, workloads
from benchmarks.compare import ROOT, BenchmarkError, Times, Worker, measure
from benchmarks.machine import SIZE
from benchmarks.workloads import WORKLOADS, Workload
from rlhf_jax.command_line import explain, parse_flags

POSTS = ROOT.parent / "shared" / "data" / "tldr_posts"
SMALL = ["small-fixed", "small-real"]
PLANNED = {  # suite: its workloads where none is named
    "generation": [*SMALL, "124M-fixed", "124M-real"],
    "sft": SMALL,
    "reward": SMALL,
    "update": ["small-fixed", "124M-fixed"],
    "ppo": SMALL,
}
PEERS = {"torch": ("generation", "sft", "reward", "update"), "trl": ("ppo",)}
HALVED = {"reward"}  # rows come in pairs: as many sequences as in the other suites


class Row(NamedTuple):
    suite: str
    workload: str
    peer: str
    ratio: float  # the peer's time over ours
    ours_seconds: float  # fixed: median; real: mean over the batches, which differ
    peer_seconds: float
    ours_range: list[float]  # least and most
    peer_range: list[float]
    gflop: float  # useful, of one repetition
    ours_gflops: float  # a second
    peer_gflops: float
    ours_share: float  # of the matrix-product peak measured between the repetitions
    peer_share: float
    ours_megabytes: float  # at the most, above what the process held before
    peer_megabytes: float
    ours_warm_seconds: float  # compilation and first runs
    peer_warm_seconds: float
    peak_gflops: float


def make_row(suite: str, workload: Workload, peer: str, times: Times, gflop: float) -> Row:
    middle = mean if workload.real else median
    ours, theirs = middle(times.ours), middle(times.peer)
    peak = max(median(speeds[library] for speeds in times.machine) for library in ("numpy", "jax"))
    return Row(
        suite=suite,
        workload=workload.name,
        peer=peer,
        ratio=theirs / ours,
        ours_seconds=ours,
        peer_seconds=theirs,
        ours_range=[min(times.ours), max(times.ours)],
        peer_range=[min(times.peer), max(times.peer)],
        gflop=gflop,
        ours_gflops=gflop / ours,
        peer_gflops=gflop / theirs,
        ours_share=gflop / ours / peak,
        peer_share=gflop / theirs / peak,
        ours_megabytes=times.ours_bytes / 1e6,
        peer_megabytes=times.peer_bytes / 1e6,
        ours_warm_seconds=times.ours_warm,
        peer_warm_seconds=times.peer_warm,
        peak_gflops=peak,
    )


def main(argv: list[str]) -> int:
    """Exit status: 0, or 2 after an error of use or sides that differ, told in one line."""
    if not {"-h", "--help"}.isdisjoint(argv):
        print(__doc__)
        return 0
    try:
        options = parse(argv)
        report = run(options)
        if options.json:
            Path(options.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    except (BenchmarkError, flags.Error, OSError) as error:
        status, told = (2, str(error)) if isinstance(error, BenchmarkError) else explain(error)
        print(f"benchmarks.run: {told}", file=sys.stderr)
        return status
    except KeyboardInterrupt:
        return 130
    return 0


def parse(argv: list[str]) -> flags.FlagValues:
    options = flags.FlagValues()
    flags.DEFINE_list("suite", ["all"], "what to measure", flag_values=options)
    flags.DEFINE_list("peer", list(PEERS), "with whom to compare", flag_values=options)
    flags.DEFINE_list("workload", [], "on what", flag_values=options)
    flags.DEFINE_string("peer_python", sys.executable, "python of the peers", flag_values=options)
    flags.DEFINE_string("posts", str(POSTS), "folder of posts", flag_values=options)
    flags.DEFINE_integer("repeats", 5, "of each side", lower_bound=1, flag_values=options)
    flags.DEFINE_string("json", "", "file to write", flag_values=options)
    parse_flags(argv, options)
    suites = [*PLANNED, "steady"]
    for name, known in (("suite", ["all", *suites]), ("peer", PEERS), ("workload", WORKLOADS)):
        for value in getattr(options, name):
            if value not in known:
                raise flags.Error(f"--{name}: {value!r} is not one of {', '.join(known)}")
    if "all" in options.suite:
        options["suite"].value = suites
    return options


def run(options: flags.FlagValues) -> dict:
    """Everything asked for, printed row by row; what `--json` holds."""
    plan = [
        (suite, WORKLOADS[name], peer)
        for suite in options.suite
        if suite in PLANNED
        for name in options.workload or PLANNED[suite]
        for peer in options.peer
        if suite in PEERS[peer]
    ]
    lengths = None
    if any(workload.real for _, workload, _ in plan):
        lengths = workloads.real_lengths(Path(options.posts))
    rows: list[Row] = []
    report: dict = {"rows": [], "machine": {"processor": processor(), "platform": platform.platform()}}
    with tempfile.TemporaryDirectory(prefix="benchmark_") as temporary:
        folder = Path(temporary)
        with Worker("machine", sys.executable, "benchmarks.machine", folder) as machine:
            speeds: list[dict[str, float]] = []
            for i, (suite, workload, peer) in enumerate(plan):
                place = folder / str(i)
                place.mkdir()
                row, seen = compare(suite, workload, peer, lengths, options, machine, place)
                rows.append(row)
                speeds += seen
                print(line(row) if i else f"{HEADER}\n{line(row)}", flush=True)
    report["rows"] = [row._asdict() for row in rows]
    for name in speeds[0] if speeds else ():
        values = [speed[name] for speed in speeds]
        report["machine"][name] = {"median": median(values), "least": min(values), "most": max(values)}
    if speeds:
        print(machine_line(report["machine"]))
    if "steady" in options.suite:
        report["steady"] = steady.run()._asdict()
        print(steady.line(report["steady"]))
    return report


def compare(
    suite: str, workload: Workload, peer: str, lengths, options, machine: Worker, folder: Path
) -> tuple[Row, list[dict[str, float]]]:
    """One suite on one workload, in fresh processes."""
    if suite in HALVED:
        workload = dataclasses.replace(workload, rows=workload.rows // 2)
    examples = workloads.draw(workload, lengths, options.repeats)
    workloads.write(folder, suite, workload, examples, options.repeats)
    gflop = flops.useful(suite, workload, examples) / 1e9
    if workload.real:
        gflop /= options.repeats  # the examples are those of all batches
    with (
        Worker("ours", sys.executable, "benchmarks.ours", folder) as ours,
        Worker(peer, options.peer_python, f"benchmarks.{peer}_peer", folder) as other,
    ):
        times = measure(ours, other, machine, folder, options.repeats, options.repeats)
    return make_row(suite, workload, peer, times, gflop), times.machine


HEADER = (
    f"{'suite':10} {'workload':11} {'peer':5} {'ratio':>6} {'ours s':>17} {'peer s':>17} "
    f"{'GFLOP':>7} {'of peak':>12} {'MB':>11}"
)


def line(row: Row) -> str:
    def seconds(middle: float, ends: list[float]) -> str:
        return f"{middle:.2f} ({ends[0]:.2f}-{ends[1]:.2f})"

    return (
        f"{row.suite:10} {row.workload:11} {row.peer:5} {row.ratio:6.2f} "
        f"{seconds(row.ours_seconds, row.ours_range):>17} {seconds(row.peer_seconds, row.peer_range):>17} "
        f"{row.gflop:7.0f} {row.ours_share:5.0%} {row.peer_share:6.0%} "
        f"{row.ours_megabytes:5.0f} {row.peer_megabytes:5.0f}"
    )


def machine_line(machine: dict) -> str:
    told = ", ".join(
        f"{name} {machine[name]['median']:.0f} ({machine[name]['least']:.0f}-{machine[name]['most']:.0f})"
        for name in ("numpy", "jax", "bandwidth")
    )
    return f"machine: {told}; GFLOP/s of a {SIZE}² float32 product, GB/s read and written"


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [text.partition(":")[2].strip() for text in lines if text.startswith("model name")]
    return f"{len(names)} × {names[0]}" if names else platform.processor()


if __name__ == "__main__":
    sys.exit(main(sys.argv))

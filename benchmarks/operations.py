"""What our side spends its time on: one run of a suite, profiled, by kind of operation.

python -m benchmarks.operations [--suite=update,generation] [--workload=small-fixed]

--suite=NAMES     of generation, sft, reward, update, ppo, with commas
--workload=NAME   as of benchmarks.run; *real* has the lengths of the miniature

A kind takes the time in which any of its operations ran, on whichever thread. Products of matrices are
bound by arithmetic where they need more than BALANCE operations for each byte that they read and write,
else by memory; what they reach stands beside them.
"""

import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import jax
from absl import flags

from benchmarks import ours, workloads
from benchmarks.devices import dot_flops_of
from benchmarks.worker import read_work
from benchmarks.workloads import WORKLOADS, Workload
from rlhf_jax.command_line import command, parse_flags
from rlhf_jax.config import MeshConfig
from rlhf_jax.mesh import make_mesh
from rlhf_jax.plan.collectives import Instruction, parse, result_bytes
from rlhf_jax.training.profiling import Interval, covered, operations, programs

BALANCE = 4  # operations a byte: a product of fewer waits for memory on any machine of today
ARITHMETIC, MEMORY = "products, bound by arithmetic", "products, bound by memory"
CONTAINERS = {"while", "conditional", "call"}  # what runs in them is in the profile too
MOVES = {"copy", "transpose", "bitcast", "reshape", "slice", "concatenate", "pad", "broadcast", "tuple"}
IGNORED = {"parameter", "constant", "get-tuple-element"}


class Operation(NamedTuple):
    kind: str
    flops: float = 0.0  # of one execution
    bytes: float = 0.0  # that a product reads and writes


class Share(NamedTuple):
    seconds: float
    flops: float
    bytes: float


def kinds(text: str) -> dict[str, Operation]:
    """{name: operation} of a compiled program's text, of all that a profile may name."""
    computations, _ = parse(text)
    found = {}
    for instructions in computations.values():
        results = {instruction.name: instruction.result for instruction in instructions}
        for instruction in instructions:
            if instruction.operation not in CONTAINERS | IGNORED:
                found[instruction.name] = _operation(instruction, results, computations)
    return found


def _operation(instruction: Instruction, results: dict[str, str], computations) -> Operation:
    flops = dot_flops_of(computations, instruction, results)
    if flops:
        operands = re.findall(r"%([\w.-]+)", instruction.rest.partition(")")[0])
        moved = result_bytes(instruction.result) + sum(result_bytes(results[name]) for name in operands)
        return Operation(ARITHMETIC if flops > BALANCE * moved else MEMORY, flops, moved)
    called = re.search(r"calls=%?([\w.-]+)", instruction.rest)
    inside = computations[called[1]] if called else [instruction]
    did = {step.operation for step in inside} - IGNORED
    if any(name.startswith("reduce") for name in did):
        return Operation("sums and maxima")
    return Operation("copies" if did <= MOVES else "element by element")


def shares(ran: Iterable[tuple[str, Interval]], known: dict[str, Operation]) -> dict[str, Share]:
    """Seconds, operations and bytes by kind, the longest first; `between` is when none of them ran."""
    spans: dict[str, list[Interval]] = defaultdict(list)
    work: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for name, span in ran:
        if name in known:
            kind, flops, moved = known[name]
            spans[kind].append(span)
            work[kind][0] += flops
            work[kind][1] += moved
    every = [span for kind in spans.values() for span in kind]
    found = {kind: Share(covered(spans[kind]) / 1e9, *work[kind]) for kind in spans}
    whole = max(end for _, end in every) - min(start for start, _ in every)
    found["between"] = Share((whole - covered(every)) / 1e9, 0.0, 0.0)
    return dict(sorted(found.items(), key=lambda item: -item[1].seconds))


def profile(suite: str, workload: Workload) -> dict[str, Share]:
    """Of one run on one batch, after a first one that compiles."""
    with tempfile.TemporaryDirectory(prefix="operations_") as temporary:
        folder = Path(temporary)
        lengths = workloads.real_lengths(folder / "none") if workload.real else None
        workloads.write(folder, suite, workload, workloads.draw(workload, lengths, 1), 1)
        work = read_work(folder, "ours")
        with jax.set_mesh(make_mesh(MeshConfig(1, 1, 1))):
            side = ours.SUITES[suite](work)
            side.run(work.batches[0])
            with jax.profiler.trace(folder / "trace"):
                side.run(work.batches[0])
        (trace,) = folder.glob("trace/plugins/profile/*/*.xplane.pb")
        data = jax.profiler.ProfileData.from_serialized_xspace(trace.read_bytes())
    ran: dict[str, list[tuple[str, Interval]]] = defaultdict(list)
    for module, name, span in operations(data):
        ran[module].append((name, span))
    longest = max(ran, key=lambda module: covered(span for _, span in ran[module]))
    text = next(text for text in programs() if text.startswith(f"HloModule {longest},"))
    return shares(ran[longest], kinds(text))


def main(argv: list[str]) -> int:
    """Exit status: 0, or 2 after an error of use, told in one line."""
    if not {"-h", "--help"}.isdisjoint(argv):
        print(__doc__)
        return 0
    return command(argv, lambda: run(argv))


def run(argv: list[str]) -> None:
    options = flags.FlagValues()
    flags.DEFINE_list("suite", ["update", "generation"], "what to profile", flag_values=options)
    flags.DEFINE_string("workload", "small-fixed", "on what", flag_values=options)
    parse_flags(argv, options)
    for name, value, known in [
        *(("suite", suite, list(ours.SUITES)) for suite in options.suite),
        ("workload", options.workload, list(WORKLOADS)),
    ]:
        if value not in known:
            raise flags.Error(f"--{name}: {value!r} is not one of {', '.join(known)}")
    for suite in options.suite:
        print(table(suite, options.workload, profile(suite, WORKLOADS[options.workload])), flush=True)


def table(suite: str, workload: str, found: dict[str, Share]) -> str:
    whole = sum(share.seconds for share in found.values())
    lines = [f"{suite} {workload}: {whole:.2f} s"]
    for kind, share in found.items():
        reached = ""
        if kind in (ARITHMETIC, MEMORY):
            speed = f"{share.flops / share.seconds / 1e9:.0f} GFLOP/s"
            reached = f"  {speed}, {share.bytes / share.seconds / 1e9:.0f} GB/s"
        lines.append(f"  {kind:30} {share.seconds:6.3f} s {share.seconds / whole:4.0%}{reached}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv))

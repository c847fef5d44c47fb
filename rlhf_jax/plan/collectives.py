"""Bytes that a compiled program sends between devices, read from its text (HLO).

A collective inside a loop counts as often as the loop turns; of branches, the one that receives the
most counts. What a device receives of a result of S bytes in a group of n: all-gather and all-to-all
S (n − 1) / n, all-reduce twice that, reduce-scatter S (n − 1), collective-permute S. Overlap with
computation does not change bytes.
"""

import math
import re
from collections import defaultdict
from typing import NamedTuple

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
ITEM_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "f8e4m3fn": 8, "f8e5m2": 8}

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$", re.MULTILINE)
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)$")
_SHAPE = re.compile(r"\b([a-z]+[0-9]*[a-z0-9]*)\[([0-9,]*)\]")
_CALLED = re.compile(
    r"(?:calls|to_apply|true_computation|false_computation)=%?([\w.-]+)"
    r"|(?:branch_computations|called_computations)=\{([^}]*)\}"
)


class Instruction(NamedTuple):
    name: str
    result: str  # its type
    operation: str
    rest: str  # operands and attributes


def received_bytes(text: str) -> dict[str, float]:
    """Kind of collective → bytes that one device receives in one run of the program.

    Loops without a known number of turns, as that of decoding, are taken to reach the limit in their
    condition. Raises ValueError for a text that it cannot read.
    """
    computations, entry = parse(text)
    return dict(_received(computations, entry))


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """The instructions of every computation by name, and the name of the one to start with."""
    computations: dict[str, list[Instruction]] = {}
    entry = current = ""
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            current = head[2]
            computations[current] = []
            entry = current if head[1] else entry
        elif current and (found := _INSTRUCTION.match(line)):
            computations[current].append(Instruction(*found.groups()))
    if not entry:
        raise ValueError("no entry computation in the text of the compiled program")
    return computations, entry


def _received(computations: dict[str, list[Instruction]], name: str) -> dict[str, float]:
    """Of one computation with all that it calls."""
    collectives: dict[str, tuple[str, float]] = {}
    total: dict[str, float] = defaultdict(float)
    for inside, instruction in _flat(computations, name):
        if instruction.operation == "while":
            for kind, size in _received(computations, _attribute(instruction, "body")).items():
                total[kind] += size * turns(computations, instruction)
        elif instruction.operation == "conditional":
            branches = [_received(computations, called) for called in called_by(instruction)]
            for kind, size in max(branches, key=lambda branch: sum(branch.values())).items():
                total[kind] += size
        elif channel := _collective(inside, instruction):
            # A TPU's asynchronous collective stands in several fusions, always with the same channel.
            collectives[channel] = _size(inside, instruction, computations)
    for kind, size in collectives.values():
        total[kind] += size
    return total


def _flat(computations: dict[str, list[Instruction]], name: str):
    """(computation, instruction) of a computation and of those it calls, loops and branches left alone."""
    for instruction in computations.get(name, ()):
        yield name, instruction
        if instruction.operation not in ("while", "conditional"):
            for called in called_by(instruction):
                yield from _flat(computations, called)


def called_by(instruction: Instruction) -> list[str]:
    """The computations that an instruction calls, but not those of a loop."""
    found = _CALLED.findall(instruction.rest)
    return [name for single, several in found for name in re.findall(r"[\w.-]+", single or several)]


def _collective(inside: str, instruction: Instruction) -> str:
    """What tells this collective from others, or nothing: starts of asynchronous ones count, ends do not."""
    if instruction.operation.removesuffix("-start") not in KINDS:
        return ""
    channel = re.search(r"channel_id=(\d+)", instruction.rest)
    return channel[1] if channel else f"{inside} {instruction.name}"


def _size(inside: str, instruction: Instruction, computations) -> tuple[str, float]:
    """Kind and bytes received."""
    kind = instruction.operation.removesuffix("-start")
    result = instruction.result
    if instruction.operation.endswith("-start"):  # its own result holds the operands too: take the end's
        ends = (end for end in computations[inside] if end.operation == f"{kind}-done")
        result = next(e.result for e in ends if re.search(rf"%{re.escape(instruction.name)}\b", e.rest))
    size = result_bytes(result)
    if kind == "collective-permute":
        return kind, size
    n = group_size(instruction.rest)
    if kind == "all-reduce" and inside.startswith("all-reduce-scatter"):  # a fusion that keeps its share
        return "reduce-scatter", size * (n - 1) / n
    factor = {"all-reduce": 2 / n, "reduce-scatter": 1.0}.get(kind, 1 / n)
    return kind, size * (n - 1) * factor


def result_bytes(result: str) -> float:
    """Bytes of a type such as 'f32[8,16]{1,0}' or a tuple of such."""
    bits = 0
    for kind, dimensions in _SHAPE.findall(result):
        width = ITEM_BITS.get(kind) or int(re.sub(r"\D", "", kind) or 0)
        bits += width * math.prod(int(d) for d in dimensions.split(",") if d)
    return bits / 8


def group_size(attributes: str) -> int:
    """How many devices take part together, from `replica_groups` in any of its three spellings."""
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]<=", attributes):
        return int(found[1])
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return len(found[1].split(","))
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes):
        axes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", found[1])}
        parts = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", found[2])  # a whole axis, or a part of one
        return math.prod(int(size) if size else axes[name] for name, size in parts)
    raise ValueError(f"replica groups that are not understood: {attributes[:200]}")


def turns(computations: dict[str, list[Instruction]], loop: Instruction) -> int:
    """How often a loop turns: as the compiler noted, or else the limit that its condition compares with."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
        return int(known[1])
    condition = list(_flat(computations, _attribute(loop, "condition")))
    constants = {
        instruction.name: int(value[1])
        for _, instruction in condition
        if instruction.operation == "constant" and (value := re.match(r"(\d+)\)", instruction.rest))
    }
    limits = [
        constants[operand]
        for _, instruction in condition
        if instruction.operation == "compare" and "direction=LT" in instruction.rest
        for operand in re.findall(r"%([\w.-]+)", instruction.rest)
        if operand in constants
    ]
    if not limits:
        raise ValueError(f"loop {loop.name} has no limit in its condition")
    return max(limits)


def _attribute(instruction: Instruction, name: str) -> str:
    found = re.search(rf"\b{name}=%?([\w.-]+)", instruction.rest)
    if not found:
        raise ValueError(f"{instruction.operation} {instruction.name} has no {name}")
    return found[1]

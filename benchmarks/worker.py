"""One side of a comparison as a process of its own: it waits for a request, does it and answers.

Requests and answers are JSON, one a line, on standard input and output; whatever libraries print goes to
standard error. While a worker waits it computes nothing, so that two of them can take turns on one machine.
"""

import ctypes
import functools
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]
WORKLOAD = "workload.json"


class Work(NamedTuple):
    """What a side reads of a workload: `benchmarks.workloads` writes it."""

    folder: Path  # with weights as Hugging Face folders by name of the network
    fields: dict  # of workload.json
    batches: list[Arrays]
    check: Arrays  # the batch on which outputs are compared


class Side(NamedTuple):
    """One suite as one implementation does it."""

    check: Callable[[Arrays], Mapping[str, Any]]  # outputs by name, the same names on both sides
    run: Callable[[Arrays], object]  # what is timed, on one batch


def serve(name: str, suites: Mapping[str, Callable[[Work], Side]], warm_every_shape: bool) -> None:
    """Prepares the workload that the first request names, then answers until standard input ends.

    `name` is that of the side's arrays in the workload's folder. `warm_every_shape`: a new shape means a
    compilation; otherwise one batch warms up.
    """
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**fields) -> None:
        channel.write(json.dumps(fields) + "\n")
        channel.flush()

    requests = map(json.loads, sys.stdin)
    held = resident("VmRSS")
    work = read_work(Path(next(requests)["folder"]), name)
    side = suites[work.fields["suite"]](work)
    answer()
    for request in requests:
        match request["do"]:
            case "check":
                np.savez(work.folder / f"{request['out']}.npz", **side.check(work.check))
                answer()
            case "warm":
                seconds = timed(lambda: warm(side, work, warm_every_shape))
                release_memory()
                answer(seconds=seconds)
            case "run":
                batch = work.batches[request["batch"]]
                answer(seconds=timed(functools.partial(side.run, batch)))
            case "peak":
                answer(bytes=resident("VmHWM") - held)


def read_work(folder: Path, name: str) -> Work:
    fields = json.loads((folder / WORKLOAD).read_text())
    with np.load(folder / f"{name}.npz") as stored:
        batches: dict[str, Arrays] = {}
        for key in stored.files:
            batch, _, array = key.partition(".")
            batches.setdefault(batch, {})[array] = stored[key]
    check = batches.pop("check")
    return Work(folder, fields, [batches[str(i)] for i in range(len(batches))], check)


def warm(side: Side, work: Work, every_shape: bool) -> None:
    seen = set()
    for batch in work.batches if every_shape else work.batches[:1]:
        shapes = tuple(sorted((name, x.shape) for name, x in batch.items()))
        if shapes not in seen:
            seen.add(shapes)
            side.run(batch)


def timed(work: Callable[[], object]) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start


def resident(field: str) -> int:
    """Bytes of memory of this process: VmRSS now, VmHWM the most since `release_memory`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}: memory is measured on Linux alone")


def release_memory() -> None:
    """Gives back what compilation and warm-up left unused, and starts the peak anew."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")

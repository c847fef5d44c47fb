"""Two workers take turns: first the same numbers, then times."""

import json
import os
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).parents[1]
TOLERANCE = 1e-4  # of losses and norms, relative where they exceed 1; tokens must be the same


class BenchmarkError(ValueError):
    """A comparison that would mean nothing; the message says why."""


class Worker:
    """The parent's end of a `benchmarks.worker` process."""

    def __init__(self, name: str, python: str, module: str, folder: Path):
        self.name, self._log = name, folder / f"{name}.log"
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [python, "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            )

    def ask(self, do: str, **request) -> dict:
        """The answer to one request. Raises BenchmarkError with the last words of a worker that died."""
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps({"do": do} | request) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            words = self._log.read_text().strip().splitlines() or ["it said nothing"]
            raise BenchmarkError(f"{self.name}: ended at {do!r}: {words[-1]}")
        return json.loads(answer)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *exception) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


class Times(NamedTuple):
    """Of both sides, in seconds by repetition, compilation apart; memory in bytes."""

    ours: list[float]
    peer: list[float]
    ours_warm: float
    peer_warm: float
    ours_bytes: int
    peer_bytes: int
    machine: list[dict[str, float]]


def measure(ours: Worker, peer: Worker, machine: Worker, folder: Path, batches: int, repeats: int) -> Times:
    """A B A B …, the machine's own speed before each pair. Raises BenchmarkError where outputs differ."""
    for worker in (ours, peer):
        worker.ask("prepare", folder=str(folder))
    for worker, out in ((ours, "ours_check"), (peer, "peer_check")):
        worker.ask("check", out=out)
    assert_same(folder / "ours_check.npz", folder / "peer_check.npz", peer.name)
    warm = [worker.ask("warm")["seconds"] for worker in (ours, peer)]
    speeds: list[dict[str, float]] = []
    seconds: tuple[list[float], list[float]] = ([], [])
    for i in range(repeats):
        speeds.append(machine.ask("measure"))
        for worker, times in zip((ours, peer), seconds, strict=True):
            times.append(worker.ask("run", batch=i % batches)["seconds"])
    peaks = [worker.ask("peak")["bytes"] for worker in (ours, peer)]
    return Times(seconds[0], seconds[1], warm[0], warm[1], peaks[0], peaks[1], speeds)


def assert_same(ours: Path, peer: Path, name: str) -> None:
    """Compares everything that the peer has to show."""
    with np.load(ours) as own, np.load(peer) as other:
        for key in other.files:
            a, b = own[key], other[key]
            whole = np.issubdtype(b.dtype, np.integer)
            error = np.abs(a.astype(float) - b) / np.maximum(np.abs(b.astype(float)), 1.0)
            worst = float(error.max())
            if not worst <= (0.0 if whole else TOLERANCE):  # not: NaN is different too
                at = np.unravel_index(int(error.argmax()), error.shape)
                raise BenchmarkError(
                    f"{key} differs: {a[at]} of ours, {b[at]} of {name}"
                    f"{f' at {[int(i) for i in at]}' if at else ''}; no time is worth anything then"
                )

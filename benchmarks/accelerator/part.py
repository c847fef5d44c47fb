"""A part of the measurements: its file, its time, and its groups, each in a process of its own.

The file is written whole after every measurement, so that a part cut short leaves what it had. A process
of its own gives a group the card's memory to itself, and a crash costs that group alone.
"""

import contextlib
import datetime
import fcntl
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from absl import flags

from benchmarks.compare import ROOT
from benchmarks.run import processor
from rlhf_jax.command_line import explain, parse_flags
from rlhf_jax.files import write_json

MEASURED, FAILED, NOT_REACHED = "measured", "failed", "not reached"
PACKAGES = ("jax", "jaxlib", "jax-cuda13-plugin", "nvidia-cudnn-cu13", "numpy", "flax", "optax")
LONGEST_ERROR = 300  # characters of it that are kept
GRACE = 15.0  # seconds that a process gets after its time to end what it has begun


class Part:
    """One part's file as one of its groups sees it, and the time that is left to the group."""

    def __init__(self, name: str, folder: Path, group: str, seconds: float, dry: bool) -> None:
        self.folder, self.group, self.dry = folder, group, dry
        self._file = folder / f"{name}.json"
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds."""
        return self._end - time.monotonic()

    def measure(self, name: str, work: Callable[[], Mapping[str, Any]]) -> bool:
        """Notes what `work` returns, its error in one line, or that no time was left; whether it returned."""
        if self.left <= 0:
            self.note(name, NOT_REACHED)
            return False
        start = time.monotonic()
        try:
            values = dict(work())
        except Exception as error:  # of any kind: the other measurements go on
            self.note(name, FAILED, error=one_line(error))
            return False
        self.note(name, MEASURED, took=round(time.monotonic() - start, 2), **values)
        return True

    def note(self, name: str, state: str, **values: Any) -> None:
        """Adds a row to the file and prints it."""
        row = {"group": self.group, "name": name, "state": state} | values
        with _alone(self.folder):
            content = read(self._file)
            content["rows"].append(row)
            write_json(self._file, content)
        told = " ".join(f"{key}={_short(value)}" for key, value in values.items())
        print(f"{self.group}: {name}: {state} {told}", flush=True)

    def found(self, group: str, name: str) -> dict | None:
        """The row of an earlier measurement, where it succeeded."""
        with _alone(self.folder):
            rows = read(self._file)["rows"]
        wanted = (group, name, MEASURED)
        return next((row for row in rows if (row["group"], row["name"], row["state"]) == wanted), None)


class Group(NamedTuple):
    """Measurements that share a process."""

    work: Callable[[Part], None]
    seconds: float = 240.0  # at most
    environment: Mapping[str, str] = MappingProxyType({})  # beside that of the part


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:LONGEST_ERROR]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Groups that run at once change the file by turns."""
    place = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(place, fcntl.LOCK_EX)
        yield
    finally:
        os.close(place)


def main(argv: list[str], document: str | None, groups: Mapping[str, Group], at_once: int = 1) -> int:
    """Runs the groups of the module that is called, `at_once` of them beside each other where not dry.

    Exit status: 0, whatever the measurements say; 2 after an error of use, told in one line.
    """
    if not {"-h", "--help"}.isdisjoint(argv):
        print(document)
        return 0
    name = Path(argv[0]).stem
    options = flags.FlagValues()
    flags.DEFINE_string("out", None, "folder of the results", flag_values=options)
    flags.DEFINE_bool("dry", False, "toy size", flag_values=options)
    flags.DEFINE_float("seconds", 240.0, "after which nothing is begun", 0, flag_values=options)
    flags.DEFINE_enum("group", None, list(groups), "measure this one, in this process", flag_values=options)
    try:
        parse_flags(argv, options)
        if not options.out:
            raise flags.Error("--out is missing: the folder of the results")
        folder = Path(options.out).absolute()
        folder.mkdir(parents=True, exist_ok=True)
    except (flags.Error, OSError) as error:
        print(f"{name}: {explain(error)[1]}", file=sys.stderr)
        return 2
    if options.group:
        groups[options.group].work(Part(name, folder, options.group, options.seconds, options.dry))
        return 0
    begin(name, folder, options.dry)
    end = time.monotonic() + options.seconds
    with (
        tempfile.TemporaryDirectory(prefix="accelerator_") as cache,
        ThreadPoolExecutor(1 if options.dry else at_once) as pool,
    ):

        def run(group: str) -> None:
            left = min(groups[group].seconds, end - time.monotonic())
            part = Part(name, folder, group, left, options.dry)
            if left <= 0:
                part.note("", NOT_REACHED)
                return
            command = [sys.executable, "-m", f"benchmarks.accelerator.{name}", f"--out={folder}"]
            command += [f"--group={group}", f"--seconds={left}", *["--dry"] * options.dry]
            environment = {"JAX_COMPILATION_CACHE_DIR": cache, **groups[group].environment}
            fault = run_process(command, left + GRACE, environment)
            if fault:
                part.note("", FAILED, error=fault)

        list(pool.map(run, groups))
    return 0


def begin(name: str, folder: Path, dry: bool) -> None:
    """A file without rows."""
    content = {
        "part": name,
        "dry": dry,
        "date": datetime.date.today().isoformat(),
        "machine": {"card": card(), "processor": processor(), "python": sys.version.split()[0]}
        | {package: version(package) for package in PACKAGES},
        "rows": [],
    }
    write_json(folder / f"{name}.json", content)


def card() -> str:
    """Name, memory and driver of the GPU; empty where none answers."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def version(package: str) -> str:
    """Empty where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def run_process(command: Sequence[str], seconds: float, environment: Mapping[str, str]) -> str:
    """Runs a command with all that it starts, for so long at most; why it failed, or nothing.

    What it prints goes on to standard output; the reason is the last line of its standard error.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command,
            stderr=log,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
            start_new_session=True,
        )
        try:
            status = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"did not end within {seconds:.0f} s"
        if status == 0:
            return ""
        log.seek(0)
        words = log.read().strip().splitlines() or ["it said nothing"]
    return f"ended with status {status}: {words[-1]}"[:LONGEST_ERROR]

"""The folder of a run: the configuration it was started with, and how far it has come."""

import fcntl
import glob
import os
import socket
from collections.abc import Callable
from os import PathLike
from typing import IO

from etils.epath import Path

from rlhf_jax.config import Config, ConfigError
from rlhf_jax.files import matching, read_object, write_json
from rlhf_jax.run import steps, storage
from rlhf_jax.run.stored_config import differences, from_dict, to_dict, upgraded
from rlhf_jax.validation import validate

Same = Callable[[Path, str], bool]  # (work folder, field) → whether another value of it changes nothing there
_held: dict[str, IO[str]] = {}  # the locks of this process, by folder; the system frees them at its end


class WorkdirError(ValueError):
    """A folder that belongs to another run, or that another process writes."""


def open_workdir(
    path: str | PathLike[str],
    config: Config,
    create: bool = True,
    same: Same = lambda workdir, field: False,
) -> Path:
    """The folder, on disk or gs://, created with its config.json where it is not there.

    A folder of another configuration is refused untouched, unless nothing in it has begun; one that differs
    in where it is computed alone (config.PLACEMENT), or in fields that are the `same`, is resumed. Its
    config.json then says what is new.
    Hosts that must not `create` it raise WorkdirError where it is missing; the one that creates locks it.
    """
    if "://" in str(path) and glob.has_magic(str(path)):  # where Orbax does not find what it wrote
        raise WorkdirError(f"{path}: a folder of a bucket can have none of * ? [ in its name; use another")
    with storage.explained(path):
        workdir = Path(path)
        file = workdir / "config.json"
        if not file.exists():
            if not create:
                raise WorkdirError(
                    f"{file} is not there, though process 0 has written it: "
                    "--workdir must be on storage that all hosts share"
                )
            lock(workdir)
            write_json(file, to_dict(config))
            return workdir
        stored = refuse_another(workdir, config, same)
        if create:
            lock(workdir)
        if create and stored != to_dict(config):
            write_json(file, to_dict(config))
        return workdir


def refuse_another(workdir: Path, config: Config, same: Same) -> dict:
    """The stored configuration of a run. Raises WorkdirError where it has begun as another than `config`."""
    file = workdir / "config.json"
    try:
        stored = read_object(file, WorkdirError)
    except WorkdirError as error:
        raise WorkdirError(f"{error}; restore the file, or use another --workdir") from None
    changed = [line for line in differences(config, stored) if not same(workdir, line.partition(":")[0])]
    if changed and has_begun(workdir):
        raise WorkdirError(
            f"{file} was written with other values ({'; '.join(changed)}): use the values of the first "
            f"start, or another --workdir, where --fork={workdir} takes over finished stages"
        )
    return stored


def has_begun(workdir: Path) -> bool:
    """Whether a stage of the run has finished, or a training of it has saved a step."""
    with storage.explained(workdir):
        if not (workdir / "config.json").exists():
            return False
        done = any(entry["done"] for entry in _progress(workdir).values())
        return done or any(map(steps.finished, matching(workdir / "checkpoints", "*")))


def lock(workdir: Path) -> None:
    """Keeps other processes from writing this folder until this one ends, however it ends.

    Raises WorkdirError naming the process that has it. Object stores have no locks, nor do some network
    file systems: there nothing is held.
    """
    name = os.path.realpath(workdir)
    if name in _held or "://" in str(workdir):
        return
    workdir.mkdir(parents=True, exist_ok=True)
    file = open(workdir / "run.lock", "a+", encoding="utf-8")  # noqa: SIM115 - open until this process ends
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise WorkdirError(
            f"{workdir} is in use by {file.read().strip() or 'another process'}: "
            "stop that one first, or use another --workdir"
        ) from None
    except OSError:  # no locks here
        return
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    _held[name] = file


def read_config(workdir: str | PathLike[str]) -> Config:
    """The configuration a run was started with."""
    stored = read_stored(workdir)
    try:
        return validate(from_dict(upgraded(stored)))
    except ConfigError as error:
        file = Path(workdir) / "config.json"
        raise WorkdirError(f"{file}: {error}; was it written by another version?") from None


def read_stored(workdir: str | PathLike[str]) -> dict:
    """The same as it was written, which may have been by another version."""
    file = Path(workdir) / "config.json"
    nothing: dict = {}
    with storage.explained(workdir):
        stored = read_object(file, WorkdirError, missing=nothing)
    if stored is nothing:
        raise WorkdirError(f"{workdir} is not the folder of a run: it has no config.json")
    if not isinstance(stored.get("sft"), dict):  # as in that of a model
        raise WorkdirError(f"{workdir} is not the folder of a run: {file} is that of something else")
    return stored


def record_stage(workdir: Path, stage: str, seconds: float = 0.0, **about) -> None:
    """Adds to the seconds a stage has run, over all its starts, and keeps what else is told `about` it.

    That is `done`, once it has finished; `label`, what people call it; `networks`, which maps the names of
    the networks that it leaves in checkpoints/ to what people call them; `read`, digests of its inputs.
    """
    record = _progress(workdir)
    entry = record.setdefault(stage, {"seconds": 0.0, "done": False, "read": {}})
    entry["seconds"] += seconds
    entry |= about
    write_json(workdir / "progress.json", record)


def read_seconds(workdir: Path) -> dict[str, float]:
    """Seconds of every stage that has started, for results.json."""
    return {stage: entry["seconds"] for stage, entry in _progress(workdir).items()}


def labels(workdir: Path) -> dict[str, str]:
    """Stage → what people call it, of every stage that has started."""
    return {stage: entry.get("label", stage) for stage, entry in _progress(workdir).items()}


def networks(workdir: Path) -> dict[str, str]:
    """Network → what people call it, of every stage that has started, in their order."""
    told = [entry.get("networks", {}) for entry in _progress(workdir).values()]
    return {name: label for each in told for name, label in each.items()}


def inputs(workdir: Path) -> dict[str, dict[str, str] | None]:
    """Stage → digests of what it has read, by name, of every stage that has started; None of old versions."""
    return {stage: entry.get("read") for stage, entry in _progress(workdir).items()}


def stage_done(workdir: Path, stage: str) -> bool:
    return _progress(workdir).get(stage, {}).get("done", False)


def stages_interrupted(workdir: Path) -> list[str]:
    """Stages that started and have not finished."""
    return [stage for stage, entry in _progress(workdir).items() if not entry["done"]]


def _progress(workdir: Path) -> dict[str, dict]:
    file = workdir / "progress.json"
    record = read_object(file, WorkdirError, missing={})
    for stage, entry in record.items():
        if not (
            isinstance(entry, dict)
            and type(entry.get("seconds")) in (int, float)
            and type(entry.get("done")) is bool
        ):
            raise WorkdirError(
                f"{file}: field {stage} should have seconds, a number, and done, true or false; correct it, "
                "or remove the file to go through all stages again"
            )
    if record.get("reward", {}).get("done") and "collect" not in record:
        record["collect"] = {"seconds": 0.0, "done": True}  # an older version, whose stage reward did it
    return record

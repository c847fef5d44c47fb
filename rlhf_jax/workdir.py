"""The folder of a run: the configuration it was started with, and how far it has come."""

import json
from os import PathLike

from etils.epath import Path

from rlhf_jax.config import Config, ConfigError, differences, from_dict, to_dict, validate


class WorkdirError(ValueError):
    """A folder that belongs to another run."""


def open_workdir(path: str | PathLike[str], config: Config, create: bool = True) -> Path:
    """The folder, on disk or gs://, created with its config.json where it is not there.

    A folder of another configuration is refused untouched; one that differs in where it is computed alone
    (config.PLACEMENT) is resumed, and its config.json then says where. Hosts that must not `create` it raise
    WorkdirError where it is missing.
    """
    workdir = Path(path)
    file = workdir / "config.json"
    if not file.exists():
        if not create:
            raise WorkdirError(
                f"{file} is not there, though process 0 has written it: "
                "--workdir must be on storage that all hosts share"
            )
        write_text(file, json.dumps(to_dict(config), indent=1) + "\n")
        return workdir
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WorkdirError(
            f"{file}: not the JSON of a configuration ({error}); use another --workdir"
        ) from error
    changed = differences(config, stored)
    if changed:
        raise WorkdirError(
            f"{file} was written with other values ({'; '.join(changed)}): "
            "use another --workdir, or the values of the first start"
        )
    if create and stored != to_dict(config):
        write_text(file, json.dumps(to_dict(config), indent=1) + "\n")
    return workdir


def read_config(workdir: Path) -> Config:
    """The configuration a run was started with."""
    file = workdir / "config.json"
    try:
        return validate(from_dict(json.loads(file.read_text(encoding="utf-8"))))
    except OSError:
        raise WorkdirError(f"{workdir} is not the folder of a run: it has no config.json") from None
    except (ValueError, TypeError, AttributeError) as error:
        reason = str(error) if isinstance(error, ConfigError) else "not the JSON of a configuration"
        raise WorkdirError(f"{file}: {reason}; was it written by another version?") from None


def write_text(file: Path, text: str) -> None:
    """Writes the whole file or nothing; makes its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(file.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)


def record_seconds(workdir: Path, stage: str, seconds: float) -> None:
    """Adds to the seconds a stage has run, over all its starts."""
    record = _progress(workdir)
    entry = record.setdefault(stage, {"seconds": 0.0, "done": False})
    entry["seconds"] += seconds
    write_text(workdir / "progress.json", json.dumps(record, indent=1) + "\n")


def read_seconds(workdir: Path) -> dict[str, float]:
    """Seconds of every stage that has started, for results.json."""
    return {stage: entry["seconds"] for stage, entry in _progress(workdir).items()}


def mark_done(workdir: Path, stage: str) -> None:
    """Marks a started stage as finished."""
    record = _progress(workdir)
    record[stage]["done"] = True
    write_text(workdir / "progress.json", json.dumps(record, indent=1) + "\n")


def stage_done(workdir: Path, stage: str) -> bool:
    return _progress(workdir).get(stage, {}).get("done", False)


def stages_interrupted(workdir: Path) -> list[str]:
    """Stages that started and have not finished."""
    return [stage for stage, entry in _progress(workdir).items() if not entry["done"]]


def _progress(workdir: Path) -> dict[str, dict]:
    file = workdir / "progress.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}

"""The saved steps of a training: which are finished, whole, newest and best.

Plain files, read without JAX or Orbax: for rlhf_jax/run/checkpoint.py, and for people who ask about a folder.
"""

import hashlib
import json
import math
from collections.abc import Callable
from typing import Any

from etils.epath import Path

from rlhf_jax.files import read_object, write_text

MANIFEST = "manifest.json"  # SHA-256 of every other file of a step, written last
DAMAGED = "manifest.damaged.json"  # its name in a step that was set aside, for people to look at
META = "meta.json"
SHAPES = "shapes.json"
BLOCK = 1 << 22  # bytes hashed at a time

Select = Callable[[list[str]], list[str]]


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or of another model; the message says what to do."""


def trainings(workdir: Path) -> list[Path]:
    """The folders with steps: those in `checkpoints`, which is one itself in a base model's folder."""
    root = workdir / "checkpoints"
    if not root.exists():
        raise CheckpointError(f"{workdir} is not the folder of a run with checkpoints: {root} is not there")
    return [folder for folder in (root, *sorted(root.iterdir())) if step_folders(folder)]


def step_folders(folder: Path) -> list[Path]:
    """Those of all steps, oldest first, finished or not."""
    found = (
        [path for path in folder.iterdir() if path.name.isascii() and path.name.isdigit()]
        if folder.is_dir()
        else []
    )
    return sorted(found, key=lambda path: int(path.name))


def finished(folder: Path) -> list[int]:
    """Finished steps, oldest first: those with a manifest."""
    return [int(path.name) for path in step_folders(folder) if (path / MANIFEST).exists()]


def by_preference(folder: Path) -> list[int]:
    """Finished steps, first the one that later stages read: the best where it was asked for, else the newest.

    A step's meta.json then holds `best`, the name of the metric, and its `value`.
    """
    steps = finished(folder)[::-1]
    metas = {step: _meta(folder / str(step)) for step in steps}
    judged = {step: meta for step, meta in metas.items() if meta.get("best") and meta["value"] is not None}
    sign = -1 if any(meta["best"].startswith("-") for meta in judged.values()) else 1
    values = {step: sign * meta["value"] for step, meta in judged.items()}
    return sorted(steps, key=lambda step: values.get(step, -math.inf), reverse=True)  # of equals, the newest


def best(path: Path) -> str:
    """What a step was judged by, for people; empty where nobody asked for the best."""
    meta = _meta(path)
    return f"best by {meta['best']} ({meta['value']:.4g})" if meta.get("best") else ""


def fault(path: Path, select: Select = list, told: Callable[[int], Any] | None = None) -> str | None:
    """What is wrong with the files of a step that `select` takes from those of its manifest, if anything.

    `told(n)` is called for every n bytes that were read.
    """
    try:
        manifest = read_json(path / MANIFEST)
        if not {META, SHAPES} <= manifest.keys():
            return f"{MANIFEST} is not one"
    except CheckpointError:
        return f"{MANIFEST} is unreadable"
    for name in sorted(manifest.keys() - set(files(path))):  # of all, since a damaged name may hide any
        return f"{name} is missing"
    for name in select(list(manifest)):
        try:
            digest = sha256(path / name, told)
        except FileNotFoundError:  # a link to nowhere, or removed since
            return f"{name} is missing"
        if digest != manifest[name]:
            return f"{name} is not what was written"
    return None


def strangers(path: Path) -> list[str]:
    """Names of files in a whole step that are not of it; a name that begins with a dot is the system's."""
    names = set(files(path)) - read_json(path / MANIFEST).keys() - {MANIFEST}
    return sorted(name for name in names if not name.rpartition("/")[2].startswith("."))


def files(folder: Path) -> list[str]:
    """The names of all files, in folders of any depth, sorted."""
    found = list[str]()
    for path in folder.iterdir():
        found += [f"{path.name}/{name}" for name in files(path)] if path.is_dir() else [path.name]
    return sorted(found)


def sha256(file: Path, told: Callable[[int], Any] | None = None) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
            if told:
                told(len(block))
    return digest.hexdigest()


def read_json(file: Path) -> dict[str, Any]:
    return read_object(file, CheckpointError)


def write_json(file: Path, value: Any) -> None:
    write_text(file, json.dumps(value, indent=1))


def _meta(path: Path) -> dict:
    """The plain values of a step; those of a damaged file are none, which its hash tells."""
    try:
        meta = read_json(path / META)
    except CheckpointError:
        return {}
    judged = isinstance(meta.get("best"), str) and isinstance(meta.get("value"), int | float | None)
    return meta if judged and "value" in meta else {}

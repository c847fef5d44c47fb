"""Checkpoints of a stage: `<workdir>/checkpoints/<stage>/<step>/`, written by Orbax.

A step is one folder:

    params/        the parameters, an Orbax item
    rest/          optimizer state, step, random key, controllers: what resuming needs beside them
    meta.json      plain values a later stage reads, such as the reward model's shift
    shapes.json    shape of every array, so that a wrong model is named before anything is read
    manifest.json  SHA-256 of every file above, written last

Orbax restores an array file with a flipped byte without a word, so every file is checked
against the manifest before it is read. A step without a manifest was never finished and
is ignored; one that does not match its manifest is set aside and the step before it used.
"""

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

MANIFEST = "manifest.json"

log = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or of another model; the message says what to do."""


def save(folder: Path, step: int, *, params: Any, rest: Any, meta: dict, keep: int = 2) -> None:
    """Writes step `step` under `folder`, then removes all but the newest `keep` steps.

    `params` and `rest` are dicts or dataclasses of arrays, typed random keys included;
    `meta` is whatever JSON holds. Written under another name and renamed when whole.
    """
    folder = folder.absolute()  # Orbax refuses relative paths
    target, temporary = folder / str(step), folder / f"{step}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    items = {"params": params, "rest": rest}
    with ocp.StandardCheckpointer() as orbax:
        for name, tree in items.items():
            orbax.save(temporary / name, jax.tree.map(_key_to_data, tree))
    _write_json(temporary / "meta.json", meta)
    _write_json(temporary / "shapes.json", {name: _shapes(tree) for name, tree in items.items()})
    files = sorted(p for p in temporary.rglob("*") if p.is_file())
    _write_json(temporary / MANIFEST, {p.relative_to(temporary).as_posix(): _sha256(p) for p in files})
    if target.exists():
        target.rename(folder / f"{step}.old.tmp")
    temporary.rename(target)
    _prune(folder, keep)


def latest_step(folder: Path) -> int | None:
    """The newest whole step under `folder`, or None. Damaged steps are renamed `<step>.damaged`."""
    for step in reversed(_steps(folder)):
        path = folder / str(step)
        fault = _fault(path, ("",))
        if fault is None:
            return step
        aside = folder / f"{step}.damaged"
        log.warning(
            "checkpoint %s is damaged (%s): set aside as %s, trying an older one", path, fault, aside.name
        )
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
    return None


def require(workdir: Path, stage: str, needed_by: str) -> tuple[Path, int]:
    """Folder and newest whole step of an earlier stage, or a `CheckpointError` naming the stage to run."""
    folder = workdir / "checkpoints" / stage
    step = latest_step(folder)
    if step is None:
        run = stage.split("_")[0]  # sft_10x is trained by stage sft
        raise CheckpointError(
            f"{needed_by} needs the checkpoint of stage '{stage}' in {folder}: run --stage={run} first"
        )
    return folder, step


def restore(folder: Path, step: int, params: Any, rest: Any) -> tuple[Any, Any, dict]:
    """(params, rest, meta) of a step, laid out as the abstract trees `params` and `rest` say.

    The leaves of the abstract trees have shape, dtype and sharding, on any mesh and any
    number of devices: `jax.ShapeDtypeStruct`s, or arrays to be replaced.
    """
    path = _checked(folder, step, ("params/", "rest/"))
    return _read(path, "params", params), _read(path, "rest", rest), _read_json(path / "meta.json")


def restore_params(folder: Path, step: int, params: Any) -> Any:
    """The parameters of a step alone, laid out as the abstract tree `params` says."""
    return _read(_checked(folder, step, ("params/",)), "params", params)


def read_meta(folder: Path, step: int) -> dict:
    """The plain values stored with a step."""
    return _read_json(_checked(folder, step, ()) / "meta.json")


def _read(path: Path, name: str, abstract: Any) -> Any:
    _check_shapes(path, name, abstract)
    with ocp.StandardCheckpointer() as orbax:
        stored = orbax.restore((path / name).absolute(), jax.tree.map(_abstract_data, abstract))
    return jax.tree.map(_data_to_key, abstract, stored)


def _checked(folder: Path, step: int, parts: tuple[str, ...]) -> Path:
    """The step's folder, its JSON files and the `parts` to be read verified."""
    path = folder / str(step)
    fault = _fault(path, (*parts, "meta.json", "shapes.json"))
    if fault is not None:
        raise CheckpointError(
            f"checkpoint {path} is damaged ({fault}): remove that folder and start again from the step before"
        )
    return path


def _fault(path: Path, parts: tuple[str, ...]) -> str | None:
    """What is wrong with the files of a step whose names start with one of `parts`, if anything."""
    try:
        manifest = _read_json(path / MANIFEST)
    except (OSError, ValueError):
        return f"{MANIFEST} is unreadable"
    for name, digest in manifest.items():
        if name.startswith(parts):
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if _sha256(file) != digest:
                return f"{name} is not what was written"
    return None


def _check_shapes(path: Path, name: str, abstract: Any) -> None:
    stored, wanted = _read_json(path / "shapes.json")[name], _shapes(abstract)
    for leaf in sorted(stored.keys() | wanted.keys()):
        has, wants = stored.get(leaf, "nothing"), wanted.get(leaf, "nothing")
        if has != wants:
            raise CheckpointError(
                f"checkpoint {path} is of another model: {name}{leaf} is {has} there and {wants} here; "
                "use the configuration it was trained with"
            )


def _steps(folder: Path) -> list[int]:
    """Finished steps, oldest first."""
    return sorted(int(p.parent.name) for p in folder.glob(f"*/{MANIFEST}") if p.parent.name.isdigit())


def _prune(folder: Path, keep: int) -> None:
    for step in _steps(folder)[:-keep]:
        (folder / str(step)).rename(folder / f"{step}.old.tmp")  # never a step with half its files
    for leftover in folder.glob("*.tmp"):
        shutil.rmtree(leftover)


def _shapes(tree: Any) -> dict[str, list[int]]:
    leaves, _ = jax.tree.flatten_with_path(jax.tree.map(_abstract_data, tree))
    return {jax.tree_util.keystr(path): list(leaf.shape) for path, leaf in leaves}


def _is_key(x: Any) -> bool:
    return jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def _key_to_data(x: Any) -> Any:
    return jax.random.key_data(x) if _is_key(x) else x


def _data_to_key(abstract: Any, stored: Any) -> Any:
    return jax.random.wrap_key_data(stored) if _is_key(abstract) else stored


def _abstract_data(x: Any) -> jax.ShapeDtypeStruct:
    data = jax.eval_shape(jax.random.key_data, x) if _is_key(x) else x
    return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=getattr(x, "sharding", None))


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, value: Any) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))

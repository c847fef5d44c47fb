"""Checkpoints of a stage: `<workdir>/checkpoints/<stage>/<step>/`, written by Orbax.

A step is one folder, on disk or gs://:

    params/        the parameters, an Orbax item
    rest/          optimizer state, step, random key, controllers: what resuming needs beside them
    meta.json      plain values a later stage reads, such as the reward model's shift
    shapes.json    shape of every array, so that a wrong model is named before anything is read
    manifest.json  SHA-256 of every file above, written last

Object stores cannot rename a folder, so a step is written in its place and the manifest makes it
whole: a folder without one was never finished, is ignored and later removed. Orbax restores an
array file with a flipped byte without a word, so every file is checked against the manifest before
it is read; a step that does not match is set aside, its manifest renamed, and the one before it used.

On many hosts all call every function here: each writes its own shards and hashes its part of the
files, process 0 writes the rest.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from os import PathLike
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils.epath import Path

from rlhf_jax import hosts
from rlhf_jax.files import read_object
from rlhf_jax.workdir import write_text

MANIFEST = "manifest.json"
DAMAGED = "manifest.damaged.json"  # of a step that is kept for people to look at

log = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or of another model; the message says what to do."""


def save(folder: PathLike[str], step: int, *, params: Any, rest: Any, meta: dict, keep: int = 2) -> None:
    """Writes step `step` under `folder`, then removes all but the newest `keep` steps.

    `params` and `rest` are dicts or dataclasses of arrays, typed random keys included;
    `meta` is whatever JSON holds.
    """
    path = _absolute(Path(folder)) / str(step)
    items = {"params": params, "rest": rest}
    if hosts.is_first():
        _remove(path)
        path.mkdir(parents=True)
        _write_json(path / "meta.json", meta)
        _write_json(path / "shapes.json", {name: _shapes(tree) for name, tree in items.items()})
    hosts.gather(f"checkpoint {path}")
    with ocp.StandardCheckpointer() as orbax:
        for name, tree in items.items():
            orbax.save(path / name, jax.tree.map(_key_to_data, tree))
    hosts.gather(f"the end of checkpoint {path}")
    names = hosts.from_first(
        f"the files of {path}", lambda: sorted(file.relative_to(path).as_posix() for file in _files(path))
    )
    digests = hosts.gather(f"the hashes of {path}", {name: _sha256(path / name) for name in _own(names)})
    if hosts.is_first():
        _write_json(path / MANIFEST, {name: digest for part in digests for name, digest in part.items()})
        _prune(path.parent, keep)
    hosts.gather(f"the manifest of {path}")


def latest_step(folder: PathLike[str], until: int | None = None) -> int | None:
    """The newest whole step under `folder`, none after `until`, or None. Damaged steps are set aside."""
    steps = hosts.from_first(f"the steps of {folder}", lambda: _steps(Path(folder)))
    for step in reversed([step for step in steps if until is None or step <= until]):
        path = Path(folder) / str(step)
        fault = _fault(path, ("",))
        if fault is None:
            return step
        if hosts.is_first():
            log.warning("checkpoint %s is damaged (%s): set aside, trying an older one", path, fault)
            (path / MANIFEST).replace(path / DAMAGED)
    return None


def require(workdir: PathLike[str], stage: str, needed_by: str) -> tuple[Path, int]:
    """Folder and newest whole step of an earlier stage, or a `CheckpointError` naming the stage to run."""
    folder = Path(workdir) / "checkpoints" / stage
    step = latest_step(folder)
    if step is None:
        run = stage.split("_")[0]  # sft_10x is trained by stage sft
        raise CheckpointError(
            f"{needed_by} needs the checkpoint of stage '{stage}' in {folder}: run --stage={run} first"
        )
    return folder, step


def restore(folder: PathLike[str], step: int, params: Any, rest: Any) -> tuple[Any, Any, dict]:
    """(params, rest, meta) of a step, laid out as the abstract trees `params` and `rest` say.

    The leaves of the abstract trees have shape, dtype and sharding, on any mesh and any
    number of devices: `jax.ShapeDtypeStruct`s, or arrays to be replaced.
    """
    path = _checked(folder, step, ("params/", "rest/"))
    return _read(path, "params", params), _read(path, "rest", rest), _read_json(path / "meta.json")


def restore_params(folder: PathLike[str], step: int, params: Any) -> Any:
    """The parameters of a step alone, laid out as the abstract tree `params` says."""
    return _read(_checked(folder, step, ("params/",)), "params", params)


def read_meta(folder: PathLike[str], step: int) -> dict:
    """The plain values stored with a step."""
    return _read_json(_checked(folder, step, ()) / "meta.json")


def _read(path: Path, name: str, abstract: Any) -> Any:
    _check_shapes(path, name, abstract)
    with ocp.StandardCheckpointer() as orbax:
        stored = orbax.restore(_absolute(path / name), jax.tree.map(_abstract_data, abstract))
    return jax.tree.map(_data_to_key, abstract, stored)


def _checked(folder: PathLike[str], step: int, parts: tuple[str, ...]) -> Path:
    """The step's folder, its JSON files and the `parts` to be read verified."""
    path = Path(folder) / str(step)
    fault = _fault(path, (*parts, "meta.json", "shapes.json"))
    if fault is not None:
        raise CheckpointError(
            f"checkpoint {path} is damaged ({fault}): remove that folder and start again from the step before"
        )
    return path


def _fault(path: Path, parts: tuple[str, ...]) -> str | None:
    """What is wrong with the files of a step whose names start with one of `parts`, if anything."""
    faults = hosts.gather(f"the check of {path}", _own_fault(path, parts))
    return next((fault for fault in faults if fault is not None), None)


def _own_fault(path: Path, parts: tuple[str, ...]) -> str | None:
    """The same of the files that this process checks."""
    try:
        manifest = _read_json(path / MANIFEST)
    except CheckpointError:
        return f"{MANIFEST} is unreadable"
    for name in _own([name for name in manifest if name.startswith(parts)]):
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if _sha256(file) != manifest[name]:
            return f"{name} is not what was written"
    return None


def _check_shapes(path: Path, name: str, abstract: Any) -> None:
    stored, wanted = _read_json(path / "shapes.json").get(name), _shapes(abstract)
    if not isinstance(stored, dict):
        raise CheckpointError(f"{path / 'shapes.json'}: field {name} should be an object of shapes")
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
    """Removes older steps, and what was never finished."""
    kept = _steps(folder)[-keep:]
    for path in folder.iterdir():
        if path.name.isdigit() and int(path.name) not in kept and not (path / DAMAGED).exists():
            _remove(path)


def _remove(path: Path) -> None:
    """The manifest first: never a step with half its files."""
    (path / MANIFEST).unlink(missing_ok=True)
    path.rmtree(missing_ok=True)


def _absolute(path: Path) -> Path:
    """What Orbax asks for."""
    return path if path.is_absolute() else path.resolve()  # which breaks a gs:// path


def _own(names: list[str]) -> list[str]:
    """This process's part of what all share."""
    return names[jax.process_index() :: jax.process_count()]


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


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
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1))


def _read_json(path: Path) -> dict[str, Any]:
    return read_object(path, CheckpointError)

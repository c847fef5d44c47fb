"""Checkpoints of a stage: `<workdir>/checkpoints/<stage>/<step>/`, written by Orbax.

A step is one folder, on disk or gs://:

    params/        the parameters, an Orbax item
    rest/          optimizer state, step, random key, controllers: what resuming needs beside them
    meta.json      plain values a later stage reads, and what the step is judged by where the best is kept
    shapes.json    shape and dtype of every array: a wrong model is named before anything is read
    manifest.json  SHA-256 of every file above, written last

Object stores cannot rename a folder, so a step is written in its place and the manifest makes it
whole: a folder without one was never finished, is ignored and later removed. Orbax restores an
array file with a flipped byte without a word, so every file is checked against the manifest before
it is read; a step that does not match is set aside, its manifest renamed, and the one before it used.

A save copies the arrays to the host and goes on behind the training: Orbax writes, then one thread
hashes and puts the manifest. On many hosts all call every function here: each writes its own shards
and hashes its part of the files, process 0 writes the rest.

`rlhf-jax checkpoint list|verify|show WORKDIR` looks at them: rlhf_jax/run/listing.py.
"""

import functools
import glob
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from os import PathLike
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils.epath import Path

from rlhf_jax.files import matching
from rlhf_jax.run import hosts, steps
from rlhf_jax.run.hosts import HostsError
from rlhf_jax.run.steps import DAMAGED, MANIFEST, META, SHAPES, CheckpointError

log = logging.getLogger(__name__)

_writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")  # its gathers are a channel of their own


def save(folder: PathLike[str], step: int, *, params: Any, rest: Any, meta: dict, keep: int = 2) -> None:
    """Writes step `step` under `folder`, as `start_save` does, and waits until it is whole."""
    start_save(folder, step, params=params, rest=rest, meta=meta, keep=keep).result()


def start_save(
    folder: PathLike[str], step: int, *, params: Any, rest: Any, meta: dict, keep: int = 2
) -> Future[None]:
    """Begins to write step `step` under `folder`; its result comes once the step is whole.

    Then all but the newest `keep` steps, and the best where `meta` names a metric, are removed. On return
    the arrays are copied to the host: the next update may take their memory. One save is finished before
    the next begins.

    `params` and `rest` are dicts or dataclasses of arrays, typed random keys included; `meta` is whatever
    JSON holds. Raises CheckpointError, here or in the result, where the step cannot be written; those
    before it are whole.
    """
    path = _absolute(Path(folder)) / str(step)
    items = {"params": params, "rest": rest}
    _overhear_closed_loops()
    with _failing_for(path):
        if hosts.is_first():
            _remove_unfinished(path.parent)
            _remove(path)
            path.mkdir(parents=True)
            shapes = {name: _shapes(tree) for name, tree in items.items()}
            steps.write_json(path / META, meta)
            steps.write_json(path / SHAPES, shapes | {"dtypes": {n: _dtypes(t) for n, t in items.items()}})
        hosts.gather(f"checkpoint {path}")
        with ExitStack() as writing:  # closing waits for all, also where one fails
            place = writing.enter_context(_plain(path))
            for name, tree in items.items():
                apart = ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=name)
                orbax = ocp.StandardCheckpointer(multiprocessing_options=apart)
                writing.callback(orbax.close)
                orbax.save(place / name, jax.tree.map(_key_to_data, tree))
            behind = writing.pop_all()
    return _writer.submit(_finish, path, behind, keep)


def _finish(path: Path, writing: ExitStack, keep: int) -> None:
    """Waits for what Orbax writes, then makes the step whole."""
    with _failing_for(path):
        writing.close()
        names = hosts.from_first(f"the files of {path}", lambda: steps.files(path))
        own = {name: steps.sha256(path / name) for name in _own(names)}
        digests = hosts.gather(f"the hashes of {path}", own)
        if hosts.is_first():
            whole = {name: digest for part in digests for name, digest in part.items()}
            steps.write_json(path / MANIFEST, whole)
            _prune(path.parent, keep)
        hosts.gather(f"the manifest of {path}")


def wait_for_saves() -> None:
    """Until what was begun to be saved is written, or has failed."""
    _writer.submit(lambda: None).result()


@functools.cache
def _overhear_closed_loops() -> None:
    """Keeps quiet what says no more than the one line that tells what is wrong.

    Where one array cannot be written, Orbax ends its loop; each thread of TensorStore that comes to it later
    with another array would print a traceback.
    """
    told = sys.unraisablehook

    def tell(unraisable) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            told(unraisable)

    sys.unraisablehook = tell


@contextmanager
def _failing_for(path: Path) -> Iterator[None]:
    """Errors of the file system, a full disk for one, become a CheckpointError, and what was written goes."""
    try:
        yield
    except (OSError, ValueError) as error:
        told = re.match(r"[A-Z_]+: .*: (.*)", str(error), re.DOTALL)  # how TensorStore tells them
        reason = error.strerror if isinstance(error, OSError) else told and told[1].partition(" [")[0]
        if not reason or isinstance(error, HostsError):
            raise
        if hosts.is_first():
            with suppress(OSError):  # without a manifest it is no step; the next save removes the rest
                _remove(path)
        raise CheckpointError(
            f"checkpoint {path} could not be written: {reason}. The steps before it are whole: "
            "the same command resumes once that is mended"
        ) from error


def latest_step(folder: PathLike[str], until: int | None = None) -> int | None:
    """The newest whole step under `folder`, none after `until`, or None. Damaged steps are set aside."""
    return _first_whole(
        Path(folder),
        lambda path: [step for step in steps.finished(path)[::-1] if until is None or step <= until],
    )


def require(workdir: PathLike[str], network: str) -> tuple[Path, int]:
    """Folder and step of a network: its best where that was asked for, else its newest whole one.

    Raises CheckpointError where there is none.
    """
    folder = Path(workdir) / "checkpoints" / network
    step = _first_whole(folder, steps.by_preference)
    if step is None:
        whole = ", ".join(path.name for path in matching(folder.parent, "*") if steps.finished(path))
        raise CheckpointError(
            f"no whole checkpoint in {folder} (there are: {whole or 'none'}): it is trained by the stage "
            "with which its name begins, rlhf-jax run --stage=…"
        )
    return folder, step


def _first_whole(folder: Path, order: Callable[[Path], list[int]]) -> int | None:
    for step in hosts.from_first(f"the steps of {folder}", lambda: order(folder)):
        path = folder / str(step)
        fault = _fault(path, ("",))
        if fault is None:
            return step
        if hosts.is_first():
            log.warning("checkpoint %s is damaged (%s): set aside, trying another one", path, fault)
            (path / MANIFEST).replace(path / DAMAGED)
    return None


def restore(folder: PathLike[str], step: int, params: Any, rest: Any) -> tuple[Any, Any]:
    """(params, rest) of a step, laid out as the abstract trees `params` and `rest` say.

    The leaves of the abstract trees have shape, dtype and sharding, on any mesh and any
    number of devices: `jax.ShapeDtypeStruct`s, or arrays to be replaced.
    """
    path = _checked(folder, step, ("params/", "rest/"))
    return _read(path, "params", params), _read(path, "rest", rest)


def restore_params(folder: PathLike[str], step: int, params: Any) -> Any:
    """The parameters of a step alone, laid out as the abstract tree `params` says."""
    return _read(_checked(folder, step, ("params/",)), "params", params)


def read_meta(folder: PathLike[str], step: int) -> dict:
    """The plain values stored with a step."""
    return steps.read_json(_checked(folder, step, ()) / META)


def _read(path: Path, name: str, abstract: Any) -> Any:
    _check_shapes(path, name, abstract)
    with _plain(_absolute(path)) as place, ocp.StandardCheckpointer() as orbax:
        stored = orbax.restore(place / name, jax.tree.map(_abstract_data, abstract))
    return jax.tree.map(_data_to_key, abstract, stored)


def _checked(folder: PathLike[str], step: int, parts: tuple[str, ...]) -> Path:
    """The step's folder, its JSON files and the `parts` to be read verified."""
    path = Path(folder) / str(step)
    fault = _fault(path, (*parts, META, SHAPES))
    if fault is not None:
        raise CheckpointError(
            f"checkpoint {path} is damaged ({fault}): remove that folder and start again from the step before"
        )
    if hosts.is_first() and (others := steps.strangers(path)):
        log.warning("checkpoint %s holds what is not of it: %s", path, ", ".join(others))
    return path


def _fault(path: Path, parts: tuple[str, ...]) -> str | None:
    """What is wrong with the files of a step whose names start with one of `parts`, if anything."""
    own = steps.fault(path, lambda names: _own([name for name in names if name.startswith(parts)]))
    faults = hosts.gather(f"the check of {path}", own)
    return next((fault for fault in faults if fault is not None), None)


def _check_shapes(path: Path, name: str, abstract: Any) -> None:
    stored, wanted = steps.read_json(path / SHAPES).get(name), _shapes(abstract)
    if not isinstance(stored, dict):
        raise CheckpointError(f"{path / SHAPES}: field {name} should be an object of shapes")
    for leaf in sorted(stored.keys() | wanted.keys()):
        has, wants = stored.get(leaf, "nothing"), wanted.get(leaf, "nothing")
        if has != wants:
            raise CheckpointError(
                f"checkpoint {path} is of another model: {name}{leaf} is {has} there and {wants} here; "
                "use the configuration it was trained with"
            )


def _prune(folder: Path, keep: int) -> None:
    """Removes all but the newest steps, the one that later stages read, and what people may look at."""
    kept = {*steps.finished(folder)[-keep:], *steps.by_preference(folder)[:1]}
    for path in steps.step_folders(folder):
        if int(path.name) not in kept and not (path / DAMAGED).exists():
            _remove(path)


def _remove_unfinished(folder: Path) -> None:
    for path in steps.step_folders(folder):
        if not (path / MANIFEST).exists() and not (path / DAMAGED).exists():
            _remove(path)


def _remove(path: Path) -> None:
    """The manifest first: never a step with half its files."""
    (path / MANIFEST).unlink(missing_ok=True)
    path.rmtree(missing_ok=True)


def _absolute(path: Path) -> Path:
    """What Orbax asks for."""
    return path if path.is_absolute() else path.resolve()  # which breaks a gs:// path


@contextmanager
def _plain(path: Path) -> Iterator[Path]:
    """`path`, or a link to it where it has characters of a pattern: Orbax would look for its files by it."""
    if not glob.has_magic(str(path)):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="rlhf_jax_") as folder:
        link = Path(folder) / "step"
        os.symlink(path, link)
        yield link


def _own(names: list[str]) -> list[str]:
    """This process's part of what all share."""
    return names[jax.process_index() :: jax.process_count()]


def _shapes(tree: Any) -> dict[str, list[int]]:
    return {name: list(leaf.shape) for name, leaf in _leaves(tree)}


def _dtypes(tree: Any) -> dict[str, str]:
    return {name: leaf.dtype.name for name, leaf in _leaves(tree)}


def _leaves(tree: Any) -> list[tuple[str, jax.ShapeDtypeStruct]]:
    leaves, _ = jax.tree.flatten_with_path(jax.tree.map(_abstract_data, tree))
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]


def _is_key(x: Any) -> bool:
    return jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def _key_to_data(x: Any) -> Any:
    return jax.random.key_data(x) if _is_key(x) else x


def _data_to_key(abstract: Any, stored: Any) -> Any:
    return jax.random.wrap_key_data(stored) if _is_key(abstract) else stored


def _abstract_data(x: Any) -> jax.ShapeDtypeStruct:
    data = jax.eval_shape(jax.random.key_data, x) if _is_key(x) else x
    return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=getattr(x, "sharding", None))

"""What the stages of a run have read, by digest: places of texts and models may change, contents may not.

A stage that goes on with other posts, pairs or token ids than it began with trains on, and nobody sees it. So
`progress.json` keeps, for every stage, the digests of what it read.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from rlhf_jax.config import Config
from rlhf_jax.data import task as tasks
from rlhf_jax.data.comparisons import load_comparisons
from rlhf_jax.data.records import Comparison, Record, to_json
from rlhf_jax.data.task import Task
from rlhf_jax.data.tokenizer import JSON_FILE, MODEL_FILE, Tokenizer, load_tokenizer
from rlhf_jax.files import matching
from rlhf_jax.model import pretrained
from rlhf_jax.run import hosts, steps
from rlhf_jax.run import workdir as runs

TOKENIZER = "tokenizer"  # the name that the run's own is held under


class InputError(ValueError):
    """Texts or a model that changed since a stage read them; the message says which and what to do."""


def hold(
    workdir: Path,
    stage: str,
    tokenizer: Tokenizer | None = None,
    networks: Sequence[str] = (),
    bases: Mapping[str, str] = {},
    **records: Sequence[Record] | Sequence[Comparison],
) -> None:
    """Keeps the digests of what a stage reads: `posts=` for those of data.posts, networks and bases by name.

    Raises InputError where one is not what the stage began with, nor what finished stages read, and where the
    hosts of a run read different things.
    """
    read = {f"data.{name}": _of_records(found) for name, found in records.items()}
    read |= {TOKENIZER: _of_tokenizer(tokenizer)} if tokenizer else {}
    read |= {f"checkpoints/{name}": _of_network(workdir, name) for name in networks}
    read |= {field: _of_base(name) for field, name in bases.items()}
    for other in hosts.gather(f"what stage {stage} reads", read):
        for name in read:
            if other[name] != read[name]:
                raise InputError(f"{name}: the hosts of the run read {other[name]}, and {read[name]}")
    held = _held(workdir, stage)
    for name, digest in read.items():
        if held.get(name, digest) != digest:
            raise InputError(
                f"{name}: what stage {stage} reads has changed since this run read it ({held[name]} then, "
                f"{digest} now): restore it, or use another --workdir, where --fork={workdir} goes on with it"
            )
    if hosts.is_first():
        runs.record_stage(workdir, stage, read=runs.inputs(workdir).get(stage, {}) | read)


def _held(workdir: Path, stage: str) -> dict[str, str]:
    """What finished stages have read, and `stage` itself, where it has trained already."""
    begun = any(steps.finished(folder) for folder in matching(workdir / "checkpoints", f"{stage}*"))
    held: dict[str, str] = {}
    for name, read in runs.inputs(workdir).items():
        if begun if name == stage else runs.stage_done(workdir, name):
            held |= read
    return held


def same(config: Config) -> runs.Same:
    """(work folder, field) → whether the field names a place, at which lies what that run has read.

    A place that no stage of it has read yet is as good as any. Folders of versions that kept no digests do
    not tell.
    """

    def is_same(workdir: Path, field: str) -> bool:
        stages = runs.inputs(workdir)
        held = {name: digest for read in stages.values() for name, digest in read.items()}
        name = TOKENIZER if field == "data.tokenizer" else field
        if field not in CONTENTS:
            return False
        return held[name] == CONTENTS[field](config) if name in held else bool(held) or not stages

    return is_same


def _of_records(found: Iterable[Record | Comparison]) -> str:
    lines = [json.dumps(to_json(record), sort_keys=True) for record in found]
    return f"{len(lines):,} records, {_sha256(lines)}"


def _of_tokenizer(tokenizer: Tokenizer) -> str:
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder)
        files = [file for name in (MODEL_FILE, JSON_FILE) if (file := Path(folder) / name).exists()]
        return f"{tokenizer.vocab_size:,} tokens, {_of_files(files)}"


def _of_base(name: str) -> str:
    folder = pretrained.folder_of(name)
    files = [*matching(folder, "config.json"), *matching(folder, "*.safetensors")]
    return f"{len(files)} files, {_of_files(files)}"


def _of_network(workdir: Path, name: str) -> str:
    folder = workdir / "checkpoints" / name
    step = steps.by_preference(folder)[0]
    return f"step {step}, {_of_files([folder / str(step) / steps.MANIFEST])}"


def _of_files(files: Iterable[Path]) -> str:
    return _sha256(map(steps.sha256, files))


def _sha256(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode())
    return digest.hexdigest()[:16]


def _task(config: Config) -> Task:
    return tasks.find(config.data, config.seed)


CONTENTS: dict[str, Callable[[Config], str]] = {  # of fields that name places: the digest of what lies there
    "data.posts": lambda config: _of_records(_task(config).records()["train"]),
    "data.queries": lambda config: _of_records(_task(config).queries()),
    "data.comparisons": lambda config: _of_records(load_comparisons(config.data, config.reward.batches)),
    "data.tokenizer": lambda config: _of_tokenizer(load_tokenizer(Path(config.data.tokenizer).expanduser())),
    "model.pretrained": lambda config: _of_base(config.model.pretrained),
    "sft.bigger_pretrained": lambda config: _of_base(config.sft.bigger_pretrained),
}

"""What the stages of a run have read, by digest: places of texts and models may change, contents may not.

A stage that goes on with other posts, pairs or token ids than it began with trains on, and nobody sees it. So
`progress.json` keeps, for every stage, the digests of what it read.
"""

import functools
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from rlhf_jax.config import Config
from rlhf_jax.data import task as tasks
from rlhf_jax.data.comparisons import load_comparisons
from rlhf_jax.data.record_json import to_json
from rlhf_jax.data.records import Comparison, Record
from rlhf_jax.data.task import Task
from rlhf_jax.data.tokenizer import GENERATION_FILE, JSON_FILE, MODEL_FILE, TEMPLATE_FILE, Tokenizer
from rlhf_jax.files import matching, named_by
from rlhf_jax.model import pretrained
from rlhf_jax.run import hosts, steps
from rlhf_jax.run import workdir as runs
from rlhf_jax.run.stored_config import flatten, to_dict

TOKENIZER_FILES = (MODEL_FILE, JSON_FILE, TEMPLATE_FILE, GENERATION_FILE)  # of which there are some
TOKENIZER = "tokenizer"  # the name that the run's own is held under
OF_DATA = ("data.posts", "data.queries", "data.comparisons")  # texts, which a fork may have others of


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
    read |= {field: of_base(name) for field, name in bases.items()}
    for other in hosts.gather(f"what stage {stage} reads", read):
        for name in read:
            if other[name] != read[name]:
                raise InputError(f"{name}: the hosts of the run read {other[name]}, and {read[name]}")
    stages, held = runs.inputs(workdir), _held(workdir, stage)
    for name, digest in read.items():
        if held.get(name, digest) != digest:
            fork = f", where --fork={workdir} goes on with it" if name in OF_DATA and len(stages) > 1 else ""
            raise InputError(
                f"{name}: what stage {stage} reads has changed since this run read it ({held[name]} then, "
                f"{digest} now): restore it, or use another --workdir{fork}"
            )
    if hosts.is_first():
        runs.record_stage(workdir, stage, read=(stages.get(stage) or {}) | read)


def _held(workdir: Path, stage: str) -> dict[str, str]:
    """What finished stages have read, and `stage` itself, where it has trained already."""
    begun = any(steps.finished(folder) for folder in matching(workdir / "checkpoints", f"{stage}*"))
    stages = runs.inputs(workdir)
    return _merged(stages, [s for s in stages if (begun if s == stage else runs.stage_done(workdir, s))])


def _merged(stages: Mapping[str, dict[str, str] | None], wanted: Iterable[str]) -> dict[str, str]:
    """The digests of several stages, by name."""
    return {name: digest for stage in wanted for name, digest in (stages[stage] or {}).items()}


def same(config: Config) -> runs.Same:
    """(work folder, field) → whether the field names a place, at which lies what that run has read.

    A place that no stage of it has read yet is as good as any. Folders of versions that kept no digests do
    not tell.
    """

    def is_same(workdir: Path, field: str) -> bool:
        own = {"data.tokenizer": (TOKENIZER,), "data.files": OF_DATA}.get(field, (field,))
        names = [name for name in CONTENTS if name.partition(" ")[0] in own]
        if not names or not _is_here(flatten(to_dict(config))[field]):
            return False
        stages = runs.inputs(workdir)
        held = _merged(stages, stages)
        known = [name for name in names if name in held]
        if not known:
            return None not in stages.values()
        return all(held[name] == CONTENTS[name](config) for name in known)

    return is_same


def others(config: Config, workdir: Path) -> list[str]:
    """Lines of the fields of texts at whose places lies something else than what a run in `workdir` read."""
    stages = runs.inputs(workdir)
    held, places = _merged(stages, stages), flatten(to_dict(config))
    here = [name for name in OF_DATA if name in held and _is_here(places[name] or places["data.files"])]
    now = {name: CONTENTS[name](config) for name in here}
    return [f"{name}: {held[name]} → {now[name]}" for name in now if now[name] != held[name]]


def _is_here(place: str) -> bool:
    """Whether a place can be looked at without downloading anything."""
    return bool(place) and not place.startswith("tfds:") and bool(named_by(place))


def _of_records(found: Iterable[Record | Comparison]) -> str:
    lines = [json.dumps(to_json(record), sort_keys=True) for record in found]
    return f"{len(lines):,} records, {_sha256(lines)}"


def _of_tokenizer(tokenizer: Tokenizer) -> str:
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder)
        files = [file for name in TOKENIZER_FILES if (file := Path(folder) / name).exists()]
        return f"{tokenizer.vocab_size:,} tokens, {_of_files(files)}"


def of_base(name: str) -> str:
    """The digest of a pretrained model or an adapter."""
    folder = pretrained.folder_of(name)
    described = [file for name in ("config.json", pretrained.ADAPTER) for file in matching(folder, name)]
    files = [*described, *matching(folder, "*.safetensors")]
    seen = ((file, file.stat()) for file in files)
    digests = [_of_unchanged(file, (now.st_ino, now.st_size, now.st_mtime_ns)) for file, now in seen]
    return f"{len(files)} files, {_sha256(digests)}"


@functools.cache
def _of_unchanged(file: Path, state: tuple[int, ...]) -> str:
    """The digest of a file, which a process reads once as long as inode, size and time of change stay.

    Networks of one base each ask for it, and its weights may be gigabytes.
    """
    del state
    return steps.sha256(file)


def _of_network(workdir: Path, name: str) -> str:
    folder = workdir / "checkpoints" / name
    step = next(iter(steps.by_preference(folder)), None)
    if step is None:
        return "no step"
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
    "data.posts (valid)": lambda config: _of_records(_task(config).records().get("valid", [])),
    "data.posts (test)": lambda config: _of_records(_task(config).records().get("test", [])),
    "data.queries": lambda config: _of_records(_task(config).queries()),
    "data.comparisons": lambda config: _of_records(load_comparisons(config.data, config.reward.batches)),
    TOKENIZER: lambda config: _of_tokenizer(
        _task(config).load_tokenizer(Path(config.data.tokenizer).expanduser())
    ),
    "model.pretrained": lambda config: of_base(config.model.pretrained),
    "model.lora.start": lambda config: of_base(config.model.lora.start),
    "sft.bigger_pretrained": lambda config: of_base(config.sft.bigger_pretrained),
}

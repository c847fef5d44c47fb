"""A run that goes on from another one: `--fork=OTHER` of rlhf_jax/main.py, and every round.

The finished stages of the other folder are taken over, but for those whose part of the configuration
differs, and those that need one of these: with another `ppo.kl_coef`, PPO alone runs anew; with other
comparisons SFT alone is taken over. Other data does not count. Files of checkpoints
are never written to again, so they are linked where the file system can, and copied where not: the two
folders share bytes, and removing one leaves the other. What was taken over stands in `fork.json`.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from etils.epath import Path

from rlhf_jax.config import Config
from rlhf_jax.files import matching
from rlhf_jax.run import steps
from rlhf_jax.run import workdir as runs
from rlhf_jax.run.stored_config import differences, to_dict
from rlhf_jax.run.workdir import Same, WorkdirError


class Row(Protocol):
    """What is asked of a stage here: rlhf_jax/pipeline/stages.py."""

    @property
    def name(self) -> str: ...
    @property
    def needs(self) -> tuple[str, ...]: ...
    @property
    def fields(self) -> tuple[str, ...]: ...
    @property
    def files(self) -> tuple[str, ...]: ...


def fork(
    config: Config,
    source: Path,
    workdir: Path,
    rows: Sequence[Row],
    same: Same = lambda workdir, field: False,
    others: Callable[[Path], list[str]] = lambda workdir: [],
) -> None:
    """Makes `workdir` a new run of `config` with what it shares with the one in `source`, and says so.

    `rows` are the stages, in order; one that leaves nothing to take over, as evaluation does, has no fields,
    and one that names no needs reads from all before it. A field that is the `same` makes no difference.

    Does nothing where `workdir` is that run already: the same command resumes. Raises WorkdirError where
    it is another run, where the model differs, or where no stage can be taken over.
    """
    record = workdir / "fork.json"
    if (workdir / "config.json").exists():
        if not record.exists() or steps.read_json(record)["from"] != str(source):
            raise WorkdirError(f"{workdir} is a run of its own: --fork makes a new one, in another --workdir")
        return
    stored = to_dict(runs.read_config(source))
    changed = [line for line in differences(config, stored) if not same(source, line.partition(":")[0])]
    changed += others(source)
    fields = [line.partition(":")[0] for line in changed]
    stages: list[str] = []
    anew: set[str] = set()
    for i, row in enumerate(rows):
        needs = row.needs or [before.name for before in rows[:i]]
        if any(field.startswith(row.fields) for field in fields) or anew.intersection(needs):
            anew.add(row.name)
        elif row.fields and runs.stage_done(source, row.name):
            stages.append(row.name)
    if not stages:
        raise WorkdirError(
            f"{source} has no finished stage to go on from ({'; '.join(changed) or 'the same configuration'})"
        )
    runs.lock(workdir)
    take_over(source, workdir, {stage: stage for stage in stages}, rows)
    steps.write_json(record, {"from": str(source), "stages": stages, "differences": changed})
    print(f"{workdir}: {', '.join(stages)} of {source}; {'; '.join(changed) or 'the same configuration'}")


def take_over(source: Path, workdir: Path, stages: Mapping[str, str], rows: Sequence[Row]) -> None:
    """Puts what finished stages left in `source` into `workdir`, and marks them finished there.

    `stages` maps their names here to those there: {"sft": "sft_10x"} goes on with the larger model. `rows`
    are all stages. What they read of the data is theirs alone: later stages here may read something else.
    """
    files = {row.name: row.files for row in rows}
    for stage, theirs in stages.items():
        if runs.stage_done(workdir, stage):
            continue
        for pattern in files[stage]:
            for file in matching(source, pattern):
                _copy(file, workdir / file.name)
        for pattern in (theirs, f"{theirs}_*"):  # sft and sft_10x
            for file in matching(source, f"metrics/{pattern}.jsonl"):
                name = file.name.replace(theirs, stage, 1)
                _copy(file, workdir / "metrics" / name)  # a run may write to its own
            for training in matching(source, f"checkpoints/{pattern}"):
                _link_steps(training, workdir / "checkpoints" / training.name.replace(theirs, stage, 1))
        read = (runs.inputs(source).get(theirs) or {}).items()
        kept = {name: digest for name, digest in read if not name.startswith("data.")}
        runs.record_stage(workdir, stage, runs.read_seconds(source).get(theirs, 0.0), done=True, read=kept)


def _link_steps(theirs: Path, ours: Path) -> None:
    """The finished steps of a training; a manifest comes last here, too."""
    for step in steps.finished(theirs):
        names = [f"{step}/{name}" for name in steps.files(theirs / str(step))]
        for name in sorted(names, key=lambda name: name.endswith(f"/{steps.MANIFEST}")):
            _link(theirs / name, ours / name)


def _link(theirs: Path, ours: Path) -> None:
    ours.parent.mkdir(parents=True, exist_ok=True)
    ours.unlink(missing_ok=True)  # of a start that was ended in its midst
    try:
        os.link(theirs, ours)
    except OSError:  # another file system, or one without links
        _copy(theirs, ours)


def _copy(theirs: Path, ours: Path) -> None:
    ours.parent.mkdir(parents=True, exist_ok=True)
    with theirs.open("rb") as source, ours.open("wb") as target:
        shutil.copyfileobj(source, target)

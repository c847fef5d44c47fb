"""Runs beside each other: what each has come to, where they differ, which are seeds of one setting."""

import functools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from etils.epath import Path
from jaxtyping import Float

from rlhf_jax.evaluation.intervals import Estimate, over_seeds
from rlhf_jax.files import read_object
from rlhf_jax.report.figures import figures
from rlhf_jax.report.page import ReportError, named_logs
from rlhf_jax.run import storage
from rlhf_jax.run import workdir as runs
from rlhf_jax.run.stored_config import stored_fields
from rlhf_jax.training.metrics import read_metrics

Records = list[dict[str, float]]


@dataclass(frozen=True)
class Run:
    """What lies in a work folder. A run that still goes, or was stopped, has less of it."""

    name: str  # as much of the folder's path as tells it from the others
    workdir: Path
    fields: Mapping[str, Any]  # of the configuration, by dotted names
    results: Mapping[str, Any]  # of the evaluation; empty before it
    logs: Mapping[str, Records]  # of each training: that of metrics/<name>.jsonl
    titles: Mapping[str, str]  # training → what people call it
    networks: Mapping[str, str]  # network → what people call it
    progress: str  # how far it has come

    @property
    def seed(self) -> int:
        return self.fields["seed"]

    @functools.cached_property
    def figures(self) -> dict[str, Estimate]:
        return figures(self.results)


@dataclass(frozen=True)
class Setting:
    """Runs whose configurations differ in the seed alone, in the order of their seeds; one, or several."""

    runs: Sequence[Run]

    @property
    def name(self) -> str:
        names = [run.name for run in self.runs]
        return ", ".join(names) if len(names) < 3 else f"{names[0]} … {names[-1]}"

    def figure(self, name: str) -> Estimate | None:
        """That of a lone run, whose interval is over posts; or the mean of those that have it, over seeds."""
        found = [run.figures[name] for run in self.runs if name in run.figures]
        if len(found) < 2:
            return found[0] if found else None
        return over_seeds([estimate["value"] for estimate in found])


def read_runs(places: Sequence[str | PathLike[str]]) -> list[Run]:
    """The runs in these folders, each once. Raises WorkdirError where a folder is none of a run."""
    given = list({str(path): path for path in (Path(place).resolve() for place in places)}.values())
    return [read_run(path, name) for path, name in zip(given, short_names(given), strict=True)]


def read_run(workdir: Path, name: str) -> Run:
    fields = stored_fields(runs.read_stored(workdir))
    with storage.explained(workdir):
        stages, networks = runs.labels(workdir), runs.networks(workdir)
        files = named_logs(workdir / "metrics", stages, networks)
        logs = {path.stem: read_metrics(path) for path in files.values()}
        return Run(
            name=name,
            workdir=workdir,
            fields=fields,
            results=_results(workdir / "results.json"),
            logs={name: records for name, records in logs.items() if records},
            titles={path.stem: title for title, path in files.items()},
            networks=networks,
            progress=progress(workdir, stages, logs),
        )


def _results(path: Path) -> dict[str, Any]:
    """Those of a run; empty where it is not evaluated yet."""
    found = read_object(path, ReportError, missing={})
    if found and not ({"split", "posts"} <= found.keys() and isinstance(found.get("policies"), dict)):
        raise ReportError(
            f"{path}: not as an evaluation writes it; `rlhf-jax run --stage=eval` makes it again"
        )
    return found


def progress(workdir: Path, stages: Mapping[str, str], logs: Mapping[str, Records]) -> str:
    """Which stage has come last, and how far it is if it has not finished."""
    if not stages:
        return "not started"
    unfinished = runs.stages_interrupted(workdir)
    stage = unfinished[-1] if unfinished else list(stages)[-1]
    records = logs.get(stage)
    steps = f", {int(records[-1]['step']) + 1:,} steps" if records else ""
    return f"{stages[stage]}{steps}, not finished" if unfinished else f"{stages[stage]} finished"


def short_names(paths: Sequence[Path]) -> list[str]:
    """The last parts of each path, as few as no other one has."""
    return [_short_name(path, [other for other in paths if other != path]) for path in paths]


def _short_name(path: Path, others: Iterable[Path]) -> str:
    parts = path.parts
    for count in range(1, len(parts)):
        if all(other.parts[-count:] != parts[-count:] for other in others):
            return "/".join(parts[-count:])
    return str(path)


def settings(found: Sequence[Run]) -> list[Setting]:
    """Runs grouped; of two that differ in nothing, each is in a setting of its own."""
    groups: dict[tuple[str, int], list[Run]] = {}
    seen: Counter[str] = Counter()
    for run in found:
        fields = {name: value for name, value in run.fields.items() if name != "seed"}
        written = json.dumps(fields, sort_keys=True)
        with_seed = f"{run.seed} {written}"
        groups.setdefault((written, seen[with_seed]), []).append(run)
        seen[with_seed] += 1
    return [Setting(sorted(group, key=lambda run: run.seed)) for group in groups.values()]


def differing_fields(found: Sequence[Run]) -> list[str]:
    """Fields in which the configurations differ, but for the seed, in the order of the configuration."""
    names = dict.fromkeys(name for run in found for name in run.fields if name != "seed")
    values = {name: [json.dumps(run.fields.get(name)) for run in found] for name in names}
    return [name for name in names if len(set(values[name])) > 1]


def means(records: Records, name: str, width: int, count: int) -> Float[np.ndarray, "count"]:
    """Means of a metric over `count` parts of `width` steps; NaN where a part has no number."""
    sums, numbers = np.zeros(count), np.zeros(count)
    for record in records:
        if name in record and np.isfinite(record[name]):
            sums[int(record["step"]) // width] += record[name]
            numbers[int(record["step"]) // width] += 1
    return np.divide(sums, numbers, out=np.full(count, np.nan), where=numbers > 0)


def ending(records: Records) -> dict[str, float]:
    """Metric → its mean over the last tenth of the steps; those that are no number there do not count."""
    last = records[-max(1, len(records) // 10) :]
    names = dict.fromkeys(name for record in last for name in record if name != "step")
    found = {name: [one[name] for one in last if name in one and np.isfinite(one[name])] for name in names}
    return {name: float(np.mean(values)) for name, values in found.items() if values}

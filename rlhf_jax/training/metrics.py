"""Metrics of a stage: JSON lines, TensorBoard, a service that watches runs, and a bar; one step late."""

import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from os import PathLike
from types import MappingProxyType
from typing import Any, Self

import jax
from etils.epath import Path
from tqdm import tqdm

from rlhf_jax.data.record_json import parse_line
from rlhf_jax.data.records import RecordError
from rlhf_jax.files import matching, naming, write_text
from rlhf_jax.run import hosts
from rlhf_jax.training.tracking import Table, Tracker, group_of


class MetricsLog:
    """Writes `metrics/<stage>.jsonl` and `tensorboard/<stage>/`, tells a tracker, and shows a progress bar.

    `log` holds a step's metrics until the next call, so that fetching them never waits
    for the step just dispatched. Call `flush` before saving a checkpoint: a resumed run
    then finds the record of every step before it. Records of `resume_step` and later,
    left by a run that was stopped after its checkpoint, are dropped.

    Of many hosts, process 0 writes and shows. An object store cannot append: there the logs grow
    in a local folder, and `flush` puts what they hold in their place, and sends to the tracker.
    """

    def __init__(
        self,
        workdir: PathLike[str],
        stage: str,
        resume_step: int,
        total: int,
        shown: tuple[str, ...] = (),
        watch: Callable[[int, dict[str, float]], list[str]] = lambda step, values: [],
        track: str = "",
        fields: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """`total` counts the steps of the whole stage; `shown` names the metrics beside the bar.

        What `watch(step, metrics)` has to say is written as warnings. Every process asks its own, so that
        an error that it raises ends all of them after the same step. `track` is a service of tracking.py, and
        `fields` are the hyperparameters, which it and TensorBoard show.
        """
        self._watch = watch
        self._held: tuple[int, dict[str, Any], dict[str, Any], float] | None = None
        self._clock = time.monotonic()
        self._silent = not hosts.is_first()
        if self._silent:
            return
        from rlhf_jax.training.tensorboard import EventFile  # it takes long to import

        self._place = self._local = Path(workdir)
        if "://" in str(self._place):
            self._local = Path(tempfile.mkdtemp(prefix="rlhf_jax_metrics_"))
        self.path = self._local / "metrics" / f"{stage}.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        source = self._place / "metrics"
        before = _copy_before(resume_step, source / self.path.name, self.path)
        self._events = EventFile(self._local / "tensorboard" / stage, resume_step)
        if fields:
            self._events.hyperparameters(resume_step, fields)
        self._tracker = None
        if track:
            self._tracker = Tracker(track, group_of(self._place), stage, fields, source, self.path.parent)
            self._tracker.hold(map(_step_and_values, before))
            self._tracker.send()
        self._bar = hosts.progress_bar(total, stage, initial=resume_step)
        self._shown, self._first = shown, resume_step

    def log(self, step: int, metrics: dict[str, Any], **read: Any) -> None:
        """Holds the scalars of `step` and writes those of the step before it.

        `read` counts what the step read, such as tokens=9000: written a second, as `tokens_per_second`.
        """
        self._write_held()
        now = time.monotonic()
        self._held, self._clock = (step, metrics, read, now - self._clock), now

    def flush(self) -> None:
        """Writes the step that is held, waiting for it if it still runs."""
        self._write_held()
        if self._silent:
            return
        if self._tracker:
            self._tracker.send()
        if self._local != self._place:
            with naming(self.path):
                self._events.flush()
            _put(self._local, self._place)

    def _write_held(self) -> None:
        if self._held is None:
            return
        step, metrics, read, seconds = self._held
        self._held = None
        metrics, read = jax.device_get((metrics, read))
        values = {name: float(value) for name, value in metrics.items()}
        values |= {f"{unit}_per_second": float(amount) / seconds for unit, amount in read.items()}
        if not self._silent:
            self._write(step, values)
        for warning in self._watch(step, values):
            if not self._silent:
                tqdm.write(f"WARNING step {step}: {warning}", file=sys.stderr)

    def _write(self, step: int, values: dict[str, float]) -> None:
        # JSON has no NaN or infinity: they become "nan", "inf" and "-inf", which `float` reads back.
        line = json.dumps({"step": step} | {n: v if math.isfinite(v) else str(v) for n, v in values.items()})
        with naming(self.path):
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
            self._events.write(step, values)
        if self._tracker:
            self._tracker.hold([(step, values)])
            if self._local == self._place:  # else its record is not there before `flush`
                self._tracker.send()
        self._bar.set_postfix({n: f"{values[n]:.4g}" for n in self._shown if n in values}, refresh=False)
        if step > self._first:
            self._bar.update(step + 1 - self._bar.n)
            return
        # It compiles, which tells nothing of the time that the others take: these are counted from here.
        self._bar.initial = self._bar.last_print_n = self._bar.n = step + 1
        self._bar.unpause()
        self._bar.refresh()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception) -> None:
        try:
            self.flush()
        finally:
            self._close()

    def _close(self) -> None:
        if self._silent:
            return
        self._bar.close()
        with suppress(OSError):  # of a full disk `flush` has told
            self._events.close()
        if self._tracker:
            self._tracker.close()
            if self._local != self._place:
                _put(self._local, self._place)  # with what the service kept until its end
        if self._local != self._place:
            self._local.rmtree()


def show_results(
    workdir: Path,
    stage: str,
    track: str,
    fields: Mapping[str, Any],
    values: Mapping[str, float],
    samples: Table,
) -> None:
    """Shows what a stage without steps came to, in TensorBoard and to a tracker.

    `values` are its figures. To the tracker every evaluation of a work folder is a step.
    """
    from rlhf_jax.training.tensorboard import EventFile

    with tempfile.TemporaryDirectory(prefix="rlhf_jax_metrics_") as temporary:
        local = Path(temporary)  # since neither file grows in an object store
        events = EventFile(local / "tensorboard" / stage, 0)
        events.hyperparameters(0, fields, list(values))
        events.write(0, values)
        events.table(0, "samples", *samples)
        events.close()
        if track:
            (local / "metrics").mkdir()
            tracker = Tracker(track, group_of(workdir), stage, fields, workdir / "metrics", local / "metrics")
            tracker.hold([(tracker.next, values)], samples)
            tracker.send()
            tracker.close()
        _put(local, workdir)


def _put(local: Path, place: Path) -> None:
    """Copies logs into a work folder."""
    for file in (*matching(local, "metrics/*"), *matching(local, "tensorboard/*/*")):
        target = place / file.relative_to(local)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())


def read_metrics(path: PathLike[str]) -> list[dict[str, float]]:
    """Records in order, non-finite values as floats; a last line cut off by a kill is left out."""
    return [record for _, record in _records(Path(path))]


def _records(path: Path) -> Iterator[tuple[bytes, dict[str, float]]]:
    """Lines and what they hold. Raises RecordError naming file, line and field."""
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        yield line, parse_line(line, _record, f"{path}, line {number}")


def _record(value: Any) -> dict[str, float]:
    if not isinstance(value, dict):
        raise RecordError("the line should be a JSON object of numbers; remove it")
    if type(value.get("step")) is not int:
        raise RecordError("field step should be a whole number; correct it or remove the line")
    return {name: _number(name, item) for name, item in value.items()}


def _copy_before(step: int, source: Path, target: Path) -> list[dict[str, float]]:
    """Copies the records of steps before `step`, and returns them; `target` may be `source`."""
    try:
        kept = [(line, record) for line, record in _records(source) if record["step"] < step]
    except FileNotFoundError:  # of a store that does not answer, exists() says no
        kept = []
    write_text(target, "".join(line.decode() + "\n" for line, _ in kept))
    return [record for _, record in kept]


def _step_and_values(record: dict[str, float]) -> tuple[int, dict[str, float]]:
    return int(record["step"]), {name: value for name, value in record.items() if name != "step"}


def _number(name: str, value: Any) -> float:
    if value in ("nan", "inf", "-inf"):
        return float(value)
    if type(value) not in (int, float):
        raise RecordError(
            f"field {name} should be a number, not {json.dumps(value)}; correct it or remove the line"
        )
    return value

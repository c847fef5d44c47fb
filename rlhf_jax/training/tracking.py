"""Every step of a training sent to a service that watches runs, once: `--config.track=wandb|trackio|mlflow`.

A training is a run there, and so is an evaluation, in a group with the name of the work folder; so the steps
keep the numbers that they have in the loop. Beside the log lies `metrics/<training>.<service>`: the id of the
run there, then a line for each step that was sent. After a resume the service gets what it lacks and nothing
twice, though steps behind the last checkpoint are made again.

A service that fails ends no run: it is told in one line, and what was not sent is sent once it answers again.
"""

import importlib
import os
import sys
import time
import uuid
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from etils.epath import Path
from tqdm import tqdm

from rlhf_jax.files import naming, write_text

PROJECT = "rlhf_jax"  # where the service's own variable names no other
RETRY_SECONDS = 600  # between attempts at a service that failed: one may wait for a minute and a half
PATIENCE = {  # of the services' own variables, where they are not set: a run does not wait longer for them
    "WANDB_FINISH_TIMEOUT": "60",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}


class TrackError(ValueError):
    """A service whose package is not installed."""


class Table(NamedTuple):
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


class Service(Protocol):
    """What is asked of a service, by the three calls of its package: begin, log, finish."""

    keeps: int  # steps that are lost if the process is killed: the newest, until others come or it finishes

    def begin(self, group: str, name: str, identity: str, fields: Mapping[str, Any]) -> str:
        """Goes on with the run `identity`, or begins one where that is empty. Returns its id."""

    def log(self, step: int, values: Mapping[str, float], table: Table | None) -> None:
        """Sends the values of a step, and a table of samples."""

    def finish(self) -> None:
        """Waits until all is sent."""


class Wandb:
    """Weights & Biases, whose files are written where WANDB_DIR says, or here."""

    name = "wandb"
    keeps = 1  # since more may be said of that step

    def __init__(self) -> None:
        self._package = _package(self.name)

    def begin(self, group: str, name: str, identity: str, fields: Mapping[str, Any]) -> str:
        identity = identity or uuid.uuid4().hex[:8]
        self._init(group, name, identity, dict(fields), id=identity)
        return identity

    def _init(self, group: str, name: str, identity: str, fields: dict[str, Any], **own: Any) -> None:
        project = os.environ.get(f"{self.name.upper()}_PROJECT", PROJECT)
        self._package.init(project=project, group=group, name=name, config=fields, resume="allow", **own)

    def log(self, step: int, values: Mapping[str, float], table: Table | None) -> None:
        told: dict[str, Any] = dict(values)
        if table:
            told["samples"] = self._package.Table(columns=list(table.columns), data=list(table.rows))
        self._package.log(told, step=step)

    def finish(self) -> None:
        self._package.finish()


class Trackio(Wandb):
    """Trackio has the calls of Weights & Biases, but knows a run by its name alone, which holds the id."""

    name = "trackio"
    keeps = 0

    def begin(self, group: str, name: str, identity: str, fields: Mapping[str, Any]) -> str:
        identity = identity or uuid.uuid4().hex[:8]
        self._init(group, f"{name} {identity}", identity, dict(fields))
        return identity


class Mlflow:
    """MLflow, where its own variables say."""

    keeps = 0

    def __init__(self) -> None:
        self._package = _package("mlflow")

    def begin(self, group: str, name: str, identity: str, fields: Mapping[str, Any]) -> str:
        if identity:
            self._package.start_run(run_id=identity)
            return identity
        if "MLFLOW_EXPERIMENT_NAME" not in os.environ:
            self._package.set_experiment(PROJECT)
        run = self._package.start_run(run_name=name, tags={"group": group})
        self._package.log_params(dict(fields))
        return run.info.run_id

    def log(self, step: int, values: Mapping[str, float], table: Table | None) -> None:
        self._package.log_metrics(dict(values), step=step)
        if table:
            columns = zip(*table.rows, strict=True)
            self._package.log_table(dict(zip(table.columns, map(list, columns), strict=True)), "samples.json")

    def finish(self) -> None:
        self._package.end_run()


def _package(name: str) -> Any:
    for variable, value in PATIENCE.items():
        os.environ.setdefault(variable, value)
    return importlib.import_module(name)


SERVICES: dict[str, type[Service]] = {"wandb": Wandb, "trackio": Trackio, "mlflow": Mlflow}


def require(service: str) -> None:
    """Raises TrackError where the package of a service is wanted and not installed."""
    if service:
        try:
            _package(service)
        except ImportError as error:
            raise TrackError(
                f"track: {service} cannot be imported ({error}): pip install 'rlhf-jax[{service}]', "
                "or leave --config.track out"
            ) from None


class Tracker:
    """Sends the steps of one log to a service. What goes wrong there is a warning and never an error."""

    def __init__(
        self, service: str, group: str, log: str, fields: Mapping[str, Any], source: Path, folder: Path
    ) -> None:
        """`fields` are the hyperparameters. The record of what was sent is read from `source`, the folder of
        the logs, and kept in `folder`, which may be the same one."""
        self._name = service
        self._service: Service | None = None
        self._about = group, f"{group}/{log}"
        self._fields = fields
        self._record = folder / f"{log}.{service}"
        self._identity, sent = _read(source / self._record.name)
        self._keep("".join(f"{line}\n" for line in (self._identity, *sent)) if self._identity else "")
        self.next = sent[-1] + 1 if sent else 0  # the first step that was not sent
        self._waiting: deque[tuple[int, Mapping[str, float], Table | None]] = deque()
        self._taken: deque[int] = deque()  # steps that are not in the record yet
        self._failed: float | None = None  # when the service did last

    def hold(self, steps: Iterable[tuple[int, Mapping[str, float]]], table: Table | None = None) -> None:
        """Steps to send, but those that were sent."""
        self._waiting.extend((step, values, table) for step, values in steps if step >= self.next)

    def send(self, last: bool = False) -> None:
        """Sends what is held. A service that has failed is asked again after a while, and the `last` time."""
        if self._failed is not None and not last and time.monotonic() - self._failed < RETRY_SECONDS:
            return
        try:
            self._begin()
            while self._waiting:
                self._send_one()
        except Exception as error:  # of another package, which may raise anything
            self._fail(error)
        else:
            self._failed = None

    def close(self) -> None:
        """Sends the rest, and waits for the service to have it."""
        if self._waiting:
            self.send(last=True)
        if self._waiting:
            self._warn(f"{len(self._waiting)} steps were not sent; the files in metrics/ have them")
        if self._service:
            try:
                self._service.finish()
            except Exception as error:
                self._warn(_reason(error))
            self._note(0)

    def _begin(self) -> None:
        if self._service:
            return
        service = SERVICES[self._name]()
        identity = service.begin(*self._about, self._identity, self._fields)
        self._service = service
        if not self._identity:
            self._identity = identity
            self._keep(f"{identity}\n")

    def _send_one(self) -> None:
        assert self._service
        step, values, table = self._waiting[0]
        self._service.log(step, values, table)
        self._waiting.popleft()
        self._taken.append(step)
        self.next = step + 1
        self._note(self._service.keeps)

    def _note(self, keeps: int) -> None:
        """Writes all but the newest steps that the service has taken into the record."""
        while len(self._taken) > keeps:
            with naming(self._record), self._record.open("a", encoding="utf-8") as file:
                file.write(f"{self._taken.popleft()}\n")

    def _fail(self, error: Exception) -> None:
        if self._service:
            with suppress(Exception):
                self._service.finish()
            self._note(0)
        if self._failed is None:
            self._warn(f"{_reason(error)}; the run goes on, and what was not sent is sent later")
        self._service, self._failed = None, time.monotonic()

    def _keep(self, text: str) -> None:
        write_text(self._record, text)

    def _warn(self, told: str) -> None:
        tqdm.write(f"WARNING track: {self._name}: {told}", file=sys.stderr)


def _read(record: Path) -> tuple[str, list[int]]:
    """The id and the steps of a record; a last line that was cut off does not count."""
    try:
        identity, *lines = record.read_text(encoding="utf-8").split("\n")[:-1]
    except (FileNotFoundError, ValueError):
        return "", []
    return identity, [int(line) for line in lines if line.isdigit()]


def _reason(error: Exception) -> str:
    """One line of an exception that may have many."""
    lines = str(error).split("\n")
    return next((line.strip() for line in lines if line.strip()), type(error).__name__)


def group_of(workdir: Path) -> str:
    """The name of a work folder; a round's has that of the run before it."""
    parts = workdir.resolve().parts
    return "/".join(parts[-3:] if workdir.parent.name == "rounds" else parts[-1:])

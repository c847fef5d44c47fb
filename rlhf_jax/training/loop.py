"""What all trainings do around a step: resume, log it while the next one runs, save it, stop once saved.

training = Training(config, workdir, "sft", config.sft, total, ("loss",), inference.describe(model))
state = training.resume(state)
with training:
    for i in training.steps(state):
        state, metrics = step(state, batch(i))
        training.after(state, metrics, rows=64, tokens=9000)
"""

import functools
import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, Self, TypeVar

from etils.epath import Path

from rlhf_jax.command_line import Stopped
from rlhf_jax.config import Config, ConfigError
from rlhf_jax.run import checkpoint, hosts
from rlhf_jax.run.stored_config import flatten, to_dict
from rlhf_jax.training import health
from rlhf_jax.training.metrics import MetricsLog, read_metrics
from rlhf_jax.training.profiling import Profiler
from rlhf_jax.training.stopping import StopSignal


class Checkpointed(Protocol):
    """A state that tells its parameters, which later stages read, apart from what only resuming needs."""

    def parts(self) -> tuple[Any, Any]:
        """(parameters, the state without them)."""

    def with_params(self, params: Any) -> Self:
        """The whole state again."""


class Saved(Protocol):
    """The part of a stage's configuration that says what is kept."""

    save_every: int  # steps
    best: str  # metric whose best step is kept, such as "-loss"; empty: none


State = TypeVar("State", bound=Checkpointed)


class Training:
    """The steps of a training, which leaves `checkpoints/<name>` and `metrics/<name>.jsonl`.

    `start` of `total` steps were made before. A step is written to disk while the next ones run; the newest
    `config.keep_checkpoints` of those that were saved stay, and the best. Leaving the `with` waits for the
    last one to be written.
    """

    def __init__(
        self,
        config: Config,
        workdir: Path,
        name: str,
        options: Saved,
        total: int,
        shown: tuple[str, ...],
        network: Mapping[str, Any],
        updates: int = 1,
        signs: Callable[[health.Metrics], health.Signs] = health.no_signs,
    ) -> None:
        """`shown` are the metrics beside the progress bar, `network` is what every checkpoint says of it.

        `updates` is the number of updates that a step makes; `signs` finds in its metrics what is wrong.
        """
        self.folder, self.total = workdir / "checkpoints" / name, total
        self.start = checkpoint.latest_step(self.folder) or 0
        self._config, self._options, self._network = config, options, network
        watch = health.Watch(self.folder, config.health, updates, signs)
        fields = flatten(to_dict(config))
        self._open_log = functools.partial(
            MetricsLog, workdir, name, self.start, total, shown, watch, config.track, fields
        )
        self._profile = workdir / "profile" / name

    def resume(self, state: State) -> State:
        """The state after `start` steps; `state` itself, fresh, where that is 0."""
        if not self.start:
            return state
        params, rest = checkpoint.restore(self.folder, self.start, *state.parts())
        return rest.with_params(params)

    def __enter__(self) -> Self:
        self._saving: Future[None] = Future()
        self._saving.set_result(None)
        with ExitStack() as opened:
            self._log = opened.enter_context(self._open_log())
            self._stop = opened.enter_context(StopSignal())
            opened.callback(lambda: wait([self._saving]))  # after an error, too, what began to be saved is
            profiled = self._config.profile and hosts.is_first()
            self._profiler = Profiler(self._profile, self.start, self.total) if profiled else None
            self._end = opened.pop_all()
        return self

    def __exit__(self, *error) -> None:
        self._end.__exit__(*error)

    def steps(self, state: Checkpointed) -> Iterator[int]:
        """The numbers of the steps to make; the caller makes each, and tells `after` what came of it.

        Raises Stopped after a signal, once the step is saved, and CheckpointError where one cannot be.
        """
        self._state, self._saved, self._stopped, i = state, self.start, False, self.start - 1
        for i in range(self.start, self.total):
            if self._profiler:
                self._profiler.before(i, self._state)
            self._i = i
            yield i
            if self._stopped:
                break
        self._saving.result()
        # A signal may come last, and to one process alone.
        number = max(hosts.gather(f"the end of {self.folder.name}", self._stop.number))
        if number:
            hosts.finish()
            raise Stopped(number, f" after step {i + 1} of {self.total} of {self.folder.name}, saved")

    def after(self, state: Checkpointed, metrics: dict[str, Any], **read: Any) -> None:
        """Logs a step, and saves it where that is due or a signal came.

        `read` counts what the step read, such as pairs=64 and tokens=9000, logged as `tokens_per_second`.
        """
        i, self._state, options = self._i, state, self._options
        if self._profiler:
            metrics = metrics | self._profiler.after(i, state)
        self._check_best(metrics)
        self._log.log(i, metrics, **read)
        self._stopped = self._stop.asked()
        due = (i + 1) % options.save_every == 0 or i + 1 == self.total
        if self._saving.done():
            self._saving.result()
        if self._stopped or due:
            self._log.flush()
            self._saving.result()
            judged = options.best and due and hosts.is_first()
            value = self._mean_of_best(i - i % options.save_every) if judged else None
            meta = {**self._network, **({"best": options.best, "value": value} if options.best else {})}
            self._start_saving(i + 1, meta)

    @contextmanager
    def rescued(self, kind: type[ValueError]) -> Iterator[None]:
        """Saves the steps made before this one where an error of that kind ends it, and says so in the error.

        It is the error of all processes, which end together.
        """
        try:
            yield
        except kind as error:
            raise kind(f"{error}; {self._rescue()}; the same command resumes") from None

    def _rescue(self) -> str:
        self._log.flush()
        self._saving.result()
        if self._i > self._saved:
            judged = {"best": self._options.best, "value": None} if self._options.best else {}
            self._start_saving(self._i, {**self._network, **judged})
            self._saving.result()
        hosts.finish()
        made, name = self._i, self.folder.name
        return f"{made} of {self.total} steps of {name} are saved" if made else f"no step of {name} was made"

    def _start_saving(self, step: int, meta: dict[str, Any]) -> None:
        params, rest = self._state.parts()
        self._saving = checkpoint.start_save(
            self.folder, step, params=params, rest=rest, meta=meta, keep=self._config.keep_checkpoints
        )
        self._saved = step

    def _check_best(self, metrics: dict[str, Any]) -> None:
        best, name = self._options.best, self.folder.name
        if best.removeprefix("-") not in ("", *metrics):
            field = f"{name.partition('_')[0]}.best"  # reward_seed0 is trained by stage reward
            raise ConfigError(
                f"{field}: {best!r} is no metric of {name}; it has {', '.join(sorted(metrics))}"
            )

    def _mean_of_best(self, first: int) -> float | None:
        """The metric's mean over the steps from `first`, where a save was last due; None if it is not finite.

        It is read from the log, which holds the steps before a stop, too: so a resumed run keeps the same
        step as one that was never stopped.
        """
        name = self._options.best.removeprefix("-")
        records = read_metrics(self._log.path)
        value = statistics.fmean(record[name] for record in records if record["step"] >= first)
        return value if math.isfinite(value) else None

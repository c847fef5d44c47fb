"""The loop that all stages train in: steps, metrics one step late, checkpoints, and a stop that saves."""

import math
import statistics
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import ExitStack
from typing import Any, Protocol, Self, TypeVar

from etils.epath import Path

from rlhf_jax.command_line import Stopped
from rlhf_jax.config import ConfigError
from rlhf_jax.run import checkpoint, hosts
from rlhf_jax.training.metrics import MetricsLog, read_metrics
from rlhf_jax.training.profiling import Profiler
from rlhf_jax.training.stopping import StopSignal


class Checkpointed(Protocol):
    """A state that knows its parameters, which later stages read, from what only resuming needs."""

    def parts(self) -> tuple[Any, Any]:
        """(parameters, the state without them)."""

    def with_params(self, params: Any) -> Self:
        """The whole state again."""


State = TypeVar("State", bound=Checkpointed)


def resume(folder: Path, start: int, state: State) -> State:
    """The state after `start` steps, from `folder`; `state` itself, fresh, where that is 0."""
    if not start:
        return state
    params, rest = checkpoint.restore(folder, start, *state.parts())
    return rest.with_params(params)


def run(
    log: MetricsLog,
    folder: Path,
    state: State,
    update: Callable[[State, int], tuple[State, dict, dict]],
    *,
    save_every: int,
    keep: int = 2,
    best: str = "",
    profile: Path | None = None,
) -> State:
    """`update(state, i)` for every step of `log`, saved in `folder`; the last state.

    `update` returns state, metrics, and counts of what the step read, such as {"pairs": 64, "tokens": 9000},
    which are logged a second. It makes its own batch, on the host while the devices compute the step before.
    A step is saved behind those that follow. The newest `keep` stay, and the best by the metric `best`, such
    as "-loss". Steps are profiled into the folder `profile`, where there is one. Raises Stopped after a
    signal, once the step is saved, and CheckpointError where one cannot be.
    """
    profiler = Profiler(profile, log.start, log.total) if profile and hosts.is_first() else None
    i = log.start - 1
    saving: Future[None] = Future()
    saving.set_result(None)
    with log, StopSignal() as stop, ExitStack() as end:
        end.callback(lambda: wait([saving]))  # after an error, too, what began to be saved is
        for i in range(log.start, log.total):
            if profiler:
                profiler.before(i, state)
            state, metrics, read = update(state, i)
            if profiler:
                metrics |= profiler.after(i, state)
            _check_metric(best, metrics, folder)
            log.log(i, metrics, read)
            stopped, due = stop.asked(), (i + 1) % save_every == 0 or i + 1 == log.total
            if saving.done():
                saving.result()
            if stopped or due:
                log.flush()
                saving.result()
                judged = best and due and hosts.is_first()
                value = _mean(log, best, i - i % save_every) if judged else None
                meta = {"best": best, "value": value} if best else {}
                params, rest = state.parts()
                saving = checkpoint.start_save(folder, i + 1, params=params, rest=rest, meta=meta, keep=keep)
            if stopped:
                break
        saving.result()
        number = max(hosts.gather(f"the end of {folder.name}", stop.number))  # a signal may come last
        if number:
            hosts.finish()
            raise Stopped(number, f" after step {i + 1} of {log.total} of {folder.name}, saved")
    return state


def _check_metric(best: str, metrics: dict, folder: Path) -> None:
    if best.removeprefix("-") not in ("", *metrics):
        field = f"{folder.name.partition('_')[0]}.best"  # reward_seed0 is trained by stage reward
        raise ConfigError(
            f"{field}: {best!r} is no metric of {folder.name}; it has {', '.join(sorted(metrics))}"
        )


def _mean(log: MetricsLog, best: str, first: int) -> float | None:
    """Of the metric over the steps from `first`, those since a save was last due; None if not finite.

    From the records, which hold the steps before a stop, too: the best is that of the undisturbed run.
    """
    name = best.removeprefix("-")
    value = statistics.fmean(record[name] for record in read_metrics(log.path) if record["step"] >= first)
    return value if math.isfinite(value) else None

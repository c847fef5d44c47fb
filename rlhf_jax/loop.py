"""The loop that all stages train in: steps, metrics one step late, checkpoints, and a stop that saves."""

import time
from collections.abc import Callable
from typing import Any, Protocol, Self, TypeVar

from etils.epath import Path

from rlhf_jax import checkpoint, hosts
from rlhf_jax.command_line import Stopped
from rlhf_jax.metrics import MetricsLog
from rlhf_jax.profiling import Profiler
from rlhf_jax.stopping import StopSignal


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
    params, rest, _ = checkpoint.restore(folder, start, *state.parts())
    return rest.with_params(params)


def run(
    log: MetricsLog,
    folder: Path,
    state: State,
    update: Callable[[State, int], tuple[State, dict]],
    *,
    save_every: int,
    counted: tuple[str, int],
    profile: Path | None = None,
) -> State:
    """`update(state, i) -> (state, metrics)` for every step of `log`, saved in `folder`; the last state.

    `counted` says how many of what a step reads, such as ("episodes", 128): logged a second. `update`
    makes its own batch, on the host while the devices compute the step before. Steps are profiled into
    the folder `profile`, where there is one. Raises Stopped after a signal, once the step is saved.
    """
    unit, number = counted
    profiler = Profiler(profile, log.start, log.total) if profile and hosts.is_first() else None
    clock = time.monotonic()
    with log, StopSignal() as stop:
        for i in range(log.start, log.total):
            if profiler:
                profiler.before(i, state)
            state, metrics = update(state, i)
            if profiler:
                metrics |= profiler.after(i, state)
            now = time.monotonic()
            log.log(i, metrics | {f"{unit}_per_second": number / (now - clock)})
            clock = now
            stopped, done = stop.asked(), i + 1 == log.total
            if stopped or done or (i + 1) % save_every == 0:
                log.flush()
                params, rest = state.parts()
                checkpoint.save(folder, i + 1, params=params, rest=rest, meta={})
            if stopped and not done:
                hosts.finish()
                raise Stopped(stop.number, f" after step {i + 1} of {log.total} of {folder.name}, saved")
    return state

"""A profile of a stage's steps, for xprof or TensorBoard, and the seconds of each phase in it.

Phases are the named scopes of the compiled step (`PHASES`); `host` is when no device computed.
"""

import re
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import jax
from etils.epath import Path
from jax.extend.backend import get_backend

from rlhf_jax.files import matching

PHASES = ("sample", "score", "update", "gradients", "optimizer")  # jax.named_scope's; the outermost counts
WARM_UP = 2  # steps before the profile, of which the first compiles
STEPS = 2  # in it, so that the time between two shows

Interval = tuple[float, float]


class Profiler:
    """Profiles STEPS steps into `folder`, a little after the `start` of a training: what its host sees."""

    def __init__(self, folder: Path, start: int, total: int) -> None:
        self._folder, self._first = folder, start + WARM_UP
        if self._first + STEPS > total:
            print(f"no profile of {folder.name}: {total - start} steps are left, of {WARM_UP + STEPS} needed")
            self._first = total

    def before(self, step: int, state: Any) -> None:
        """To be called before a step; `state` is what it starts from."""
        if step == self._first:
            jax.block_until_ready(state)
            self._local = Path(tempfile.mkdtemp(prefix="rlhf_jax_profile_"))  # the profiler knows no gs://
            jax.profiler.start_trace(self._local)

    def after(self, step: int, state: Any) -> dict[str, float]:
        """To be called after a step: seconds a step by phase after the last one profiled, else nothing."""
        if step != self._first + STEPS - 1:
            return {}
        jax.block_until_ready(state)
        jax.profiler.stop_trace()
        (trace,) = matching(self._local, "plugins/profile/*/*.xplane.pb")
        place = self._folder / trace.relative_to(self._local)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(trace.read_bytes())
        self._local.rmtree()
        found = seconds_by_phase(jax.profiler.ProfileData.from_serialized_xspace(place.read_bytes()))
        shares = ", ".join(f"{phase} {seconds:.3g} s" for phase, seconds in found.items())
        print(f"profile of a step: {shares}; for xprof or TensorBoard in {self._folder}", flush=True)
        return {f"seconds/{phase}": seconds for phase, seconds in found.items()}


def seconds_by_phase(profile: jax.profiler.ProfileData) -> dict[str, float]:
    """Seconds a step in which each phase ran on any device, by name; `other` has no scope."""
    ran: dict[str, list[tuple[str, Interval]]] = {}
    for module, name, span in operations(profile):
        ran.setdefault(module, []).append((name, span))
    if not ran:
        return {}
    loaded = list(programs())
    spans: dict[str, list[Interval]] = {}
    for module, timed in ran.items():
        phase_of = _phases_of_module(module, {name for name, _ in timed}, loaded)
        for name, span in timed:
            spans.setdefault(phase_of.get(name, "other"), []).append(span)
    every = [span for phase in spans.values() for span in phase]
    found = {phase: covered(spans[phase]) for phase in (*PHASES, "other") if phase in spans}
    found["host"] = max(end for _, end in every) - min(start for start, _ in every) - covered(every)
    return {phase: nanoseconds / 1e9 / STEPS for phase, nanoseconds in found.items()}


def _phases_of_module(module: str, ran: set[str], programs: list[str]) -> dict[str, str]:
    """Those of the program that ran: names of operations such as while.1 are in many programs.

    It has the module's name where the profile tells one, and of several such, as of length buckets, the
    most of the operations.
    """
    own = [phases_of(text) for text in programs if text.startswith(f"HloModule {module}," if module else "")]
    return max(own, key=lambda phases: len(phases.keys() & ran), default={})


def phases_of(program: str) -> dict[str, str]:
    """{operation: phase} of a compiled program's text; `other` outside of all phases."""
    named = re.findall(r'%?([\w.-]+) = [^\n]*op_name="([^"]*)"', program)
    scopes = re.compile(rf"/({'|'.join(PHASES)})(?=/|$)")
    return {name: found[1] if (found := scopes.search(path)) else "other" for name, path in named}


def covered(spans: Iterable[Interval]) -> float:
    """The length of the union of (start, end) intervals."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(end - max(start, until), 0.0)
        until = max(until, end)
    return total


def operations(profile: jax.profiler.ProfileData) -> Iterator[tuple[str, str, Interval]]:
    """(module, name, (start, end)) of every operation of a compiled program, nanoseconds.

    The module is empty where the profile does not tell it.
    """
    for plane in profile.planes:
        on_device = plane.name.startswith("/device:")
        for line in plane.lines:
            for event in line.events:
                stats = dict(event.stats)
                if "hlo_op" in stats or (on_device and line.name == "XLA Ops"):
                    name = str(stats.get("hlo_op", event.name))
                    span = (event.start_ns, event.start_ns + event.duration_ns)
                    yield str(stats.get("hlo_module", "")), name, span


def programs() -> Iterator[str]:
    """The text of every compiled program that is loaded."""
    for executable in get_backend().live_executables():
        for module in executable.hlo_modules():
            yield module.to_string()

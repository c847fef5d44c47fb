"""Ctrl-C and SIGTERM while a stage trains: the step is finished and saved, then the run ends.

SIGTERM is how machines that can vanish say so: preempted TPUs, SLURM at the end of a job's time, Kubernetes.
"""

import signal
import sys
import threading
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rlhf_jax.mesh import AXES

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_max = jax.jit(jnp.max)


class StopSignal:
    """Within `with`, a first signal only asks for the end; a second one ends at once.

    One that the process ignores, as a shell's background jobs do Ctrl-C, stays ignored. Of many hosts,
    those that were not signalled end with the one that was.
    """

    def __init__(self) -> None:
        self.number = 0  # of the signal; 0 before one came
        self._before: dict = {}
        self._agreeing: jax.Array | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python has no handlers elsewhere
            heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._note) for number in heeded}
        return self

    def __exit__(self, *exception) -> None:
        self._restore()

    def asked(self) -> bool:
        """Whether to end after this step; on every process the same. All call it once a step.

        One process knows at once. Many tell each other on their devices, behind the step just
        dispatched, and read the answer of the step before: nobody waits for it.
        """
        if jax.process_count() == 1:
            return bool(self.number)
        before, self._agreeing = self._agreeing, _largest(self.number)
        if before is not None:
            self.number = max(self.number, int(before.addressable_data(0)))
        return before is not None and bool(before.addressable_data(0))

    def _note(self, number: int, frame) -> None:
        del frame
        self.number = number
        self._restore()
        name = signal.Signals(number).name
        print(f"\n{name}: saving after this step; once more ends at once", file=sys.stderr, flush=True)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def _largest(number: int) -> jax.Array:
    """The largest of the numbers that the processes give, on every device of the current mesh."""
    mesh = jax.sharding.get_mesh()
    one_each = NamedSharding(mesh, P(AXES))
    numbers = jax.make_array_from_callback((mesh.size,), one_each, lambda _: np.full(1, number, np.int32))
    return _max(numbers)

"""A reward of one's own, asked for a number for each response.

    with Scorer("rewards.py:length", timeout=60) as length:
        length(["a post"], ["a summary"], [{"id": "t1", "reference": "…"}], seed="0/17")

It is a Python function or a server, asked from a process of its own (rlhf_jax/evaluation/scorer_process.py),
which is ended where it takes too long. Whatever it does instead of giving numbers becomes a ScorerError that
names it.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Float

from rlhf_jax.evaluation import asking
from rlhf_jax.evaluation.scorer_process import ATTEMPTS, ScorerError, is_address

PROGRAM = "rlhf_jax.evaluation.scorer_process"
ROOT = str(Path(__file__).parents[2])  # where the package lies
GLANCE = 1.0  # seconds between two looks at whether the process is still there


class Scorer:
    """The reward at `place`: FILE.py:function, package.module:function or the address of a server."""

    def __init__(self, place: str, timeout: float) -> None:
        """`timeout` is in seconds: for one call of a function, or one of a server's ATTEMPTS."""
        self.place, self.timeout = place, timeout
        pauses = ATTEMPTS * asking.LONGEST_WAIT
        self.longest = ATTEMPTS * timeout + pauses if is_address(place) else timeout  # seconds of a call
        self._left = b""  # of the process's output, behind its last whole line

    def __enter__(self) -> Self:
        """Loads the function, which may take as long as it likes. Raises ScorerError where it cannot be."""
        paths = [ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
        # Sets of strings have an order of their own in every process, unless it is fixed.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": "0"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", PROGRAM, self.place, str(self.timeout)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the training, which still makes a step
        )
        try:
            self._answer(None)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # and what the function has started
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                pipe.close()  # type: ignore[union-attr]

    def __call__(
        self, prompts: Sequence[str], responses: Sequence[str], rows: Sequence[dict[str, Any]], seed: str
    ) -> Float[np.ndarray, "B"]:
        """A number for each response, float32 and finite; `rows` are JSON objects."""
        batch = {"prompts": list(prompts), "responses": list(responses), "rows": list(rows), "seed": seed}
        with suppress(BrokenPipeError):  # it has ended, as its answer will tell
            self._process.stdin.write(json.dumps(batch).encode() + b"\n")  # type: ignore[union-attr]
            self._process.stdin.flush()  # type: ignore[union-attr]
        given = self._answer(self.longest)["values"]
        if len(given) != len(responses):
            raise ScorerError(f"{self.place}: it gave {len(given)} numbers for {len(responses)} responses")
        with np.errstate(over="ignore"):
            values = np.asarray(given, np.float32)
        if not np.isfinite(values).all():
            first = int(np.argmin(np.isfinite(values)))
            wrong = f"{given[first]} for {responses[first]!r:.80}"
            raise ScorerError(f"{self.place}: it gave {wrong}, which is no finite number")
        return values

    def _answer(self, seconds: float | None) -> dict[str, Any]:
        """What the process answers within so many seconds; None: whenever it does."""
        end = time.monotonic() + seconds if seconds is not None else float("inf")
        while b"\n" not in self._left:
            if time.monotonic() > end:
                self.__exit__()
                raise ScorerError(f"{self.place}: no answer within {seconds:g} s (ppo.reward_timeout)")
            self._read(min(GLANCE, max(end - time.monotonic(), 0)))
        line, _, self._left = self._left.partition(b"\n")
        answer = json.loads(line)
        if "error" in answer:
            raise ScorerError(f"{self.place}: {answer['error']}")
        return answer

    def _read(self, seconds: float) -> None:
        """More of the process's output, if any comes. Raises ScorerError where the process has ended."""
        output = self._process.stdout
        assert output
        waiting = select.poll()
        waiting.register(output, select.POLLIN)
        ended = self._process.poll() is not None
        more = os.read(output.fileno(), 1 << 16) if waiting.poll(1000 * seconds) else b""
        self._left += more
        if more or not ended:
            return
        status = self._process.returncode
        how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
        raise ScorerError(f"{self.place}: its process ended {how}")

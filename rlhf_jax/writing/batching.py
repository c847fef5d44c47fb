"""Requests that wait are written together: one thread owns the policy, and takes from a queue.

A batch is what waits when the last one has ended, in the order in which it came, as many rows as are written
at once. What comes meanwhile waits for the next.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rlhf_jax.writing.response import Response
from rlhf_jax.writing.writer import Writer

MOST_WAITING = 1024  # responses; who comes then is sent away
GATHER = 0.01  # seconds in which a burst arrives, after the first of it


class Busy(Exception):
    """Too many wait already."""


class Job(NamedTuple):
    """Responses of one request. After `changed()` they are longer, ended, or will not be: then `failed`."""

    responses: Sequence[Response]
    changed: Callable[[], None]
    failed: Callable[[Exception], None]


class Batcher:
    """Runs from `start()` to `stop()`; `submit` may be called from any thread."""

    def __init__(self, writer: Writer):
        self._writer, self._waiting = writer, deque[Job]()
        self._written: list[Job] = []  # at the moment
        self._some, self._stopping = threading.Condition(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Cancels what is written, what waits and what comes later; returns at once."""
        self._stopping.set()
        with self._some:
            for job in (*self._written, *self._waiting):
                _cancel(job)
            self._waiting.clear()
            self._some.notify()

    def stop(self) -> None:
        """Does the same, and returns when the device is idle."""
        self.end()
        self._thread.join()

    def submit(self, job: Job) -> None:
        """Raises Busy where MOST_WAITING responses wait already."""
        with self._some:
            if self._stopping.is_set():
                _cancel(job)
                return
            if sum(len(one.responses) for one in self._waiting) + len(job.responses) > MOST_WAITING:
                raise Busy
            self._waiting.append(job)
            self._some.notify()

    def _run(self) -> None:
        while jobs := self._next():
            together = [response for job in jobs for response in job.responses]
            try:
                for _ in self._writer.write(together):
                    for job in jobs:
                        job.changed()
            except Exception as error:  # such as memory that is not enough: the next batch may be smaller
                for job in jobs:
                    job.failed(error)

    def _next(self) -> list[Job]:
        """The jobs of the next batch; none where it is to stop."""
        with self._some:
            while not self._waiting and not self._stopping.is_set():
                self._some.wait()
        self._stopping.wait(GATHER)
        jobs, rows = list[Job](), 0
        with self._some:
            while self._waiting and not self._stopping.is_set():
                rows += len(self._waiting[0].responses)
                if jobs and rows > self._writer.most_rows:
                    break
                jobs.append(self._waiting.popleft())
            self._written = jobs
        return jobs


def _cancel(job: Job) -> None:
    for response in job.responses:
        response.cancel()
    job.changed()

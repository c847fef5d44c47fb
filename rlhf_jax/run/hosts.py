"""One run on many hosts: starting together, agreeing, and ending together when one is lost.

Every host runs the same command. Process 0 gathers the others on the coordinator's port before JAX
starts there, so that a process that does not come is named. The connections stay open: one that
breaks is a process that ended, and all others stop within seconds instead of waiting for it in a
collective. A lone process does none of this.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import jax
from jax._src import clusters, distributed  # detection and the key-value store have no public names
from tqdm import tqdm

ENDED = 3  # exit status of a process that stops because another one ended
BARRIER_SECONDS = 600  # that processes wait for each other, at checkpoints and elsewhere
HEARTBEAT_SECONDS = 40  # after which JAX gives up a silent process; broken connections tell sooner
CAUSE_SECONDS = 2  # in which the end of another process is noticed
KEEPALIVE = {socket.TCP_KEEPIDLE: 10, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 4}  # 30 s in all
VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")

T = TypeVar("T")

_names: list[str] = []  # "process 1 (host-b)", of every process; empty for a lone one
_lines: dict[int, socket.socket] = {}  # of process 0 to every other process, of these to process 0
_rounds: dict[str, int] = {}  # of `gather`, by the name of the thread
_leaving = threading.Event()
_said: list[str] = []  # what this process has told of its end


class HostsError(ValueError):
    """Processes that did not come, or do not see the same; the message says which."""


def is_first() -> bool:
    """Whether this is process 0, which alone writes the files of a run."""
    return jax.process_index() == 0


def prefix() -> str:
    """ "process 1 (host-b): ", for messages; of a lone process, empty."""
    return f"{_names[jax.process_index()]}: " if _lines else ""


def start(timeout: float) -> None:
    """Joins the processes that the environment names, before any other use of JAX; else does nothing.

    The environment is that of a TPU pod, GKE, SLURM or Open MPI, or the three VARIABLES. Raises
    HostsError, in every process that came, after `timeout` seconds without all of them.
    """
    place = _place(timeout)
    if place is None:
        return
    address, count, index, local_devices = place
    names = _meet(address, count, index, timeout)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM for itself
    jax.distributed.initialize(
        address, count, index, local_devices, heartbeat_timeout_seconds=HEARTBEAT_SECONDS
    )
    _names[:] = names
    if index > 0:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the same lines as of process 0
    if count > 1:
        ctypes.CDLL(None).signal(signal.SIGABRT, _on_abort)
        threading.Thread(target=_watch, args=(index,), daemon=True).start()


def gather(what: str, value: Any = None, timeout: float = BARRIER_SECONDS) -> list:
    """What every process gives, JSON values by process index. All must call it, in the same order.

    Threads of another name have an order of their own: a checkpoint is written while the training goes on.
    Raises HostsError after `timeout` seconds, naming those that did not come to `what`.
    """
    if jax.process_count() == 1:
        return [value]
    client = distributed.global_state.client
    assert client is not None
    channel = threading.current_thread().name
    number = _rounds[channel] = _rounds.get(channel, 0) + 1
    folder = f"rlhf_jax/{channel}/{number}"
    client.key_value_set(f"{folder}/{jax.process_index()}", json.dumps(value))
    try:
        client.wait_at_barrier(folder, int(timeout * 1000))
    except jax.errors.JaxRuntimeError as error:
        if "DEADLINE_EXCEEDED" not in str(error):
            raise
        came = {int(key.rpartition("/")[2]) for key, _ in client.key_value_dir_get(folder)}
        missing = ", ".join(n for i, n in enumerate(_names) if i not in came)
        raise HostsError(f"{what}: waited {timeout:.0f} s for {missing}") from None
    values = {int(key.rpartition("/")[2]): text for key, text in client.key_value_dir_get(folder)}
    if is_first():  # all have left the round before
        client.key_value_delete(f"rlhf_jax/{channel}/{number - 1}")
    return [json.loads(values[i]) for i in range(jax.process_count())]


def from_first(what: str, compute: Callable[[], Any], timeout: float = BARRIER_SECONDS) -> Any:
    """What `compute` gives on process 0, on every process: a JSON value."""
    return gather(what, compute() if is_first() else None, timeout)[0]


def after_first(what: str, make: Callable[[], T]) -> T:
    """`make` on process 0, then on all others, which find what process 0 has written."""
    made = [make()] if is_first() else []
    gather(what)
    return made[0] if made else make()


def progress_bar(total: int, description: str, **more) -> tqdm:
    """A bar on stderr, of process 0 alone; `more` goes to tqdm."""
    interval = 0.5 if sys.stderr.isatty() else 30.0  # seconds; a log file needs no animation
    return tqdm(
        total=total,
        desc=description,
        mininterval=interval,
        dynamic_ncols=True,
        disable=not is_first(),
        **more,
    )


def finish() -> None:
    """Waits until all processes are done, so that none takes the end of another for a failure."""
    _leaving.set()
    gather("the end of the run")


def leave(status: int, told: str) -> None:
    """Ends one process of several, which has `told` why, or has not where a traceback does.

    The others are told and stop, too. Returns in a lone process, and after `finish`.
    """
    if not _lines or _leaving.is_set():
        return
    if told:
        _leaving.set()
    else:
        traceback.print_exc()
        time.sleep(CAUSE_SECONDS)  # the cause may be a process that ended: then _watch says so
        _leaving.set()
    _pass_on(f"{prefix()}{told or 'failed'}")
    _end(status)


# Starting ------------------------------------------------------------------------------------


def _place(timeout: float) -> tuple[Any, Any, Any, Any] | None:
    """(coordinator's address, processes, index, local devices) by the environment; None where alone."""
    address, count, index = (os.environ.get(variable) for variable in VARIABLES)
    try:
        given = (address, int(count) if count else None, int(index) if index else None)
    except ValueError:
        raise HostsError(f"{VARIABLES[1]}={count} {VARIABLES[2]}={index}: should be numbers") from None
    *found, devices = clusters.ClusterEnv.auto_detect_unset_distributed_params(
        *given, None, None, int(timeout)
    )
    if all(value is None for value in found):
        return None
    missing = [variable for variable, value in zip(VARIABLES, found, strict=True) if value is None]
    if missing:
        raise HostsError(f"{', '.join(missing)}: not set, but others of {', '.join(VARIABLES)} are")
    return found[0], found[1], found[2], devices


def _meet(address: str, count: int, index: int, timeout: float) -> list[str]:
    """The names of all processes, once they have all come; their connections are kept in `_lines`."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + timeout
    if index == 0:
        return _receive(int(port), count, timeout, deadline)
    me = f"process {index} ({socket.gethostname()})"
    while True:
        try:
            line = socket.create_connection((host.strip("[]"), int(port)), timeout=5)
            line.sendall(json.dumps([index, socket.gethostname()]).encode() + b"\n")
            line.settimeout(max(deadline - time.monotonic(), 0) + 10)  # process 0 may have come later
            answer = _read_line(line)
            break
        except (OSError, ValueError):
            if time.monotonic() > deadline:
                raise HostsError(
                    f"{me} waited {timeout:.0f} s for process 0 at {address}: "
                    "start the same command on every worker"
                ) from None
            time.sleep(0.2)
    if isinstance(answer, str):
        raise HostsError(answer)
    line.settimeout(None)
    _lines[0] = _kept_alive(line)
    return answer


def _receive(port: int, count: int, timeout: float, deadline: float) -> list[str]:
    """Process 0: waits for the others, then tells them the names of all, or who is missing."""
    hosts, lines = {0: socket.gethostname()}, {}
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    with socket.create_server(("", port), family=family, backlog=count, dualstack_ipv6=dual) as server:
        while len(hosts) < count and time.monotonic() < deadline:
            server.settimeout(max(deadline - time.monotonic(), 0.01))
            with contextlib.suppress(OSError, ValueError):  # nobody within the time, or a stranger
                line, _ = server.accept()
                line.settimeout(5)
                index, host = _read_line(line)
                hosts[index], lines[index] = host, line
    answer: list[str] | str = [f"process {i} ({host})" for i, host in sorted(hosts.items())]
    if len(hosts) < count:
        answer = _missing(hosts, count, timeout)
    for line in lines.values():
        line.settimeout(None)
        line.sendall(json.dumps(answer).encode() + b"\n")
    if isinstance(answer, str):
        raise HostsError(answer)
    _lines.update((index, _kept_alive(line)) for index, line in lines.items())
    return answer


def _missing(hosts: dict[int, str], count: int, timeout: float) -> str:
    workers = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    absent = [i for i in range(count) if i not in hosts]
    names = [f"{i} ({workers[i]})" if len(workers) == count > 1 else str(i) for i in absent]
    return (
        f"process 0 ({hosts[0]}) waited {timeout:.0f} s; {len(hosts)} of {count} processes came; "
        f"missing: {', '.join(names)}; start the same command on every worker"
    )


def _kept_alive(line: socket.socket) -> socket.socket:
    """A line that breaks when the other host has vanished without a word."""
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        line.setsockopt(socket.IPPROTO_TCP, option, value)
    return line


def _read_line(line: socket.socket) -> Any:
    """One JSON value; ValueError where the line ended before it."""
    with line.makefile("rb", buffering=0) as stream:  # which takes nothing of the next one
        text = stream.readline()
    if not text.endswith(b"\n"):
        raise ValueError("the connection ended")
    return json.loads(text)


# Ending --------------------------------------------------------------------------------------


def _watch(index: int) -> None:
    """Waits for a line to break or to tell of an end, passes that on and ends this process."""
    (line, *_), _, _ = select.select(_lines.values(), [], [])
    try:
        reason = _read_line(line)
    except (OSError, ValueError):
        reason = f"{next(_names[i] for i in _lines if _lines[i] is line)} ended; the same command resumes"
    if _leaving.is_set():
        return
    _leaving.set()
    _pass_on(reason)
    _say(f"{_names[index]} stops, because {reason}")
    _end(ENDED)


def _pass_on(reason: str) -> None:
    for line in _lines.values():
        with contextlib.suppress(OSError):
            line.sendall(json.dumps(reason).encode() + b"\n")


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _on_abort(number: int) -> None:
    """JAX's own watch over the others ends a process by SIGABRT: that becomes a line and a status.

    A C function, for Python's handlers run in the main thread, which may never come back.
    """
    _say("JAX has lost the other processes (see above); the same command resumes")
    _end(ENDED)


def _say(text: str) -> None:
    if not _said:
        _said.append(text)
        os.write(sys.stderr.fileno(), f"rlhf-jax run: {text}\n".encode())


def _end(status: int) -> NoReturn:
    """At once: an orderly exit would wait for the others in JAX's shutdown."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    os._exit(status)

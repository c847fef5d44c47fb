"""What all commands share: their flags, and errors for people in one line."""

import errno
import math
import os
import re
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence

from absl import flags, logging

NO_SPACE = os.strerror(errno.ENOSPC)
ADVICE = {
    errno.EFBIG: "raise the limit on the size of a file; the same command resumes",
    errno.ENOSPC: "make room there; the same command resumes",
    errno.EDQUOT: "make room there; the same command resumes",
    errno.EROFS: "name a folder that can be written",
    errno.EACCES: "it needs other permissions",
    errno.ENOTDIR: "a file stands where a folder should be; name another folder",
    errno.EEXIST: "a file stands where a folder should be; name another folder",
}
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of errors in writing, which may name no file


class Stopped(Exception):
    """A run that a signal has ended."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}{text}; the same command resumes")
        self.status = 128 + number  # as shells say it: 130 after Ctrl-C, 143 after SIGTERM


def command(argv: Sequence[str], run: Callable[[], None]) -> int:
    """The exit status after `run()`: 0, or that of an error for people, told in one line behind argv[0]."""
    logging.set_verbosity(logging.WARNING)  # Orbax tells every file that it reads or writes
    try:
        run()
    except (Exception, KeyboardInterrupt) as error:
        status, told = explain(error)
        if not told:
            raise
        print(f"{argv[0]}: {told}", file=sys.stderr)
        return status
    return 0


def parse_flags(argv: Sequence[str], options: flags.FlagValues) -> flags.FlagValues:
    """`options` with the values of a command line. Raises flags.Error where it holds anything else."""
    unknown = parse_words(argv, options)
    if unknown:
        raise flags.Error(f"unexpected argument {unknown[0]!r}; --help shows the usage")
    return options


def parse_words(argv: Sequence[str], options: flags.FlagValues) -> list[str]:
    """The words of a command line that are no flags; `options` get the values of these."""
    words = options(argv)[1:]
    for name, value in options.flag_values_dict().items():
        named = not name.startswith("config.")  # of these tells the configuration
        if named and isinstance(value, float) and math.isnan(value):  # which no bound refuses
            raise flags.Error(f"--{name}: nan is no number")
    return words


def listen(host: str, port: int) -> socket.socket:
    """A socket at the address of --host and --port. Raises flags.Error where there can be none."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise flags.Error(f"--host={host} --port={port}: {error.strerror}") from None


def explain(error: BaseException) -> tuple[int, str]:
    """Exit status and one line for people; no line where a traceback says more."""
    if isinstance(error, KeyboardInterrupt):
        error = Stopped(signal.SIGINT, "")
    if isinstance(error, Stopped):
        return error.status, str(error)
    # The module of a command that runs is __main__.
    ours = isinstance(error, ValueError) and type(error).__module__.startswith(("rlhf_jax.", "__main__"))
    of_files = isinstance(error, OSError) and (error.filename is not None or error.errno in NO_ROOM)
    if ours or of_files or isinstance(error, flags.Error):
        return 2, _one_line(error)
    if NO_SPACE in str(error):  # of a library that writes by itself: safetensors
        place = re.search(r'"(/[^"]*)"', str(error))
        return 2, f"{place[1] if place else 'a file'}: {NO_SPACE}; {ADVICE[errno.ENOSPC]}"
    if isinstance(error, MemoryError) or re.match("RESOURCE_EXHAUSTED: .*memory", str(error)):  # JAX's
        return 2, (
            f"out of memory ({str(error).partition(chr(10))[0]}): more microbatches, model.rematerialize or "
            "a larger mesh need less, rlhf-jax plan says how much; the checkpoints are whole"
        )
    last = (traceback.extract_tb(error.__traceback__) or [None])[-1]
    if last and last.name == "backends" and last.filename.endswith("xla_bridge.py"):  # JAX's, without a type
        asked = os.environ.get("JAX_PLATFORMS", "")
        return 2, (
            f"JAX_PLATFORMS={asked}: JAX has no such device here; unset the variable, or install what the "
            "device needs, as pip install 'rlhf-jax[cuda]' or [tpu] does"
        )
    return 1, ""


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError):
        advice = f"; {ADVICE[error.errno]}" if error.errno in ADVICE else ""
        return f"{error.filename or 'writing a file of the run'}: {error.strerror}{advice}"
    return " ".join(str(error).split())

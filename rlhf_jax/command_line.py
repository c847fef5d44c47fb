"""What the commands that take a configuration share: its flags, and errors of use in one line.

--config=FILE         Python file with a get_config() that returns a Config
--config.FIELD=VALUE  another value for a field of rlhf_jax/config.py
"""

import errno
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable

from absl import flags
from ml_collections import config_flags

from rlhf_jax.config import Config
from rlhf_jax.validation import check_name, validate

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


def parse_config(argv: list[str], options: flags.FlagValues) -> Config:
    """The validated configuration of a command line, whose other flags `options` defines and receives."""
    file = _check_arguments(argv)
    config_flags.DEFINE_config_file("config", flag_values=options, sys_argv=argv)
    try:
        unknown = options(argv)[1:]
    except (Exception, SystemExit) as error:  # the latter by the configuration file, which is a program
        told = str(error) if isinstance(error, flags.Error) else "".join(traceback.format_exception(error))
        if "Traceback" not in told:
            raise
        raise flags.Error(f"{_place(told, file)}: {told.strip().splitlines()[-1]}") from None
    if unknown:
        raise flags.Error(f"unexpected argument {unknown[0]!r}; --help shows the usage")
    if options.config is None:
        raise flags.Error(
            "--config is missing: a file such as --config=configs/mini.py; --help shows the usage"
        )
    if not isinstance(options.config, Config):
        raise flags.Error(f"--config: get_config() returned {type(options.config).__name__}, not a Config")
    return validate(options.config)


def status_of(command: Callable[[], None], name: str = "rlhf_jax") -> int:
    """The exit status after `command`: 0, or that of an error for people, told in one line behind `name`."""
    try:
        command()
    except (Exception, KeyboardInterrupt) as error:
        status, told = explain(error)
        if not told:
            raise
        print(f"{name}: {told}", file=sys.stderr)
        return status
    return 0


def explain(error: BaseException) -> tuple[int, str]:
    """Exit status and one line for people; no line where a traceback says more."""
    if isinstance(error, KeyboardInterrupt):
        error = Stopped(signal.SIGINT, "")
    if isinstance(error, Stopped):
        return error.status, str(error)
    ours = isinstance(error, ValueError) and type(error).__module__.startswith("rlhf_jax.")
    of_files = isinstance(error, OSError) and (error.filename is not None or error.errno in NO_ROOM)
    if ours or of_files or isinstance(error, flags.Error):
        return 2, _one_line(error)
    if NO_SPACE in str(error):  # of a library that writes by itself: safetensors
        place = re.search(r'"(/[^"]*)"', str(error))
        return 2, f"{place[1] if place else 'a file'}: {NO_SPACE}; {ADVICE[errno.ENOSPC]}"
    if isinstance(error, MemoryError) or re.match("RESOURCE_EXHAUSTED: .*memory", str(error)):  # JAX's
        return 2, (
            f"out of memory ({str(error).partition(chr(10))[0]}): more microbatches, model.rematerialize or "
            "a larger mesh need less, python -m rlhf_jax.plan says how much; the checkpoints are whole"
        )
    return 1, ""


def _check_arguments(argv: list[str]) -> str:
    """Misspelt fields and missing files, which the flag parser would report as a traceback.

    Returns the configuration file.
    """
    arguments, file = iter(argv[1:]), ""
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name == "--config":
            file = value or next(arguments, "")
            if not os.path.isfile(file):
                raise flags.Error(f"--config: no such file {file!r}")
        if field := re.match(r"--?(?:no)?config\.(.*)", name):
            check_name(field[1])
    return file


def _place(told: str, file: str) -> str:
    """Where in the configuration file a traceback ends."""
    numbers = re.findall(rf'File "[^"]*{re.escape(os.path.basename(file))}", line (\d+)', told)
    return f"{file}, line {numbers[-1]}" if numbers else file


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError):
        advice = f"; {ADVICE[error.errno]}" if error.errno in ADVICE else ""
        return f"{error.filename or 'writing a file of the run'}: {error.strerror}{advice}"
    return " ".join(str(error).split())

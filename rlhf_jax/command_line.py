"""What the commands that take a configuration share: its flags, and errors of use in one line.

--config=FILE         Python file with a get_config() that returns a Config
--config.FIELD=VALUE  another value for a field of rlhf_jax/config.py
"""

import os
import re
import signal
import sys
from collections.abc import Callable

from absl import flags
from ml_collections import config_flags

from rlhf_jax.config import Config, check_name, validate


class Stopped(Exception):
    """A run that a signal has ended."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}{text}; the same command resumes")
        self.status = 128 + number  # as shells say it: 130 after Ctrl-C, 143 after SIGTERM


def parse_config(argv: list[str], options: flags.FlagValues) -> Config:
    """The validated configuration of a command line, whose other flags `options` defines and receives."""
    _check_arguments(argv)
    config_flags.DEFINE_config_file("config", flag_values=options, sys_argv=argv)
    unknown = options(argv)[1:]
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
    if ours or isinstance(error, flags.Error) or (isinstance(error, OSError) and error.filename is not None):
        return 2, _one_line(error)
    return 1, ""


def _check_arguments(argv: list[str]) -> None:
    """Misspelt fields and missing files, which the flag parser would report as a traceback."""
    arguments = iter(argv[1:])
    for argument in arguments:
        name, _, file = argument.partition("=")
        if name == "--config":
            file = file or next(arguments, "")
            if not os.path.isfile(file):
                raise flags.Error(f"--config: no such file {file!r}")
        if field := re.match(r"--?(?:no)?config\.(.*)", name):
            check_name(field[1])


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}"
    text = str(error)
    if "Traceback" in text:  # an error raised by the configuration file itself
        text = f"{text.split(':')[0]}: {text.strip().splitlines()[-1]}"
    return " ".join(text.split())

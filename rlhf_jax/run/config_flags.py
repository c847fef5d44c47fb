"""The flags of a configuration, for the commands that take one.

--config=FILE         Python file with a get_config() that returns a Config; mini is short for configs/mini.py
--config.FIELD=VALUE  another value for a field of rlhf_jax/config.py
"""

import os
import re
import traceback
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from rlhf_jax.command_line import parse_flags
from rlhf_jax.config import Config
from rlhf_jax.validation import check_name, validate

CONFIGS = [Path(__file__).parents[up] / "configs" for up in (1, 2)]  # of an installed package, of a clone


def parse_config(argv: list[str], options: flags.FlagValues) -> Config:
    """The validated configuration of a command line, whose other flags `options` defines and receives.

    Raises ConfigError naming a wrong field, and flags.Error for all else.
    """
    argv = [named(argument) for argument in argv]
    file = _check_arguments(argv)
    config_flags.DEFINE_config_file("config", flag_values=options, sys_argv=argv)
    try:
        parse_flags(argv, options)
    except (Exception, SystemExit) as error:  # the latter by the configuration file, which is a program
        told = str(error) if isinstance(error, flags.Error) else "".join(traceback.format_exception(error))
        if "Traceback" not in told:
            raise
        raise flags.Error(f"{_place(told, file)}: {told.strip().splitlines()[-1]}") from None
    if options.config is None:
        raise flags.Error(
            "--config is missing: a file such as --config=configs/mini.py; --help shows the usage"
        )
    if not isinstance(options.config, Config):
        raise flags.Error(f"--config: get_config() returned {type(options.config).__name__}, not a Config")
    return validate(options.config)


def named(argument: str) -> str:
    """--config=mini as --config=FILE: that of configs/, which an installed package has inside."""
    flag, _, name = argument.partition("=")
    if flag == "--config" and name.isidentifier():
        for folder in CONFIGS:
            if (folder / f"{name}.py").is_file():
                return f"{flag}={folder / name}.py"
    return argument


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
                known = ", ".join(sorted(path.stem for folder in CONFIGS for path in folder.glob("*.py")))
                raise flags.Error(f"--config: no such file {file!r}; by name there are {known}")
        if field := re.match(r"--?(?:no)?config\.(.*)", name):
            check_name(field[1])
    return file


def _place(told: str, file: str) -> str:
    """Where in the configuration file a traceback ends."""
    numbers = re.findall(rf'File "[^"]*{re.escape(os.path.basename(file))}", line (\d+)', told)
    return f"{file}, line {numbers[-1]}" if numbers else file

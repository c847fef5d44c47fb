"""The configuration on a command line, for the commands that take one.

--config=FILE         Python file with a get_config() that returns a Config
--config.FIELD=VALUE  another value for a field of rlhf_jax/config.py
"""

import os
import re

from absl import flags
from ml_collections import config_flags

from rlhf_jax.config import Config, check_name, validate


def define_config(options: flags.FlagValues, argv: list[str]) -> None:
    """Adds --config to `options`. Misspelt fields and missing files, which the flag parser would report
    as a traceback, raise here."""
    arguments = iter(argv[1:])
    for argument in arguments:
        name, _, file = argument.partition("=")
        if name == "--config":
            file = file or next(arguments, "")
            if not os.path.isfile(file):
                raise flags.Error(f"--config: no such file {file!r}")
        if field := re.match(r"--?(?:no)?config\.(.*)", name):
            check_name(field[1])
    config_flags.DEFINE_config_file("config", flag_values=options, sys_argv=argv)


def config_of(options: flags.FlagValues) -> Config:
    """The configuration of parsed `options`, validated."""
    if options.config is None:
        raise flags.Error(
            "--config is missing: a file such as --config=configs/mini.py; --help shows the usage"
        )
    if not isinstance(options.config, Config):
        raise flags.Error(f"--config: get_config() returned {type(options.config).__name__}, not a Config")
    return validate(options.config)

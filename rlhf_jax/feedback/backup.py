"""Copies the labelling site's store, while the site runs.

rlhf-jax backup --store=feedback.sqlite --out=backup.sqlite

--store=FILE  the site's store; it may be running
--out=FILE    the copy, a store like it; must not exist; appears whole or not at all

The copy is the store as it is at one moment, readable by you alone.
"""

import contextlib
import os
from pathlib import Path

from absl import flags

from rlhf_jax.command_line import command, parse_flags
from rlhf_jax.feedback.store import Store, StoreError
from rlhf_jax.files import whole


def main(argv: list[str]) -> int:
    def run() -> None:
        options = flags.FlagValues()
        flags.DEFINE_string("store", None, "the site's store", required=True, flag_values=options)
        flags.DEFINE_string("out", None, "the copy", required=True, flag_values=options)
        parse_flags(argv, options)
        copy(Path(options.store), Path(options.out))
        print(f"{options.out}: a copy of {options.store}")

    return command(argv, run)


def copy(store: Path, out: Path) -> None:
    """Raises StoreError where `store` is none, or something stands at `out`."""
    if out.exists():
        raise StoreError(f"--out: {out} is there already; name a new file")
    with contextlib.closing(Store(store, must_exist=True)) as opened, whole(out) as partial:
        os.close(os.open(partial, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600))
        opened.backup(partial)

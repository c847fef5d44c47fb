"""Puts a copy of the labelling site's store where the site will read it.

rlhf-jax restore --backup=backup.sqlite --store=feedback.sqlite

--backup=FILE  a store, as `rlhf-jax backup` writes it
--store=FILE   where it is to be; must not exist: move what stands there away first, after ending the site

The copy is looked through before; people come back in by the links and sessions that were there then.
"""

import os
from pathlib import Path

from absl import flags

from rlhf_jax.command_line import command, parse_flags
from rlhf_jax.feedback import backup
from rlhf_jax.feedback.store import StoreError

BESIDE = ("-wal", "-shm", "-journal")  # what SQLite lays beside a store, and would read as a part of another


def main(argv: list[str]) -> int:
    def run() -> None:
        options = flags.FlagValues()
        flags.DEFINE_string("backup", None, "a copy of a store", required=True, flag_values=options)
        flags.DEFINE_string("store", None, "where it is to be", required=True, flag_values=options)
        parse_flags(argv, options)
        restore(Path(options.backup), Path(options.store))
        print(f"{options.store}: what {options.backup} holds; rlhf-jax serve goes on with it")

    return command(argv, run)


def restore(copy: Path, store: Path) -> None:
    """Raises StoreError where `copy` is no store or damaged, or where something stands at `store`."""
    for path in (store, *(Path(f"{os.fspath(store)}{end}") for end in BESIDE)):
        if path.exists():
            raise StoreError(f"--store: {path} is there; end the site, and move it away")
    backup.copy(copy, store)

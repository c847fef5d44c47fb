"""Where compiled programs are kept between starts."""

import os
from typing import Any

import jax


def keep_compiled(folder: str) -> None:
    """Has JAX keep compiled programs; settings that it finds in its own environment variables win.

    On the machine, or in a work folder on gs://, which outlives the machines of a preempted slice.
    """
    local: dict[str, Any] = {
        "jax_compilation_cache_dir": os.path.expanduser("~/.cache/rlhf_jax/compiled"),
        "jax_compilation_cache_max_size": 4 * 2**30,  # bytes; the ones not used for longest go
    }
    remote = {"jax_compilation_cache_dir": f"{folder.rstrip('/')}/compiled"}  # without locks nothing can go
    place = remote if folder.startswith("gs://") else local
    for option, value in (place | {"jax_persistent_cache_min_compile_time_secs": 0.2}).items():
        if option.upper() not in os.environ:
            jax.config.update(option, value)

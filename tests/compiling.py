"""How XLA compiles for tests, in pytest's own process and in those that tests start."""

import os
import subprocess
import sys

# Every program runs once or twice here, so compiling fast is worth more than running fast: six times.
FAST = "--xla_backend_optimization_level=0"
FASTER = ["--xla_cpu_use_fusion_emitters=false"]  # of some versions alone


def compile_fast() -> None:
    """Sets XLA_FLAGS: what is there already is kept and wins, and is passed on to other processes.

    XLA reads the variable once, when it first needs it, and ends a process whose flags it does not know:
    so a flag that some versions lack is tried in a process of its own, which needs half a second.
    """
    given = os.environ.get("XLA_FLAGS", "")
    if FAST.partition("=")[0] not in given:
        os.environ["XLA_FLAGS"] = " ".join([FAST, *filter(is_known, FASTER), given]).strip()


def is_known(flag: str) -> bool:
    """Whether this jaxlib takes the flag."""
    reads_flags = (
        "from jaxlib import xla_client; xla_client.CompileOptions().executable_build_options.debug_options"
    )
    command = [sys.executable, "-c", reads_flags]
    environment = os.environ | {"XLA_FLAGS": flag}
    return subprocess.run(command, env=environment, capture_output=True).returncode == 0

import os

import compiling
import hypothesis
import jax

compiling.compile_fast()
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = (
    "false"  # of processes started here, too: tests leave nothing behind
)
jax.config.update("jax_enable_compilation_cache", False)
jax.config.update("jax_num_cpu_devices", 8)
# A busy machine takes as long as it takes; and a commit passes or fails for what it changes, not by chance.
hypothesis.settings.register_profile("any machine", deadline=None, derandomize=True)
hypothesis.settings.register_profile("search", deadline=None)  # other examples every time
hypothesis.settings.load_profile("any machine")


def pytest_collection_modifyitems(items):
    """What tests the whole takes longest and begins, so that at the end no worker waits long for another."""
    items.sort(key=lambda item: item.path.parent.name != "whole")


def pytest_addoption(parser):
    parser.addoption("--screenshots", help="folder for what browser tests see")
    parser.addoption("--kills", type=int, default=100, help="moments of tests/whole/test_kills.py")

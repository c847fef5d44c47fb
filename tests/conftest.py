import os

import jax

# Every program runs once or twice here, so compiling fast is worth more than running fast: six times.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = (
    "false"  # of processes started here, too: tests leave nothing behind
)
jax.config.update("jax_enable_compilation_cache", False)
jax.config.update("jax_num_cpu_devices", 8)


def pytest_addoption(parser):
    parser.addoption("--screenshots", help="folder for what browser tests see")
    parser.addoption("--kills", type=int, default=100, help="moments of tests/whole/test_kills.py")

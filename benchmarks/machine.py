"""What the machine itself can do: a worker that measures it whenever asked, between the others' turns."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.worker import timed

SIZE = 2048  # of the square float32 matrices
WORDS = 2**26  # float32 of the array that is read and written in place: 256 MB, far beyond any cache


def main() -> None:
    matrix = np.random.default_rng(0).normal(size=(SIZE, SIZE)).astype(np.float32)
    on_device = jnp.asarray(matrix)
    product = jax.jit(jnp.matmul)
    add_one = jax.jit(lambda x: x + 1, donate_argnums=0)
    arrays = [jnp.zeros(WORDS, jnp.float32)]

    def multiply():
        product(on_device, on_device).block_until_ready()

    def read_and_write():
        arrays.append(add_one(arrays.pop()).block_until_ready())

    multiply()
    read_and_write()
    for _ in sys.stdin:
        speeds = {
            "numpy": 2e-9 * SIZE**3 / timed(lambda: matrix @ matrix),  # GFLOP/s
            "jax": 2e-9 * SIZE**3 / timed(multiply),
            "bandwidth": 8e-9 * WORDS / timed(read_and_write),  # GB/s
        }
        print(json.dumps(speeds), flush=True)


if __name__ == "__main__":
    main()

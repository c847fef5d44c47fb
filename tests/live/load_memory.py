"""Measures the host memory that loading a pretrained model takes, on eight simulated devices.

python tests/live/load_memory.py FOLDER

All eight devices are on this host, so its shards are the whole model in float32.
"""

import sys
import threading
import time
from pathlib import Path

import jax

from rlhf_jax.config import MeshConfig, ModelConfig
from rlhf_jax.data.tokenizer import load_tokenizer
from rlhf_jax.mesh import make_mesh
from rlhf_jax.model import params, pretrained, transformer


def resident() -> int:
    """Bytes of this process that are no mapped files."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("RssAnon:")[1].split()[0])


def measure(folder: Path) -> str:
    model = pretrained.architecture(ModelConfig(), str(folder))
    specs = transformer.specs(model, load_tokenizer(folder).vocab_size)
    like = params.abstract(specs, make_mesh(MeshConfig(1, 8, 1)))
    tensors = pretrained.Tensors(folder)
    largest = max(tensors.read(name).nbytes for name in tensors.names())
    jax.block_until_ready(jax.device_put(1.0))
    before, peak, done = resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, resident())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.monotonic()
    jax.block_until_ready(pretrained.load(folder, like))
    seconds = time.monotonic() - start
    done.set()
    watcher.join()
    return (
        f"shards of this host {4 * params.count(specs) / 1e6:.0f} MB, largest tensor {largest / 1e6:.0f} MB, "
        f"peak {(peak - before) / 1e6:.0f} MB above the start, {seconds:.1f} s"
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    jax.config.update("jax_num_cpu_devices", 8)
    print(measure(Path(sys.argv[1])))

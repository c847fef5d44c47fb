"""GPUs to plan for: what their makers publish, and what XLA's compiler must know of them.

Memory is what CUDA reports as the card's whole, which is less than its name says.
"""

import string
from pathlib import Path
from typing import Any, NamedTuple

NVIDIA = "https://www.nvidia.com/en-us/data-center"
WHITEPAPER = "https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf"
TARGET = Path(__file__).with_name("gpu.textproto")
GIB = 2**30


class Card(NamedTuple):
    name: str
    flops: float  # bfloat16 operations a second, summed in float32, without sparsity
    memory: int  # bytes
    bandwidth: float  # bytes a second from and to memory
    links: float  # bytes a second from other cards of the host: NVLink, or PCIe where there is none
    capability: tuple[int, int]  # CUDA's, such as (9, 0)
    cores: int  # streaming multiprocessors
    threads: int  # resident on one of them
    units: int  # of float32 in one of them
    shared: int  # bytes of shared memory of one of them
    block_shared: int  # and of it those that one block may ask for
    cache: int  # bytes of the L2 cache
    clock: float  # GHz
    source: str

    @property
    def target(self) -> str:
        """What the compiler is told in place of a card, as XLA's GpuTargetConfigProto in text."""
        figures = self._asdict() | {"bandwidth": int(self.bandwidth)}
        major, minor = self.capability
        template = string.Template(TARGET.read_text(encoding="utf-8"))
        return template.substitute(figures, major=major, minor=minor)


AMPERE: dict[str, Any] = {
    "capability": (8, 0),
    "threads": 2048,
    "units": 64,
    "shared": 167_936,
    "block_shared": 166_912,
}
ADA: dict[str, Any] = {
    "capability": (8, 9),
    "threads": 1536,
    "units": 128,
    "shared": 102_400,
    "block_shared": 101_376,
}
HOPPER: dict[str, Any] = {
    "capability": (9, 0),
    "threads": 2048,
    "units": 128,
    "shared": 233_472,
    "block_shared": 232_448,
}
BLACKWELL = HOPPER | {"capability": (10, 0)}
A100 = AMPERE | {"cores": 108, "cache": 40 * 2**20, "clock": 1.41, "source": f"{NVIDIA}/a100"}
GH100 = HOPPER | {"cores": 132, "cache": 50 * 2**20, "clock": 1.98}

CARDS = {
    "rtx4090": Card(
        name="GeForce RTX 4090",
        flops=165.2e12,
        memory=int(23.64 * GIB),
        bandwidth=1008e9,
        links=32e9,
        **ADA,
        cores=128,
        cache=72 * 2**20,
        clock=2.52,
        source=WHITEPAPER,
    ),
    "l4": Card(
        name="L4",
        flops=121e12,
        memory=int(22.03 * GIB),
        bandwidth=300e9,
        links=32e9,
        **ADA,
        cores=58,
        cache=48 * 2**20,
        clock=2.04,
        source=f"{NVIDIA}/l4",
    ),
    "a100-40": Card("A100-SXM4-40GB", 312e12, 42_331_013_120, 1555e9, 300e9, **A100),
    "a100-80": Card("A100-SXM4-80GB", 312e12, 85_100_068_864, 2039e9, 300e9, **A100),
    "h100": Card("H100 80GB HBM3", 989e12, 84_929_347_584, 3352e9, 450e9, **GH100, source=f"{NVIDIA}/h100"),
    "h200": Card("H200", 989e12, int(139.8 * GIB), 4800e9, 450e9, **GH100, source=f"{NVIDIA}/h200"),
    "b200": Card(
        name="B200",
        flops=2250e12,
        memory=191_514_411_008,
        bandwidth=8000e9,
        links=900e9,
        **BLACKWELL,
        cores=148,
        cache=132_644_864,
        clock=1.965,
        source=f"{NVIDIA}/dgx-b200",
    ),
}
CARDS["gpu"] = CARDS["h100"]

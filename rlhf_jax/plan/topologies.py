"""Machines to plan for: their devices as a compiler sees them, and what their makers publish of the chips."""

import contextlib
import importlib.metadata
import math
import os
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
from jax.experimental import topologies

from rlhf_jax.plan.cards import CARDS, GIB, Card

KNOWN = (
    f"one of the cards {', '.join(CARDS)}, several as h100:1x4x8 (slices x hosts x devices), "
    "v4:2x2x4, v5e:4x4, v5p:4x4x4, v6e:8x8 and cpu:8"
)
TPU_DOCS = "https://docs.cloud.google.com/tpu/docs"


class PlanError(ValueError):
    """What cannot be planned as asked; the message says what can."""


class Chip(NamedTuple):
    flops: float  # bfloat16 operations a second, without sparsity
    memory: float  # bytes
    taken: float  # share of it that JAX takes by itself
    usable: float  # share of it that JAX can be told to take, on a GPU by XLA_PYTHON_CLIENT_MEM_FRACTION
    bandwidth: float  # bytes a second from and to memory
    links: float  # bytes a second that a chip receives from the others of its slice or host
    source: str


CHIPS = {
    "v4": Chip(275e12, 32 * GIB, 1.0, 1.0, 1200e9, 300e9, f"{TPU_DOCS}/v4, links: arXiv 2304.01433, table 4"),
    "v5e": Chip(197e12, 16 * GIB, 1.0, 1.0, 819e9, 200e9, f"{TPU_DOCS}/v5e"),
    "v5p": Chip(459e12, 95 * GIB, 1.0, 1.0, 2765e9, 600e9, f"{TPU_DOCS}/v5p"),
    "v6e": Chip(918e12, 32 * GIB, 1.0, 1.0, 1638e9, 400e9, f"{TPU_DOCS}/v6e"),
}
"""TPUs. Links in one direction: half of the bidirectional figures."""
ON_GPU = (0.75, 0.95)  # taken and usable: the last twentieth is of CUDA's context and of cuBLAS


class Topology(NamedTuple):
    name: str
    devices: Sequence
    platform: str  # tpu, cuda or cpu: what the program is lowered for
    chip: Chip | None  # none for simulated devices
    compiler: str  # with its version


def find(name: str, memory: float | None = None) -> Topology:
    """The machine called `name`, whose GPUs have so many GiB of memory where it is said.

    Raises PlanError for one that is not known or whose compiler is not here. To be called before anything
    runs in JAX: it keeps JAX off accelerators that this machine may have.
    """
    kind, _, shape = name.lower().partition(":")
    if memory is not None and kind not in CARDS:
        raise PlanError(f"--memory: {name!r} has the memory that it has; only GPUs take another")
    if memory is not None and not 0 < memory < math.inf:
        raise PlanError(f"--memory: {memory:g} GiB should be positive")
    if kind == "cpu" and shape.isdecimal():
        return _simulated(name, int(shape))
    if kind in CARDS:
        card = CARDS[kind] if memory is None else CARDS[kind]._replace(memory=round(memory * GIB))
        described = name if memory is None else f"{name} of {memory:g} GiB"
        return _described(described, chip_of(card), lambda: _gpus(name, shape or "1x1x1", card))
    if kind in CHIPS and re.fullmatch(r"\d+(x\d+){1,2}", shape):
        return _described(name, CHIPS[kind], lambda: _tpu_slice(name))
    raise PlanError(f"--topology: {name!r} is not known; known are for example {KNOWN}")


def _described(name: str, chip: Chip, describe: Callable[[], tuple[Sequence, str, str]]) -> Topology:
    jax.config.update("jax_platforms", "cpu")
    try:
        devices, platform, compiler = describe()
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if isinstance(error, PlanError):
            raise
        words = str(error).splitlines()[0]
        raise PlanError(f"--topology: the compiler does not know {name!r} ({words}); try {KNOWN}") from None
    return Topology(name, devices, platform, chip, compiler)


def chip_of(card: Card) -> Chip:
    return Chip(card.flops, card.memory, *ON_GPU, card.bandwidth, card.links, card.source)


def _simulated(name: str, count: int) -> Topology:
    if not count:
        raise PlanError(f"--topology: {name!r} has no device: cpu:1 has one")
    with contextlib.suppress(RuntimeError):  # JAX runs already, with the devices it has
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if count > len(devices):
        raise PlanError(f"--topology: {name!r}, but JAX runs with {len(devices)} simulated devices")
    return Topology(name, devices[:count], "cpu", None, f"jaxlib {importlib.metadata.version('jaxlib')}")


def _tpu_slice(name: str):
    version = version_of("libtpu", "plan-tpu")
    os.environ |= {
        "TPU_SKIP_MDS_QUERY": "1",  # this is no TPU machine: do not ask its metadata server
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",  # this and the next: silences warnings
        "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    }
    # A v4 chip has two cores, which JAX uses as one device; the compiler must be told.
    cores = {"chip_config_name": "megacore"} if name.startswith("v4:") else {}
    described = topologies.get_topology_desc(platform="tpu", topology_name=name, **cores)
    return described.devices, "tpu", f"libtpu {version}"


def _gpus(name: str, shape: str, card: Card):
    if not re.fullmatch(r"\d+x\d+x\d+", shape):
        kind = name.partition(":")[0]
        raise PlanError(f"--topology: {name!r} should be {kind}:SLICESxHOSTSxDEVICES, such as {kind}:1x4x8")
    version = version_of("jax-cuda13-plugin", "plan-gpu")
    version_of("nvidia-cudnn-cu13", "plan-gpu")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0"
    described = topologies.get_topology_desc(platform="cuda", target_config=card.target, topology=shape)
    return described.devices, "cuda", f"jax-cuda13-plugin {version}"


def version_of(package: str, extra: str, wanted_by: str = "--topology") -> str:
    """The version of a compiler's package, which comes with an `extra` of this one."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise PlanError(f"{wanted_by}: the compiler is not installed: pip install -e '.[{extra}]'") from None

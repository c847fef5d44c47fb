"""Low-rank adapters (Hu et al., 2021): a frozen matrix W, and beside it the change s · A · B that is trained.

A is [in, r], B is [r, out], and s = alpha / r. With r far below the sizes of W, what is trained and all that
the optimizer keeps of it is a hundredth of the model. B begins as 0, so that the beginning is W exactly.

What is trained is a tree of its own. `attach` lays it over the frozen base, and the result is a network
like any other, some of whose matrices are `Adapted`: model/products.py multiplies by them. Where the whole
model is trained, the base is {}, and the network is what is trained.
"""

import math
import string
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import PartitionSpec as P

from rlhf_jax.config import LoraConfig
from rlhf_jax.model.params import ParamSpec, constant, normal

# Axes of each matrix over which a product sums; the others are those of its result.
SUMMED = {"query": 1, "key": 1, "value": 1, "out": 3, "up": 1, "gate": 1, "down": 1}


class Adapter(struct.PyTreeNode):
    """What is trained of one matrix [*in, *out]; in a stack of layers, with their axis in front."""

    a: Any  # [*in, r]
    b: Any  # [r, *out]


class Adapted(struct.PyTreeNode):
    """A matrix with the change that stands beside it."""

    weight: Any  # [*in, *out]
    adapter: Adapter


def trained(specs, lora: LoraConfig):
    """Of the specs of a network those of what is trained: all of them, or adapters and the scalar head."""
    if not lora.rank:
        return specs
    if "transformer" in specs:
        return specs | {"transformer": trained(specs["transformer"], lora)}
    layers = {part: specs["layers"][part] for part in ("attention", "mlp")}
    adapters = {
        part: {name: _adapter(spec, name, lora.rank) for name, spec in tree.items() if name in lora.matrices}
        for part, tree in layers.items()
    }
    return {"layers": {part: found for part, found in adapters.items() if found}}


def _adapter(spec: ParamSpec, name: str, rank: int) -> Adapter:
    """Split as the matrix is, the rank never. Entries of A have the variance of PEFT's: 1 / (3 · inputs)."""
    split = 1 + SUMMED[name]
    partition = (*spec.partition, *[None] * (len(spec.shape) - len(spec.partition)))
    (layers, *inputs), outputs = spec.shape[:split], spec.shape[split:]
    std = (3 * math.prod(inputs)) ** -0.5
    return Adapter(
        ParamSpec((layers, *inputs, rank), P(*partition[:split], None), normal(std)),
        ParamSpec((layers, rank, *outputs), P(None, None, *partition[split:]), constant(0.0)),
    )


def attach(base, params) -> Any:
    """The network of `params`, which are trained, beside the frozen `base`, a transformer; None of None.

    A new tree of the same arrays. Nothing is computed, so that gradients by `params` know no others.
    """
    if params is None:
        return None
    if isinstance(params, tuple):  # of networks
        return tuple(attach(base, one) for one in params)
    if isinstance(params, dict) and "transformer" in params:
        return params | {"transformer": attach(base, params["transformer"])}
    if isinstance(params, Adapter):
        return Adapted(base, params)
    if not isinstance(params, dict):
        return params
    return base | {name: attach(base.get(name, {}), own) for name, own in params.items()}


def merged(network, lora: LoraConfig):
    """The same network as plain float32 matrices, W + s · A · B; its base is not quantized."""

    def merge(w):
        if not isinstance(w, Adapted):
            return jnp.asarray(w, jnp.float32)
        stack = w.adapter.a.ndim + w.adapter.b.ndim - 2 - w.weight.ndim  # axes of layers
        axes = string.ascii_lowercase[: w.weight.ndim - stack]
        inputs = axes[: w.adapter.a.ndim - 1 - stack]
        change = jnp.einsum(
            f"...{inputs}z,...z{axes.removeprefix(inputs)}->...{axes}",
            w.adapter.a,
            w.adapter.b,
            precision=jax.lax.Precision.HIGHEST,
            out_sharding=None if jax.sharding.get_abstract_mesh().empty else jax.typeof(w.weight).sharding,
        )
        return w.weight.astype(jnp.float32) + lora.scale * change

    return jax.tree.map(merge, network, is_leaf=lambda x: isinstance(x, Adapted))


def through_rank(equation: str) -> tuple[str, str]:
    """The equations of x·A and (x·A)·B from that of x·W: "btd,df->btf" → "btd,dr->btr", "btr,rf->btf"."""
    x, both = equation.split(",")
    w, y = both.split("->")
    summed = "".join(axis for axis in w if axis in x)
    return f"{x},{summed}r->btr", f"btr,r{w.removeprefix(summed)}->{y}"

"""Products of activations and weights, and their layout on a CPU.

An activation x is [B, T, D], a weight w [D, F], their product y [B, T, F], all row-major: rows and positions
lie in memory as one axis. XLA's CPU compiler sees that in the forward pass, one product of matrices
[B·T, D] · [D, F]. In the backward pass it does not: the weights' gradient, Σ_bt x[b, t, d] dy[b, t, f], is
a sum over two axes, which it makes one by writing dy once more as [F, B·T], although the product of matrices
can read it as it lies. So on a CPU rows and positions are one axis from the start, and so are all heads;
elsewhere, where compilers choose layouts themselves, axes stay as the mesh splits them.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rlhf_jax.config import ModelConfig
from rlhf_jax.mesh import ROWS, layout
from rlhf_jax.model.lora import Adapted, through_rank
from rlhf_jax.model.quantized import Quantized


def unrolled(config: ModelConfig) -> bool:
    """Whether the program is a CPU's, one layer after another, or a loop over the layers."""
    return config.layer_loop == "unroll" or (config.layer_loop == "auto" and jax.default_backend() == "cpu")


def multiply(
    equation: str,
    x: Array,
    w: Array | Adapted | Quantized,
    config: ModelConfig,
    split: str | None,
    dtype=None,
) -> Array:
    """jnp.einsum over b and t of x, summed over the first axes of w; of type `dtype`, or their own.

    The mesh axis `split` splits the first axis of w that stays; where it is None, `tensor` may split the
    first that is summed.
    """
    if isinstance(w, Adapted):  # x·W + s (x·A)·B: the sum of the matrices would be one more in memory
        down, up = through_rank(equation)
        low = multiply(down, x, w.adapter.a, config, None)
        change = multiply(up, low, w.adapter.b, config, split, dtype)
        return multiply(equation, x, w.weight, config, split, dtype) + config.lora.scale * change
    if isinstance(
        w, Quantized
    ):  # whole here, and again for the gradient by x: kept, all layers would be whole

        @jax.checkpoint
        def product(x, w):
            return multiply(equation, x, w.whole(config.dtype), config, split, dtype)

        return product(x, w)
    out = layout(ROWS, None, split)
    if not unrolled(config):
        return jnp.einsum(equation, x, w, preferred_element_type=dtype, out_sharding=out)
    x = jnp.moveaxis(x, equation.index("t"), 1)
    (rows, tokens), summed, kept = x.shape[:2], x.shape[2:], w.shape[x.ndim - 2 :]
    if w.ndim > 2:  # heads, their groups and their dimensions become one axis
        spec = jax.typeof(w).sharding.spec  # without fsdp where the weights were gathered to sample
        w = w.reshape(math.prod(summed), math.prod(kept), out_sharding=layout(spec[0], spec[len(summed)]))
    over = jax.typeof(x).sharding.spec[2]
    x = x.reshape(rows * tokens, w.shape[0], out_sharding=layout(ROWS, over))
    y = jnp.einsum("nd,df->nf", x, w, preferred_element_type=dtype, out_sharding=layout(ROWS, split))
    return y.reshape(rows, tokens, *kept, out_sharding=out)

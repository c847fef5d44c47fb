"""Weights in bfloat16: what an update makes of them is rounded up or down at random, by how near each lies.

A bfloat16 has 8 bits of precision, and most updates change a weight by less than half its last bit. Rounded
to the nearest they would all be lost; rounded at random they are kept on average.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, BFloat16, Float, Int

from rlhf_jax.training.layerwise import layer_by_layer


def apply_updates(params, updates, step: Int[Array, ""]):
    """`optax.apply_updates`, where parameters in bfloat16 are rounded at random, by the number of the step.

    The noise is the same for all networks and seeds: it has nothing to do with what is rounded.
    """
    leaves, structure = jax.tree.flatten(params)
    pairs = zip(leaves, jax.tree.leaves(updates), strict=True)
    made = [_updated(x, update, step, i) for i, (x, update) in enumerate(pairs)]
    return jax.tree.unflatten(structure, made)


def _updated(x: Array, update: Array, step: Int[Array, ""], leaf: int) -> Array:
    if x.dtype != jnp.bfloat16:
        return optax.apply_updates(x, update)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), step), leaf)

    def of_layer(i, x, update):
        exact = x.astype(jnp.float32) + update.astype(jnp.float32)
        return stochastic(exact, jax.random.fold_in(key, i)), update

    return layer_by_layer(of_layer, x, update)[0]


def stochastic(x: Float[Array, "*shape"], key: jax.Array) -> BFloat16[Array, "*shape"]:
    """One of the two neighbours of each float32 number; its mean over keys is the number.

    A bfloat16 is the upper half of a float32. A number of as many bits as the lower half, drawn at random and
    added to it, carries into the upper one as often as the lower half is large.
    """
    split = None if jax.sharding.get_abstract_mesh().empty else jax.typeof(x).sharding
    noise = jax.random.bits(key, x.shape, jnp.uint16, out_sharding=split).astype(jnp.uint32)
    carried = jax.lax.bitcast_convert_type(x, jnp.uint32) + noise
    upper = jax.lax.shift_right_logical(carried, jnp.uint32(16)).astype(jnp.uint16)
    return jax.lax.bitcast_convert_type(upper, jnp.bfloat16)

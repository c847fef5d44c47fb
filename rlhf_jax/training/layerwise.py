"""Updates of stacked layers, one after the other and in their place: one at a time is whole in float32."""

from collections.abc import Callable

import jax


def layer_by_layer(of_layer: Callable, first: jax.Array, *rest):
    """`of_layer(i, first, *rest)` for each i of the leading axis; it returns what takes the place of them.

    Arrays of fewer than three axes are no stacks of matrices, and are computed at once, as layer 0.
    """
    if first.ndim < 3:
        return of_layer(0, first, *rest)

    def layer(i, stacks):
        own = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), stacks)
        return jax.tree.map(
            lambda x, made: jax.lax.dynamic_update_index_in_dim(x, made, i, axis=0), stacks, of_layer(i, *own)
        )

    return jax.lax.fori_loop(0, first.shape[0], layer, (first, *rest))

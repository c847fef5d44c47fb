"""Looking tokens up in an embedding table that the mesh splits."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from rlhf_jax.mesh import ROWS, layout, reshard


def look_up(table: Float[Array, "V D"], tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
    """The tokens' rows of a table whose rows are split over `tensor` and whose columns over `fsdp`.

    Each device looks the tokens of its fsdp group up in its own part, then exchanges columns for rows:
    neither table nor gradient is ever whole on a device. A plain lookup replicates the activations.
    """
    if jax.sharding.get_abstract_mesh().size <= 1:  # nothing is split
        return table.at[tokens].get(out_sharding=layout(ROWS))

    def in_own_part(part, tokens):
        ids = jax.lax.all_gather(tokens, "fsdp", tiled=True) - jax.lax.axis_index("tensor") * part.shape[0]
        own = (ids >= 0) & (ids < part.shape[0])
        x = jnp.where(own[..., None], part[jnp.where(own, ids, 0)], 0)
        x = jax.lax.psum(x, "tensor")
        return jax.lax.all_to_all(x, "fsdp", split_axis=0, concat_axis=2, tiled=True)

    in_specs, rows = (P("tensor", "fsdp"), P(ROWS)), P(ROWS)
    on_each = jax.shard_map(in_own_part, in_specs=in_specs, out_specs=rows, check_vma=False)
    return on_each(reshard(table, "tensor", "fsdp"), reshard(tokens, ROWS))

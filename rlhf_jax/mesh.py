"""The device mesh: three named axes that always exist, of size 1 where unused.

`replica` holds copies of the parameters, `fsdp` splits both parameters and rows of a batch,
`tensor` splits heads, hidden units and the vocabulary. Data parallel, fully sharded and tensor
parallel differ in the mesh's shape alone. Axes are explicit: a wrong layout is a type error at
trace time, on a laptop too. Without a mesh set (a notebook), every layout below is None and the
same functions run on one device.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int

from rlhf_jax.config import ConfigError, MeshConfig

AXES = ("replica", "fsdp", "tensor")
ROWS = ("replica", "fsdp")  # the axes that split the rows of a batch


def make_mesh(config: MeshConfig | None = None, devices=None) -> Mesh:
    """The mesh of `config`; use it as `with jax.set_mesh(make_mesh(config)): …`."""
    config = config or MeshConfig()
    devices = jax.devices() if devices is None else devices
    fixed = config.replica * config.tensor
    fsdp = max(len(devices) // fixed, 1) if config.fsdp == -1 else config.fsdp
    needed = fixed * fsdp
    if needed > len(devices) or (config.fsdp == -1 and needed != len(devices)):
        raise ConfigError(
            f"mesh: replica={config.replica} fsdp={config.fsdp} tensor={config.tensor} "
            f"do not fit the {len(devices)} devices present"
        )
    if set(range(jax.process_count())) - {device.process_index for device in devices[:needed]}:
        raise ConfigError(
            f"mesh: replica={config.replica} fsdp={config.fsdp} tensor={config.tensor} leaves some of the "
            f"{jax.process_count()} processes without a device: use all {len(devices)} devices"
        )
    shape = (config.replica, fsdp, config.tensor)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Explicit,) * 3, devices=devices[:needed])


def layout(*axes) -> P | None:
    """The partition an array should have on the current mesh; None where there is no mesh."""
    return None if jax.sharding.get_abstract_mesh().empty else P(*axes)


def reshard(x: jax.Array, *axes) -> jax.Array:
    """`x` moved to the given partition of the current mesh."""
    return x if layout() is None else jax.reshard(x, P(*axes))


def in_rows_of(x: jax.Array, part: jax.Array) -> jax.Array:
    """`part` of x with its rows laid out as those of x, which JAX forgets where a single entry is left."""
    return part if layout() is None else reshard(part, jax.typeof(x).sharding.spec[0])


def row_shards(mesh: Mesh | AbstractMesh) -> int:
    """Into how many parts the rows of a batch are split: batch sizes must be multiples of it."""
    return math.prod(mesh.shape[axis] for axis in ROWS)


def check_rows(field: str, rows: int, parts: int, mesh: Mesh) -> None:
    """Raises ConfigError unless `rows` split into `parts` microbatches with a share for every row shard."""
    shards = row_shards(mesh)
    if rows % (parts * shards):
        raise ConfigError(
            f"{field}: {rows} rows do not split into {parts} parts over {shards} row shards "
            f"(replica × fsdp): use a multiple of {parts * shards}"
        )


def to_devices(batch, mesh: Mesh):
    """A pytree of host arrays [rows, …] as global arrays with their rows split over the mesh.

    Every host makes the whole batch, a few megabytes of tokens that are a function of the step, and
    its devices get their own rows of it: which ones, the mesh says, not the number of hosts.
    """

    def put(x: np.ndarray) -> jax.Array:
        sharding = NamedSharding(mesh, P(ROWS))
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(put, batch)


def abstract_rows(mesh: Mesh, shape: tuple[int, ...], dtype=np.int32) -> jax.ShapeDtypeStruct:
    """What `to_devices` makes of a host array, without the values."""
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, P(ROWS)))


def abstract_batch(mesh: Mesh, batch):
    """The same of a whole batch, whose values do not matter."""
    return jax.tree.map(lambda x: abstract_rows(mesh, x.shape, x.dtype), batch)


def to_host(x: jax.Array) -> np.ndarray:
    """The whole of an array, on every host; all must ask for it."""
    if x.is_fully_addressable:
        return np.asarray(x)
    return multihost_utils.process_allgather(x, tiled=True)


def in_memory(tree, space):
    """The arrays of a tree in a `jax.memory.Space`, of the hosts or the devices, split as they are.

    Scalars stay.
    """
    return jax.tree.map(lambda x: jax.device_put(x, space) if x.ndim else x, tree)


def split_rows(batch, parts: int):
    """[B, …] → [parts, B / parts, …], every part spread over all row shards.

    Row i goes to part i mod parts, so that no row leaves its device.
    """

    def split(x: jax.Array) -> jax.Array:
        rest = x.shape[1:]
        grouped = x.reshape(x.shape[0] // parts, parts, *rest, out_sharding=layout(ROWS))
        return grouped.swapaxes(0, 1)

    return jax.tree.map(split, batch)


def merge_rows(parts, together: int = 1):
    """[parts, B / parts, …] → [B, …], the rows in the order that `split_rows` took them from.

    So many rows `together` were made of each row that `split_rows` took.
    """

    def merge(x: jax.Array) -> jax.Array:
        count, rows, *rest = x.shape
        grouped = x.reshape(count, -1, together, *rest, out_sharding=layout(None, ROWS))
        return grouped.swapaxes(0, 1).reshape(count * rows, *rest, out_sharding=layout(ROWS))

    return jax.tree.map(merge, parts)


def group_rows(batch, groups: int):
    """[B, …] → [groups, B / groups, …]; B may differ among arrays, as of prompts and their responses."""

    def group(x: jax.Array) -> jax.Array:
        shape = groups, x.shape[0] // groups, *x.shape[1:]
        return jnp.reshape(x, shape, out_sharding=layout(ROWS))

    return jax.tree.map(group, batch)


def ungroup_rows(batch):
    """What `group_rows` has put together, apart again."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:], out_sharding=layout(ROWS)), batch)


def shuffle_rows(batch, key: jax.Array):
    """The same rows in a random order, spread over the devices as before."""
    return take_rows(batch, jax.random.permutation(key, jax.tree.leaves(batch)[0].shape[0]))


def sort_rows(batch, by: Int[Array, "B"], parts: int):
    """The same rows such that each of `parts` in which `split_rows` takes them apart has a run in order."""
    order = jnp.argsort(reshard(by, None))
    return take_rows(batch, order.reshape(parts, -1).T.reshape(-1))


def take_rows(batch, order: Int[Array, "B"]):
    """The rows in this order, spread over the devices as before."""
    return jax.tree.map(lambda x: x.at[order].get(out_sharding=layout(ROWS)), batch)

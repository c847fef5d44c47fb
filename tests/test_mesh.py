import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.config import ConfigError, MeshConfig
from rlhf_jax.mesh import (
    ROWS,
    layout,
    make_mesh,
    merge_rows,
    reshard,
    row_shards,
    shuffle_rows,
    sort_rows,
    split_rows,
    to_devices,
)


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (MeshConfig(), (1, 8, 1)),
        (MeshConfig(2, -1, 2), (2, 2, 2)),
        (MeshConfig(1, -1, 8), (1, 1, 8)),
        (MeshConfig(1, 2, 1), (1, 2, 1)),  # fewer than are present
    ],
)
def test_shape_on_eight_devices(config, shape):
    assert tuple(make_mesh(config).shape.values()) == shape


@pytest.mark.parametrize("config", [MeshConfig(3), MeshConfig(2, 8, 1), MeshConfig(1, -1, 16)])
def test_a_shape_that_does_not_fit_is_named(config):
    message = f"mesh: replica={config.replica} fsdp={config.fsdp} tensor={config.tensor} .* 8 devices"
    with pytest.raises(ConfigError, match=message):
        make_mesh(config)


def test_rows_are_split_over_replica_and_fsdp_and_copied_over_tensor():
    mesh = make_mesh(MeshConfig(2, 2, 2))
    rows = np.arange(24).reshape(8, 3)
    array = to_devices({"x": rows}, mesh)["x"]
    assert row_shards(mesh) == 4
    np.testing.assert_array_equal(array, rows)
    for shard in array.addressable_shards:
        replica, fsdp, _ = np.argwhere(mesh.devices == shard.device)[0]
        first = 2 * (2 * replica + fsdp)
        np.testing.assert_array_equal(shard.data, rows[first : first + 2])


def test_without_a_mesh_there_is_no_layout():
    assert layout(ROWS, None) is None
    x = jnp.ones(3)
    assert reshard(x, ROWS) is x


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_every_row_is_in_one_part_on_the_device_it_was_on(parts):
    mesh = make_mesh(MeshConfig(2, 2, 2))
    rows = np.arange(16)
    with jax.set_mesh(mesh):
        x = to_devices(rows, mesh)
        split = jax.jit(split_rows, static_argnums=1)(x, parts)
    assert split.shape == (parts, 16 // parts)
    assert sorted(np.ravel(split)) == list(rows)
    had = {shard.device: set(np.ravel(shard.data)) for shard in x.addressable_shards}
    has = {shard.device: set(np.ravel(shard.data)) for shard in split.addressable_shards}
    assert has == had
    np.testing.assert_array_equal(split, split_rows(jnp.asarray(rows), parts))  # one device deals them alike


@pytest.mark.parametrize("together", [1, 2])
def test_merged_parts_have_the_rows_in_their_first_order(together):
    """Two rows were made of each: they stand where it stood."""
    rows = jnp.arange(8)
    made = jnp.repeat(split_rows(rows, 4), together, axis=1)
    np.testing.assert_array_equal(merge_rows(made, together), np.repeat(rows, together))


def test_shuffled_rows_stay_whole():
    rows = {"a": jnp.arange(32), "b": jnp.arange(32)[:, None] * jnp.ones(3)}
    shuffled = jax.device_get(shuffle_rows(rows, jax.random.key(0)))
    assert sorted(shuffled["a"]) == list(range(32)) and list(shuffled["a"]) != list(range(32))
    np.testing.assert_array_equal(shuffled["b"], shuffled["a"][:, None] * np.ones(3))


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_parts_of_sorted_rows_are_runs_in_order(parts):
    mesh = make_mesh(MeshConfig(2, 2, 2))
    lengths = np.random.default_rng(0).integers(1, 9, 16)
    with jax.set_mesh(mesh):
        rows = to_devices({"length": lengths, "row": np.arange(16)}, mesh)
        found = jax.jit(lambda rows: split_rows(sort_rows(rows, rows["length"], parts), parts))(rows)
    np.testing.assert_array_equal(np.ravel(found["length"]), np.sort(lengths))
    np.testing.assert_array_equal(lengths[found["row"]], found["length"])

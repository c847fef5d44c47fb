"""Adam in 8 bits against the numbers of the paper, against Adam, and on meshes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rlhf_jax.config import MeshConfig
from rlhf_jax.mesh import make_mesh
from rlhf_jax.training.adam_8bit import Rows, read, scale_by_adam_8bit, stored

SIZE = 4096  # entries from which moments take a byte


def dynamic_map(signed):
    """The numbers of a byte as bitsandbytes 0.49 makes them: `create_dynamic_map(signed, 7, 8)`."""
    data = [0.0, 1.0]
    for i in range(7):
        edges = np.linspace(0.1, 1, (2**i if signed else 2 ** (i + 1)) + 1)
        means = 10.0 ** (-6 + i) * (edges[:-1] + edges[1:]) / 2
        data += means.tolist() + (-means if signed else means[:0]).tolist()
    return np.sort(np.array(data))


@pytest.mark.parametrize("signed", [True, False])
def test_a_byte_is_one_of_the_256_numbers_of_the_paper(signed):
    every = Rows(np.arange(256, dtype=np.uint8)[None], np.ones((1, 1), np.float32))
    numbers = np.sort(np.asarray(read(every, signed))[0])
    np.testing.assert_allclose(numbers, dynamic_map(signed), rtol=1e-6)
    again = stored(read(every, signed), signed)
    np.testing.assert_array_equal(again.codes, every.codes)


@pytest.mark.parametrize("signed", [True, False])
def test_what_is_stored_is_next_to_what_was_given(signed):
    """Within half a part of its decade; below the decades 0; the largest, where it is positive, exactly."""
    rng = np.random.default_rng(0)
    share = 10 ** rng.uniform(-7.5, 0, 5000)
    x = (3.0 * share * (rng.choice([-1, 1], 5000) if signed else 1)).astype(np.float32)[None]
    x[0, 0] = 3.0
    found = np.asarray(read(stored(jnp.asarray(x), signed), signed)) / 3
    decade = np.clip(np.floor(np.log10(np.abs(x / 3))) + 7, 0, 6)
    half = 0.45 * 10 ** (decade - 6) / 2**decade / (1 if signed else 2)
    inside = np.abs(x / 3) > 1.001e-7
    off = np.abs(found - x / 3)
    assert np.all(off[inside] <= 1.001 * half[inside]) and off[inside].max() > 0.9 * half.max()
    assert not found[np.abs(x / 3) < 0.999e-7].any() and found[0, 0] == 1.0


def test_a_row_of_zeros_stays_zero():
    assert not np.any(read(stored(jnp.zeros((2, 8)), True), True))


def updates_of(optimizer, gradients):
    state, steps = optimizer.init(gradients[0]), []
    update = jax.jit(optimizer.update)
    for gradient in gradients:
        step, state = update(gradient, state)
        steps.append(step)
    return steps, state


def test_steps_are_those_of_adam_to_a_few_percent():
    """The first exactly, for moments are stored after it. A moment is off by 7% of itself at most in the two
    largest decades, and enters the next with weight β."""
    rng = np.random.default_rng(0)
    gradients = [{"w": jnp.asarray(rng.normal(1.0, 0.3, (2, 32, 64)), jnp.float32)} for _ in range(4)]
    ours, state = updates_of(scale_by_adam_8bit(0.9, 0.999, 1e-8), gradients)
    theirs, _ = updates_of(optax.scale_by_adam(0.9, 0.999, 1e-8), gradients)
    tiny.assert_close(ours[0], theirs[0], 16)
    off = np.abs(ours[-1]["w"] - theirs[-1]["w"]) / np.abs(theirs[-1]["w"])
    assert 1e-4 < off.mean() < 0.02 and off.max() < 0.07
    assert isinstance(state.mu["w"], Rows) and state.mu["w"].codes.dtype == jnp.uint8


def test_small_gradients_beside_large_ones_get_steps_of_their_own():
    """10⁻⁴ beside 1: the square, 10⁻⁸ of the largest, is below all decades, and its root is not."""
    gradient = jnp.full((1, SIZE), 1e-4).at[0, 0].set(1.0)
    steps, _ = updates_of(scale_by_adam_8bit(0.9, 0.999, 1e-8), [{"w": gradient}] * 3)
    np.testing.assert_allclose(steps[-1]["w"], 1.0, rtol=0.2)


def test_small_arrays_are_left_to_adam():
    gradients = [{"bias": jnp.full((4, SIZE // 4 - 1), x)} for x in (0.3, -0.1)]
    ours, _ = updates_of(scale_by_adam_8bit(0.9, 0.99, 1e-5), gradients)
    theirs, _ = updates_of(optax.scale_by_adam(0.9, 0.99, 1e-5), gradients)
    tiny.assert_close(ours, theirs, 16)


def test_two_bytes_a_weight_and_two_numbers_a_row():
    state = jax.eval_shape(scale_by_adam_8bit(0.9, 0.999, 1e-8).init, {"w": jnp.zeros((4, 64, 256))})
    moments = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)) - 4  # of the count
    assert moments == 2 * (4 * 64 * 256 + 4 * 4 * 64)


def test_on_a_mesh_bytes_are_the_same_and_no_weight_travels():
    """Largest entries of rows alone cross the links."""
    rng = np.random.default_rng(0)
    gradient = rng.normal(size=(3, 64, 128)).astype(np.float32)
    optimizer = scale_by_adam_8bit(0.9, 0.999, 1e-8)
    _, expected = updates_of(optimizer, [{"w": jnp.asarray(gradient)}])
    mesh = make_mesh(MeshConfig(1, 4, 2))
    with jax.set_mesh(mesh):
        own = {"w": jax.device_put(gradient, NamedSharding(mesh, P(None, "fsdp", "tensor")))}
        state = jax.jit(optimizer.init)(own)
        assert state.mu["w"].codes.sharding.is_equivalent_to(own["w"].sharding, 3)
        compiled = jax.jit(optimizer.update).lower(own, state).compile()
        _, found = compiled(own, state)
        text = compiled.as_text()
    assert "all-gather" not in text and "all-to-all" not in text and "all-reduce" in text
    codes = np.abs(np.int32(found.mu["w"].codes) - np.int32(expected.mu["w"].codes))
    assert np.mean(codes != 0) < 1e-3  # where a share lies on an edge, to rounding
    tiny.assert_close(found.mu["w"].largest, expected.mu["w"].largest, 4)

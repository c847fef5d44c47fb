"""Weights in bfloat16: by hand, on average, and over many small updates."""

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from rlhf_jax.config import MeshConfig, OptimizerConfig
from rlhf_jax.mesh import make_mesh
from rlhf_jax.training.rounding import apply_updates, stochastic
from rlhf_jax.training.state import TrainState, make_optimizer, update, value_and_grad_in_parts

ULP = 2.0**-7  # of bfloat16 between 1 and 2


def test_numbers_become_one_of_their_neighbours_and_on_average_themselves():
    """A quarter of the way from 1 to the next number: up in a quarter of the cases, ± 4 standard errors."""
    count = 40_000
    for sign in (1.0, -1.0):
        x = jnp.full(count, sign * (1 + ULP / 4), jnp.float32)
        found = np.asarray(stochastic(x, jax.random.key(0)).astype(jnp.float32))
        assert set(np.unique(np.abs(found))) == {1.0, 1 + ULP}
        assert abs(np.mean(np.abs(found) > 1) - 0.25) < 4 * (0.25 * 0.75 / count) ** 0.5


def test_what_bfloat16_holds_stays():
    x = np.array([0.0, -0.0, 1.0, -2.5, 3e38, 1e-30, np.inf], np.float32).astype(jnp.bfloat16)
    for seed in range(20):
        found = stochastic(jnp.asarray(x, jnp.float32), jax.random.key(seed))
        np.testing.assert_array_equal(np.asarray(found).view(np.uint16), x.view(np.uint16))


def test_a_thousand_updates_of_a_hundredth_of_the_last_bit_are_not_lost():
    """They add up to ten such bits; the nearest number would be 1 after each. √(1000 / 100) bits of noise."""
    weights = {"w": jnp.ones((2, 8, 64), jnp.bfloat16)}
    step = {"w": jnp.full((2, 8, 64), ULP / 100)}
    run = jax.jit(lambda w: jax.lax.fori_loop(0, 1000, lambda i, w: apply_updates(w, step, i), w))
    found = np.asarray(run(weights)["w"].astype(jnp.float32))
    bits = (found - 1) / ULP
    error = (10 / found.size) ** 0.5
    assert abs(bits.mean() - 10) < 4 * error
    assert 2 < bits.std() < 4.5
    assert (np.float32(1 + ULP / 100).astype(jnp.bfloat16)) == 1  # rounded to the nearest


def test_each_step_leaf_and_layer_has_noise_of_its_own_and_a_step_made_again_the_same():
    weights = {"a": jnp.ones((2, 8, 64), jnp.bfloat16), "b": jnp.ones((2, 8, 64), jnp.bfloat16)}
    half = jax.tree.map(lambda x: jnp.full(x.shape, ULP / 2), weights)
    first, again, other = (apply_updates(weights, half, jnp.int32(i)) for i in (3, 3, 4))
    tiny.assert_same(first, again)
    drawn = [first["a"][0], first["a"][1], first["b"][0], other["a"][0]]
    for i, one in enumerate(drawn):
        for two in drawn[:i]:
            assert 0.3 < np.mean(np.asarray(one == two)) < 0.7


def test_on_a_mesh_the_same_are_rounded_up():
    x = np.random.default_rng(0).normal(size=(2, 16, 64)).astype(np.float32)
    expected = stochastic(jnp.asarray(x), jax.random.key(1))
    mesh = make_mesh(MeshConfig(1, 4, 2))
    with jax.set_mesh(mesh):
        split = jax.NamedSharding(mesh, jax.P(None, "fsdp", "tensor"))
        found = jax.jit(stochastic)(jax.device_put(x, split), jax.random.key(1))
    tiny.assert_same(found, expected)


def test_moments_of_bfloat16_weights_are_float32():
    """β₂ = 0.999 changes a mean by a thousandth, which bfloat16 would round away."""
    state = TrainState.create({"w": jnp.ones((8,), jnp.bfloat16)}, make_optimizer(OptimizerConfig(0.1), 4))
    gradients = {"w": jnp.full((8,), 0.5, jnp.bfloat16)}
    state, _ = update(state, jnp.float32(1.0), gradients)
    adam = state.opt_state[0]
    assert adam.mu["w"].dtype == adam.nu["w"].dtype == jnp.float32
    tiny.assert_close(adam.nu["w"], np.full(8, 0.00025, np.float32), 4)
    assert state.params["w"].dtype == jnp.bfloat16


def test_parts_of_a_bfloat16_gradient_add_up_in_float32():
    """1 and 512 parts of 2⁻⁹, of which bfloat16 would add none to 1."""
    rows = np.array([1.0] + [2.0**-9] * 511, np.float32)

    def loss(w, batch):
        value = jnp.sum(batch * w.astype(jnp.float32))
        return value, {}

    total, gradient = value_and_grad_in_parts(loss, jnp.bfloat16(1.0), jnp.asarray(rows), 512)
    assert gradient == 1 + 511 * 2.0**-9

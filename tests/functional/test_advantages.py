import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference
import pytest
from jax.sharding import AxisType, PartitionSpec

from rlhf_jax.functional.advantages import gae, masked_mean, masked_var, whiten

ROWS = PartitionSpec(("replica", "fsdp"))


@pytest.fixture
def random_case():
    """Rewards, values and ragged masks; noise, not zeros, beyond the mask."""
    rng = np.random.default_rng(0)
    rewards, values = rng.standard_normal((2, 8, 6)).astype(np.float32)
    mask = np.arange(6) < rng.permutation([1, 2, 3, 4, 5, 6, 6, 6])[:, None]
    return rewards, values, mask


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
@pytest.mark.parametrize(
    ("gamma", "advantages", "returns"),
    [
        # δ = 0 + .25 − .5, 0 + .75 − .25, 1 − .75 = −.25, .5, .25
        # A = −.25 + .5 · .625, .5 + .5 · .25, .25
        (1.0, [0.0625, 0.625, 0.25], [0.5625, 0.875, 1.0]),
        # δ = 0 + .125 − .5, 0 + .375 − .25, 1 − .75 = −.375, .125, .25
        # A = −.375 + .25 · .1875, .125 + .25 · .25, .25
        (0.5, [-0.328125, 0.1875, 0.25], [0.171875, 0.4375, 1.0]),
    ],
)
def test_gae_by_hand(wrap, gamma, advantages, returns):
    # Fractions of powers of two: exact in float32. The fourth slot is padding, with rubbish in it.
    rewards = np.array([[0.0, 0.0, 1.0, 50.0]], np.float32)
    values = np.array([[0.5, 0.25, 0.75, np.nan]], np.float32)
    mask = np.array([[True, True, True, False]])
    ours = wrap(gae)(rewards, values, mask, gamma, 0.5)
    np.testing.assert_array_equal(ours[0], [[*advantages, 0.0]])
    np.testing.assert_array_equal(ours[1], [[*returns, 0.0]])


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (1.0, 0.0)])
def test_gae_agrees_with_the_loops(random_case, gamma, lam):
    expected = numpy_reference.gae(*random_case, gamma, lam)
    for ours, theirs in zip(gae(*random_case, gamma, lam), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_returns_at_lambda_1_are_the_rewards_to_come(random_case):
    rewards, _, mask = random_case
    to_come = np.cumsum((rewards * mask)[:, ::-1], axis=1)[:, ::-1] * mask
    np.testing.assert_allclose(gae(*random_case, 1.0, 1.0)[1], to_come, rtol=1e-5, atol=1e-5)


def test_values_that_foresee_the_rewards_leave_no_advantage(random_case):
    rewards, _, mask = random_case
    to_come = np.cumsum((rewards * mask)[:, ::-1], axis=1)[:, ::-1]
    np.testing.assert_allclose(gae(rewards, to_come, mask, 1.0, 0.95)[0], np.zeros((8, 6)), atol=1e-5)


def test_integer_rewards_give_float32():
    advantages, returns = gae(np.array([[0, 1]]), np.array([[0.25, 0.5]]), np.ones((1, 2), bool), 1.0, 0.5)
    assert advantages.dtype == returns.dtype == jnp.float32
    np.testing.assert_array_equal(advantages, [[0.5, 0.5]])  # .5 − .25 + .5 · .5, 1 − .5


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_statistics_by_hand(wrap):
    # Mean 2, variance (1 + 0 + 1) / 3; the 100 does not count. 1 / √(2/3) = 1.2247449.
    x = np.array([[1.0, 2.0], [3.0, 100.0]], np.float32)
    mask = np.array([[True, True], [True, False]])
    assert wrap(masked_mean)(x, mask) == 2.0
    np.testing.assert_allclose(wrap(masked_var)(x, mask), 2 / 3, rtol=1e-6)
    np.testing.assert_allclose(wrap(whiten)(x, mask), [[-1.2247449, 0.0], [1.2247449, 0.0]], rtol=1e-6)
    scaled = wrap(lambda x, mask: whiten(x, mask, shift_mean=False))(x, mask)
    np.testing.assert_allclose(scaled, [[0.7752551, 2.0], [3.2247449, 0.0]], rtol=1e-6)


@pytest.mark.parametrize("shift_mean", [True, False])
def test_whitening_agrees_with_the_loops(random_case, shift_mean):
    x, _, mask = random_case
    expected = numpy_reference.whiten(x, mask, shift_mean)
    np.testing.assert_allclose(whiten(x, mask, shift_mean), expected, rtol=1e-5, atol=1e-5)


def test_whitening_of_tiny_variance_is_damped():
    # Variance 1e-8: 1e-4 / √(1e-8 + 1e-8) = 1 / √2. Variance 0 gives 0, not nan.
    mask = np.ones((1, 2), bool)
    np.testing.assert_allclose(whiten(np.array([[1e-4, -1e-4]]), mask), [[0.7071068, -0.7071068]], rtol=1e-5)
    np.testing.assert_array_equal(whiten(np.array([[3.0, 3.0]]), mask), [[0.0, 0.0]])


def test_means_of_parts_add_up_to_the_mean_of_the_whole(random_case):
    x, _, mask = random_case
    parts = [masked_mean(x[i : i + 2], mask[i : i + 2], mask.sum()) for i in range(0, 8, 2)]
    np.testing.assert_allclose(sum(parts), x[mask].mean(), rtol=1e-5)


def test_whitening_is_of_the_whole_batch_not_of_each_device():
    """Rows 0 … 7, two on each of four devices: mean 3.5, variance 5.25.

    Each device on its own would give every pair ±1.
    """
    x = np.broadcast_to(np.arange(8, dtype=np.float32)[:, None], (8, 3))
    mesh = jax.make_mesh((2, 2, 2), ("replica", "fsdp", "tensor"), axis_types=(AxisType.Explicit,) * 3)
    with jax.set_mesh(mesh):
        whitened = jax.jit(whiten)(jax.device_put(x, ROWS), jax.device_put(np.ones((8, 3), bool), ROWS))
        np.testing.assert_allclose(whitened, (x - 3.5) / 5.25**0.5, rtol=1e-6)


def test_rows_on_eight_devices_give_the_same_advantages(random_case):
    def whitened_gae(rewards, values, mask):
        advantages, returns = gae(rewards, values, mask, 1.0, 0.95)
        return whiten(advantages, mask), returns

    expected = whitened_gae(*random_case)
    mesh = jax.make_mesh((2, 2, 2), ("replica", "fsdp", "tensor"), axis_types=(AxisType.Explicit,) * 3)
    with jax.set_mesh(mesh):
        rows = [jax.device_put(x, ROWS) for x in random_case]
        for sharded, single in zip(jax.jit(whitened_gae)(*rows), expected, strict=True):
            assert sharded.sharding.is_equivalent_to(rows[0].sharding, 2)
            np.testing.assert_allclose(sharded, single, rtol=1e-5, atol=1e-6)

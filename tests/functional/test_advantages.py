import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference
import pytest
import tiny
from jax.sharding import AxisType, PartitionSpec

from rlhf_jax.functional.advantages import (
    best_and_worst,
    gae,
    grpo,
    masked_mean,
    masked_var,
    reinforce,
    rloo,
    whiten,
)

ROWS = PartitionSpec(("replica", "fsdp"))
HAND = 16  # roundings of a formula of a few terms, its √ or exp among them
STEPS = 6 * 4  # multiplications and additions of a recursion over six tokens


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
        tiny.assert_close(ours, theirs, STEPS)


def test_returns_at_lambda_1_are_the_rewards_to_come(random_case):
    rewards, _, mask = random_case
    to_come = np.cumsum((rewards * mask)[:, ::-1], axis=1)[:, ::-1] * mask
    tiny.assert_close(gae(*random_case, 1.0, 1.0)[1], to_come, STEPS, scale=tiny.largest(random_case))


def test_values_that_foresee_the_rewards_leave_no_advantage(random_case):
    rewards, _, mask = random_case
    to_come = np.cumsum((rewards * mask)[:, ::-1], axis=1)[:, ::-1]
    advantages = gae(rewards, to_come, mask, 1.0, 0.95)[0]
    tiny.assert_close(advantages, np.zeros((8, 6)), STEPS, scale=tiny.largest(to_come))


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
    tiny.assert_close(wrap(masked_var)(x, mask), 2 / 3, HAND)
    tiny.assert_close(wrap(whiten)(x, mask), np.array([[-1.2247449, 0.0], [1.2247449, 0.0]]), HAND)
    scaled = wrap(lambda x, mask: whiten(x, mask, shift_mean=False))(x, mask)
    tiny.assert_close(scaled, np.array([[0.7752551, 2.0], [3.2247449, 0.0]]), HAND)


@pytest.mark.parametrize("shift_mean", [True, False])
def test_whitening_agrees_with_the_loops(random_case, shift_mean):
    x, _, mask = random_case
    expected = numpy_reference.whiten(x, mask, shift_mean)
    tiny.assert_close(whiten(x, mask, shift_mean), expected, mask.size)


def test_whitening_of_tiny_variance_is_damped():
    # Variance 1e-8: 1e-4 / √(1e-8 + 1e-8) = 1 / √2. Variance 0 gives 0, not nan.
    mask = np.ones((1, 2), bool)
    tiny.assert_close(whiten(np.array([[1e-4, -1e-4]]), mask), np.array([[0.7071068, -0.7071068]]), HAND)
    np.testing.assert_array_equal(whiten(np.array([[3.0, 3.0]]), mask), [[0.0, 0.0]])


def test_means_of_parts_add_up_to_the_mean_of_the_whole(random_case):
    x, _, mask = random_case
    parts = [masked_mean(x[i : i + 2], mask[i : i + 2], mask.sum()) for i in range(0, 8, 2)]
    tiny.assert_close(sum(parts), x[mask].mean(), mask.size, scale=np.abs(x[mask]).mean())


def test_whitening_is_of_the_whole_batch_not_of_each_device():
    """Rows 0 … 7, two on each of four devices: mean 3.5, variance 5.25.

    Each device on its own would give every pair ±1.
    """
    x = np.broadcast_to(np.arange(8, dtype=np.float32)[:, None], (8, 3))
    mesh = jax.make_mesh((2, 2, 2), ("replica", "fsdp", "tensor"), axis_types=(AxisType.Explicit,) * 3)
    with jax.set_mesh(mesh):
        whitened = jax.jit(whiten)(jax.device_put(x, ROWS), jax.device_put(np.ones((8, 3), bool), ROWS))
        tiny.assert_close(whitened, (x - 3.5) / 5.25**0.5, x.size)


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
            tiny.assert_close(sharded, single, STEPS + single.size)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_responses_are_compared_by_hand(wrap):
    """Rewards 1, 2, 6 of one prompt and 0, 0, 3 of another."""
    rewards = np.array([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]], np.float32)
    # 1 − (2 + 6) / 2, 2 − (1 + 6) / 2, 6 − (1 + 2) / 2; 0 − (0 + 3) / 2 twice, 3 − 0
    np.testing.assert_array_equal(wrap(rloo)(rewards), [[-3.0, -1.5, 4.5], [-1.5, -1.5, 3.0]])
    # 1 − (12 − 1) / 5 and so on, over all six
    expected = np.array([[-1.2, 0.0, 4.8], [-2.4, -2.4, 1.2]])
    tiny.assert_close(wrap(reinforce)(rewards), expected, HAND)
    # Means 3 and 1; variances (4 + 1 + 9) / 2 = 7 and (1 + 1 + 4) / 2 = 3.
    scaled = [[-2 / 7**0.5, -1 / 7**0.5, 3 / 7**0.5], [-1 / 3**0.5, -1 / 3**0.5, 2 / 3**0.5]]
    np.testing.assert_allclose(wrap(grpo)(rewards), scaled, rtol=1e-4)  # the 1e-4 beside a deviation
    plain = wrap(lambda x: grpo(x, divide_by_std=False))(rewards)
    np.testing.assert_array_equal(plain, [[-2.0, -1.0, 3.0], [-1.0, -1.0, 2.0]])


@pytest.fixture
def groups():
    """Rewards of five responses to each of eight prompts."""
    return np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)


def test_comparisons_agree_with_the_loops(groups):
    whole = groups.ravel()
    tiny.assert_close(rloo(groups).ravel(), numpy_reference.rloo(whole, 5), HAND)
    tiny.assert_close(reinforce(groups).ravel(), numpy_reference.rloo(whole, 40), HAND + 40)
    for divide in (True, False):
        expected = numpy_reference.grpo(whole, 5, divide)
        tiny.assert_close(grpo(groups, divide).ravel(), expected, HAND)


def test_equal_rewards_teach_nothing():
    """In thirds, whose sums round: the 1e-4 keeps that small where GRPO divides by a deviation of 0."""
    equal = np.broadcast_to(np.float32(1 / 3), (4, 7))
    for estimate in (rloo, reinforce, grpo):
        assert np.abs(estimate(equal)).max() < 1e-2
        np.testing.assert_array_equal(estimate(np.float32([[0.5, 0.5], [0.5, 0.5]])), np.zeros((2, 2)))


def test_the_advantages_of_a_prompt_cancel(groups):
    for estimate in (rloo, grpo):
        sums = np.asarray(estimate(groups)).sum(axis=1)
        tiny.assert_close(sums, np.zeros(8), HAND, scale=tiny.largest(estimate(groups)))
    assert abs(np.asarray(reinforce(groups)).sum()) < 1e-4  # those of a batch do, and of no single prompt
    assert np.abs(np.asarray(reinforce(groups)).sum(axis=1)).min() > 1e-2


def test_of_two_responses_one_wins_what_the_other_loses(groups):
    """By their difference; GRPO's is always 1 / √2, however little they differ."""
    two = groups[:, :2]
    won = two[:, 0] - two[:, 1]
    tiny.assert_close(rloo(two), np.stack([won, -won], axis=1), HAND, scale=tiny.largest(two))
    sizes = np.abs(grpo(two)) * (np.abs(won) / 2**0.5 + 1e-4)[:, None]
    tiny.assert_close(sizes, np.repeat(np.abs(won)[:, None] / 2, 2, axis=1), HAND, scale=tiny.largest(two))


def test_leaving_one_out_is_the_mean_left_in_times_n_over_n_less_1(groups):
    """So RLOO and GRPO without its deviation differ by a factor alone, as Dr. GRPO's authors note."""
    tiny.assert_close(rloo(groups), grpo(groups, divide_by_std=False) * 5 / 4, HAND)


def test_a_prompt_on_each_of_eight_devices_gives_the_same_advantages(groups):
    mesh = jax.make_mesh((2, 2, 2), ("replica", "fsdp", "tensor"), axis_types=(AxisType.Explicit,) * 3)
    with jax.set_mesh(mesh):
        rows = jax.device_put(groups, ROWS)
        for estimate in (rloo, reinforce, grpo):
            sharded = jax.jit(estimate)(rows)
            assert sharded.sharding.is_equivalent_to(rows.sharding, 2)
            tiny.assert_close(sharded, estimate(groups), HAND + groups.size)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_a_pair_is_of_the_best_and_the_worst(wrap):
    """Of ties the first counts, and where all tie there is none."""
    rewards = np.array([[1.0, 3.0, -2.0], [0.0, 5.0, 5.0], [4.0, 4.0, 4.0]], np.float32)
    np.testing.assert_array_equal(wrap(best_and_worst)(rewards), [[0, 1, -1], [-1, 1, 0], [0, 0, 0]])

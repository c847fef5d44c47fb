import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference
import pytest
import tiny
from jax.sharding import AxisType, PartitionSpec

from rlhf_jax.functional.logprobs import token_logprobs
from rlhf_jax.functional.losses import (
    bradley_terry,
    cross_entropy,
    dpo,
    explained_variance,
    implicit_rewards,
    ipo,
    of_actions,
    policy_loss,
    simpo,
    soft_bradley_terry,
    squared_error,
    value_loss,
)

EVERY = np.ones((1, 5), bool)
HAND = 16  # roundings of a formula of a few terms, its exp or log among them
BATCH = 48 + HAND  # sums over the tokens of the random case


@pytest.fixture
def random_case():
    """New, old, target and ragged masks, such that about half the entries are clipped at 0.2."""
    rng = np.random.default_rng(0)
    new, old, target = 0.5 * rng.standard_normal((3, 8, 6)).astype(np.float32)
    mask = np.arange(6) < np.array([1, 6, 2, 6, 3, 5, 4, 6])[:, None]
    return new, old, target, mask


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_cross_entropy_by_hand(wrap):
    logprobs = np.array([[-1.0, -2.0, -9.0], [-4.5, -9.0, -9.0]], np.float32)
    mask = np.array([[1, 1, 0], [1, 0, 0]], np.float32)
    np.testing.assert_array_equal(wrap(cross_entropy)(logprobs, mask), 2.5)  # (1 + 2 + 4.5) / 3
    tiny.assert_close(wrap(cross_entropy)(logprobs, mask, 10.0), 0.75, HAND)


def test_cross_entropy_does_not_depend_on_how_rows_are_packed():
    rng = np.random.default_rng(0)
    logprobs, mask = -rng.exponential(size=(4, 6)).astype(np.float32), rng.random((4, 6)) < 0.5
    packed = cross_entropy(logprobs.reshape(2, 12), mask.reshape(2, 12))
    tiny.assert_close(cross_entropy(logprobs, mask), packed, mask.size)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_bradley_terry_by_hand(wrap):
    # Margins 0, ln 3, −ln 3: −ln 1/2, −ln 3/4, −ln 1/4 = 0.693147, 0.287682, 1.386294; a tie counts one half.
    ln3 = 1.0986123
    chosen, rejected = np.array([5.0, ln3, 0.0], np.float32), np.array([5.0, 0.0, ln3], np.float32)
    loss, metrics = wrap(bradley_terry)(chosen, rejected)
    tiny.assert_close(loss, (np.log(2) + np.log(4 / 3) + np.log(4)) / 3, HAND)
    tiny.assert_close(metrics["accuracy"], (1 / 2 + 1 + 0) / 3, HAND)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_soft_bradley_terry_by_hand(wrap):
    # σ(ln 3) = 3/4. Of a pair that is 3/4 sure: −3/4 ln 3/4 − 1/4 ln 1/4; of a sure one: −ln 3/4.
    chosen, rejected = np.array([1.0986123, 1.0986123], np.float32), np.zeros(2, np.float32)
    expected = (0.75 * np.log(4 / 3) + 0.25 * np.log(4) + np.log(4 / 3)) / 2
    loss = wrap(soft_bradley_terry)(chosen, rejected, np.array([0.75, 1.0], np.float32))
    tiny.assert_close(loss, expected, HAND)


def test_a_soft_pair_is_pulled_apart_only_so_far():
    """The slope at the margin m is σ(m) − p: none where the choice is as sure as the scores say."""
    slope = jax.grad(lambda m, sure: soft_bradley_terry(m, jnp.zeros(1), sure))
    for margin, sure in ((0.0, 0.5), (np.log(3), 0.75)):
        tiny.assert_close(slope(jnp.array([margin], jnp.float32), sure), np.zeros(1), HAND, scale=1.0)
    tiny.assert_close(slope(jnp.zeros(1), 1.0), np.full(1, -0.5), HAND)


def test_squared_error_by_hand():
    scores, ratings = np.array([[1.0, -2.0], [0.5, 3.0]]), np.array([[2.0, -2.0], [0.0, 1.0]])
    tiny.assert_close(squared_error(scores, ratings), (1 + 0 + 0.25 + 4) / 4, HAND)


def test_bradley_terry_agrees_with_the_loops():
    chosen, rejected = np.random.default_rng(0).standard_normal((2, 32)).astype(np.float32)
    loss, metrics = bradley_terry(chosen, rejected)
    expected = numpy_reference.bradley_terry(chosen, rejected)
    tiny.assert_close((loss, metrics["accuracy"]), expected, 32 + HAND)


def test_bradley_terry_stays_finite_on_a_hopeless_pair():
    loss, slope = jax.value_and_grad(lambda c: bradley_terry(c, jnp.array([1000.0]))[0])(jnp.array([0.0]))
    assert (loss, slope[0]) == (1000.0, -1.0)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_preference_losses_by_hand(wrap):
    # β = ½ of log-ratios 2 ln 3 and 0, 0 and 2 ln 3: margins ln 3 and −ln 3, σ of which is 3/4 and 1/4.
    ln3 = np.log(3)
    logp, ref_logp = np.array([[2 * ln3 - 5, -4], [-5, 2 * ln3 - 4]]), np.array([[-5, -4], [-5, -4]])
    chosen, rejected = wrap(implicit_rewards)(logp, ref_logp, 0.5).T
    tiny.assert_close(chosen, np.array([ln3, 0]), HAND, scale=5.0)
    tiny.assert_close(wrap(dpo)(chosen, rejected), (np.log(4 / 3) + np.log(4)) / 2, HAND)
    # With ε = 1/4 each pair is ¾ · −ln of the one and ¼ · −ln of the other.
    tiny.assert_close(wrap(dpo)(chosen, rejected, 0.25), (np.log(4 / 3) + np.log(4)) / 2, HAND)
    tiny.assert_close(wrap(dpo)(chosen[:1], rejected[:1], 0.25), np.log(4) - 0.75 * ln3, HAND)
    # (2 ln 3 − 1)² and (−2 ln 3 − 1)², of margins in nats less 1 / (2β) = 1.
    expected = ((2 * ln3 - 1) ** 2 + (2 * ln3 + 1) ** 2) / 2
    tiny.assert_close(wrap(ipo)(chosen, rejected, 0.5), expected, HAND)
    # ln 3 less γ = ln 3 is a draw, and −ln 3 less γ has σ = 1/10.
    tiny.assert_close(wrap(simpo)(chosen, rejected, ln3), (np.log(2) + np.log(10)) / 2, HAND)


def test_dpo_is_bradley_terry_of_implicit_rewards():
    chosen, rejected = np.random.default_rng(0).standard_normal((2, 32)).astype(np.float32)
    tiny.assert_close(dpo(chosen, rejected), bradley_terry(chosen, rejected)[0], 32 + HAND)


def test_dpo_is_least_at_the_policy_that_ppo_is_after():
    """π ∝ π_ref exp(r / β) maximizes reward under the KL penalty (Rafailov et al. 2023, equation 4).

    Of three responses, every pair of them compared as Bradley–Terry says, with weights p and 1 − p.
    """
    beta, reward = 0.5, jnp.array([0.0, 1.0, -0.5])
    reference = jax.nn.log_softmax(jnp.array([0.3, -0.2, 1.0]))

    def expected_loss(logits):
        implicit = implicit_rewards(jax.nn.log_softmax(logits), reference, beta)
        ahead = reward[:, None] - reward
        every = [(i, j) for i in range(3) for j in range(3) if i != j]
        return sum(jax.nn.sigmoid(ahead[i, j]) * dpo(implicit[i], implicit[j]) for i, j in every)

    slope = jax.grad(expected_loss)
    best = reference + reward / beta
    assert np.abs(slope(best)).max() < 1e-6 < 1e-2 < np.abs(slope(reference)).max()


def test_preference_losses_stay_finite_on_a_hopeless_pair():
    for loss in (dpo, lambda c, r: simpo(c, r, 1.0)):
        value, slope = jax.value_and_grad(lambda c: loss(c, jnp.array([1000.0])))(jnp.array([0.0]))  # noqa: B023
        assert np.isfinite(value) and slope[0] == -1.0


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_policy_loss_by_hand(wrap):
    ratio = np.array([[1.5, 0.5, 1.5, 0.5, 1.0]], np.float32)
    advantages = np.array([[1.0, 1.0, -1.0, -1.0, 2.0]], np.float32)
    # max(−1.5, −1.2), max(−.5, −.8), max(1.5, 1.2), max(.5, .8), −2 = −1.2, −.5, 1.5, .8, −2
    loss, metrics = wrap(policy_loss)(np.log(ratio), np.zeros((1, 5)), advantages, EVERY, 0.2)
    tiny.assert_close(loss, -0.28, HAND, scale=2.0)
    tiny.assert_close(metrics["clipfrac"], 2 / 5, HAND)
    # ½ · 2 (ln² 1.5 + ln² 2) / 5
    tiny.assert_close(metrics["approxkl"], (np.log(1.5) ** 2 + np.log(2) ** 2) / 5, HAND)
    tiny.assert_close(metrics["ratio"], 1.0, HAND)
    tiny.assert_close(metrics["ratio_var"], 0.2, HAND, scale=1.0)


def test_policy_gradient_flows_except_where_clipped():
    ratio = np.array([[1.5, 0.5, 1.5, 0.5, 1.0]], np.float32)
    advantages = np.array([[1.0, 1.0, -1.0, -1.0, 2.0]], np.float32)
    gradient = jax.grad(lambda logp: policy_loss(logp, np.zeros((1, 5)), advantages, EVERY, 0.2)[0])(
        np.log(ratio)
    )
    # −A ρ / 5 where the unclipped term is the larger
    tiny.assert_close(gradient, np.array([[0.0, -0.1, 0.3, 0.0, -0.4]]), HAND)


def test_overflow_on_padding_does_not_reach_the_gradient():
    logp, old_logp = np.array([[0.0, 0.0]], np.float32), np.array([[0.0, -1000.0]], np.float32)
    mask = np.array([[True, False]])
    gradient = jax.grad(lambda logp: policy_loss(logp, old_logp, np.ones((1, 2)), mask, 0.2)[0])(logp)
    np.testing.assert_array_equal(gradient, [[-1.0, 0.0]])


@pytest.mark.parametrize("temperature", [0.3, 0.7, 1.3])
def test_ratio_is_1_before_any_update(temperature):
    """The loss recomputes what the rollout saw only if both divide by the temperature."""
    rng = np.random.default_rng(0)
    logits, tokens = 5 * rng.standard_normal((4, 5, 16)), rng.integers(0, 16, (4, 5))
    old = jax.jit(token_logprobs)(logits, tokens, temperature)
    mask, advantages = np.ones((4, 5), bool), np.ones((4, 5))
    same = policy_loss(token_logprobs(logits, tokens, temperature), old, advantages, mask, 0.2)[1]
    error = (
        tiny.rounding(logits.shape[-1] + HAND) * tiny.largest(logits) / temperature
    )  # of a log-probability
    assert abs(same["ratio"] - 1) <= error and same["approxkl"] <= error**2
    forgotten = policy_loss(token_logprobs(logits, tokens, 1.0), old, advantages, mask, 0.2)[1]
    assert forgotten["approxkl"] > 1e-2


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_value_loss_by_hand(wrap):
    values = np.array([[1.0, 2.0, 0.0, 0.5, 9.0]], np.float32)
    old_values = np.array([[0.9, 1.0, 1.0, 0.4, 0.0]], np.float32)
    returns = np.array([[2.0, 1.0, 0.0, 0.5, 0.0]], np.float32)
    mask = np.array([[True, True, True, True, False]])
    # Kept: 1, 1.2, 0.8, 0.5. max(1, 1), max(1, .04), max(0, .64), 0 → ½ · 2.64 / 4
    loss, metrics = wrap(value_loss)(values, old_values, returns, mask, 0.2)
    tiny.assert_close(loss, 0.33, HAND)
    tiny.assert_close(metrics["clipfrac"], 1 / 4, HAND)


def test_ppo_losses_agree_with_the_loops(random_case):
    loss, metrics = policy_loss(*random_case, 0.2)
    ours = [loss] + [metrics[name] for name in ("clipfrac", "approxkl", "ratio", "ratio_var")]
    tiny.assert_close(ours, [*numpy_reference.policy_loss(*random_case, 0.2)], BATCH, scale=1.0)
    loss, metrics = value_loss(*random_case, 0.2)
    tiny.assert_close((loss, metrics["clipfrac"]), numpy_reference.value_loss(*random_case, 0.2), BATCH)


@pytest.mark.parametrize("loss", [policy_loss, value_loss])
def test_microbatches_add_up_to_the_batch(random_case, loss):
    """Loss, metrics and gradient; a mean of microbatch means would be another number."""
    graded = jax.jit(jax.value_and_grad(loss, has_aux=True))
    parts = [tuple(x[i : i + 2] for x in random_case) for i in range(0, 8, 2)]
    count = random_case[-1].sum()
    (whole, metrics), gradient = graded(*random_case, 0.2)
    results = [graded(*part, 0.2, count) for part in parts]
    tiny.assert_close(sum(value for (value, _), _ in results), whole, BATCH, scale=1.0)
    for name, expected in metrics.items():
        tiny.assert_close(sum(m[name] for (_, m), _ in results), expected, BATCH, scale=1.0)
    tiny.assert_close(np.concatenate([g for _, g in results]), gradient, HAND)
    mean_of_means = np.mean([graded(*part, 0.2)[0][0] for part in parts])
    assert abs(mean_of_means - whole) > 1e-3 * abs(whole)


@pytest.mark.parametrize("loss", [policy_loss, value_loss])
def test_rows_on_eight_devices_give_the_same_loss_and_gradient(random_case, loss):
    graded = jax.jit(jax.value_and_grad(loss, has_aux=True))
    expected = graded(*random_case, 0.2)
    mesh = jax.make_mesh((2, 2, 2), ("replica", "fsdp", "tensor"), axis_types=(AxisType.Explicit,) * 3)
    with jax.set_mesh(mesh):
        rows = [jax.device_put(x, PartitionSpec(("replica", "fsdp"))) for x in random_case]
        sharded = graded(*rows, 0.2)
        (loss, metrics), gradient = sharded
        tiny.assert_close((loss, metrics), expected[0], BATCH, scale=1.0)
        tiny.assert_close(gradient, expected[1], HAND)


def test_pairs_on_eight_devices_give_the_same_loss():
    chosen, rejected = np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)
    expected = bradley_terry(chosen, rejected)
    mesh = jax.make_mesh((2, 2, 2), ("replica", "fsdp", "tensor"), axis_types=(AxisType.Explicit,) * 3)
    with jax.set_mesh(mesh):
        pairs = [jax.device_put(x, PartitionSpec(("replica", "fsdp"))) for x in (chosen, rejected)]
        sharded = jax.jit(bradley_terry)(*pairs)
        tiny.assert_close(sharded, expected, 8 + HAND, scale=1.0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 2.0, 3.0], 1.0),
        ([7.0, 7.0, 7.0], 0.0),
        ([-1.0, -2.0, -3.0], -3.0),
    ],  # last: 1 − Var(2R) / Var(R)
)
def test_explained_variance_of_returns_1_2_3(values, expected):
    returns, mask = np.array([[1.0, 2.0, 3.0, 50.0]]), np.array([[True, True, True, False]])
    explained = explained_variance(np.array([[*values, 0.0]]), returns, mask)
    tiny.assert_close(explained, expected, HAND, scale=1.0)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_log_probabilities_of_actions_by_hand(wrap):
    """Two tokens, and one with rubbish behind it."""
    logp, mask = np.float32([[-1.0, -2.0], [-4.0, np.nan]]), np.array([[True, True], [True, False]])

    def of(ratio):
        return wrap(lambda logp, mask: of_actions(logp, mask, ratio))(logp, mask)

    np.testing.assert_array_equal(of("token"), logp)
    np.testing.assert_array_equal(of("sequence"), [[-3.0], [-4.0]])
    np.testing.assert_array_equal(of("gspo"), [[-1.5], [-4.0]])


def test_an_empty_response_is_no_division_by_zero():
    np.testing.assert_array_equal(of_actions(np.ones((1, 2)), np.zeros((1, 2), bool), "gspo"), [[0.0]])

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference
import pytest
import tiny
from jax.sharding import AxisType, PartitionSpec

from rlhf_jax.functional import rewards

EOS, PAD = 7, 9
HAND = 16  # roundings of a formula of a few terms
RESPONSE = np.array(
    [
        [3, 7, 4, 7],  # sampled on after EOS
        [3, 4, 5, 7],  # EOS in the last slot
        [3, 4, 5, 6],  # never ended
        [7, 9, 9, 9],  # nothing but EOS
        [3, 4, 7, 9],  # one slot left
    ],
    np.int32,
)
MASK = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 0]], bool)
AFTER = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]], bool)


@pytest.fixture
def random_case():
    """Score, log-probabilities, reference log-probabilities and responses of every length, 1 to R."""
    rng = np.random.default_rng(0)
    response = rng.integers(0, EOS, (16, 6)).astype(np.int32)
    for b in range(12):
        response[b, b // 2] = EOS
    logp, ref = -rng.exponential(size=(2, 16, 6)).astype(np.float32)
    return rng.standard_normal(16).astype(np.float32), logp, ref, response


def total(score, logp, ref_logp, response, score_at):
    mask = rewards.response_mask(response, (EOS,), PAD)
    return rewards.place_score(score, mask, score_at) + rewards.kl_penalty(logp, ref_logp, mask, 0.05)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_a_response_ends_with_its_first_eos(wrap):
    np.testing.assert_array_equal(wrap(rewards.response_mask)(RESPONSE, (EOS,), PAD), MASK)
    np.testing.assert_array_equal(wrap(rewards.lengths)(MASK), [2, 4, 4, 1, 3])
    np.testing.assert_array_equal(wrap(rewards.has_eos)(RESPONSE, (EOS,)), [True, True, False, True, True])


@pytest.mark.parametrize(("how", "expected"), [("mean", [2.0, 4.0, 0.0]), ("worst", [1.0, 4.0, -3.0])])
@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: jax.jit(f, static_argnums=1)])
def test_several_reward_models_by_hand(wrap, how, expected):
    scores = np.array([[1.0, 4.0, 3.0], [3.0, 4.0, -3.0]], np.float32)
    score, disagreement = wrap(rewards.of_ensemble)(scores, how)
    np.testing.assert_array_equal(score, expected)
    np.testing.assert_array_equal(disagreement, [1.0, 0.0, 3.0])


def test_padding_without_eos_is_not_response():
    np.testing.assert_array_equal(
        rewards.response_mask(np.array([[3, 9, 9]]), (EOS,), PAD), [[True, False, False]]
    )


def test_values_have_one_slot_more_after_eos():
    np.testing.assert_array_equal(rewards.value_mask(MASK, "eos"), MASK)
    np.testing.assert_array_equal(rewards.value_mask(MASK, "after_eos"), AFTER)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
@pytest.mark.parametrize(("score_at", "slots"), [("eos", [1, 3, 3, 0, 2]), ("after_eos", [2, 3, 3, 1, 3])])
def test_the_score_stands_in_one_slot(wrap, score_at, slots):
    score = np.array([0.5, -1.0, 2.0, 3.0, -0.25], np.float32)
    expected = np.zeros((5, 4), np.float32)
    expected[range(5), slots] = score
    placed = wrap(lambda score, mask: rewards.place_score(score, mask, score_at))(score, MASK)
    np.testing.assert_array_equal(placed, expected)


def test_integer_scores_do_not_truncate_the_penalty():
    # One token, one nat above the reference: 2 − 0.05 · 1.
    mask = np.array([[True, False]])
    placed = rewards.place_score(np.array([2], np.int32), mask, "eos")
    assert placed.dtype == jnp.float32
    reward = placed + rewards.kl_penalty(np.array([[-1.0, 0.0]]), np.array([[-2.0, 0.0]]), mask, 0.05)
    tiny.assert_close(reward, np.array([[1.95, 0.0]]), HAND)
    assert (
        rewards.score_missing_eos(np.array([2], np.int32), np.array([True]), "none", -1.0).dtype
        == jnp.float32
    )


def test_penalty_by_hand_and_silent_on_padding():
    # −0.1 · (−1 − −3), −0.1 · (−2 − −1.5)
    logp = np.array([[-1.0, -2.0, np.nan]], np.float32)
    ref = np.array([[-3.0, -1.5, 0.0]], np.float32)
    penalty = rewards.kl_penalty(logp, ref, np.array([[True, True, False]]), 0.1)
    tiny.assert_close(penalty, np.array([[-0.2, 0.05, 0.0]]), HAND)


@pytest.mark.parametrize("score_at", ["eos", "after_eos"])
def test_agrees_with_the_loops(random_case, score_at):
    score, logp, ref, response = random_case
    mask = numpy_reference.response_mask(response, EOS, PAD)
    np.testing.assert_array_equal(rewards.response_mask(response, (EOS,), PAD), mask)
    np.testing.assert_array_equal(
        rewards.value_mask(mask, score_at), numpy_reference.value_mask(mask, score_at)
    )
    expected = numpy_reference.rewards(score, logp, ref, mask, 0.05, score_at)
    tiny.assert_close(total(*random_case, score_at), expected, HAND)


@pytest.mark.parametrize("score_at", ["eos", "after_eos"])
def test_both_places_give_a_response_the_same_reward(random_case, score_at):
    """Σ_t r_t = score − β KL, wherever the score stands."""
    score, logp, ref, response = random_case
    kl = ((logp - ref) * numpy_reference.response_mask(response, EOS, PAD)).sum(1)
    tiny.assert_close(total(*random_case, score_at).sum(1), score - 0.05 * kl, 6 + HAND)


def test_rows_on_eight_devices_give_the_same_rewards(random_case):
    expected = total(*random_case, "after_eos")
    mesh = jax.make_mesh((2, 2, 2), ("replica", "fsdp", "tensor"), axis_types=(AxisType.Explicit,) * 3)
    with jax.set_mesh(mesh):
        rows = [jax.device_put(x, PartitionSpec(("replica", "fsdp"))) for x in random_case]
        sharded = jax.jit(total, static_argnames="score_at")(*rows, score_at="after_eos")
        assert sharded.sharding.is_equivalent_to(rows[1].sharding, 2)
        tiny.assert_close(sharded, expected, HAND)


@pytest.mark.parametrize(
    ("no_eos", "expected"), [("replace", [3.0, -1.5]), ("subtract", [3.0, 0.5]), ("none", [3.0, 2.0])]
)
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_score_of_a_response_that_never_ended(wrap, no_eos, expected):
    rule = wrap(lambda score, ended: rewards.score_missing_eos(score, ended, no_eos, -1.5))
    np.testing.assert_array_equal(rule(np.array([3, 2], np.int32), np.array([True, False])), expected)


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (6.0, 0.15),  # on target
        (6.3, 0.15 * (1 + 0.05 * 0.0512)),  # 512 of 10,000 episodes
        (9.0, 0.15 * (1 + 0.2 * 0.0512)),  # error 0.5, clipped
        (0.0, 0.15 * (1 - 0.2 * 0.0512)),  # error −1, clipped
    ],
)
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_adaptive_kl_coefficient_by_hand(wrap, kl, expected):
    adapted = wrap(rewards.adapt_kl_coef)(jnp.float32(0.15), jnp.float32(kl), 6.0, 10_000, 512)
    tiny.assert_close(adapted, expected, HAND)


def test_each_of_several_eos_ids_ends_a_response():
    response = np.array([[3, 8, 7], [3, 7, 8], [3, 4, 5]])
    mask = rewards.response_mask(response, (7, 8), PAD)
    np.testing.assert_array_equal(mask, [[True, True, False], [True, True, False], [True, True, True]])
    np.testing.assert_array_equal(rewards.has_eos(response, (7, 8)), [True, True, False])


# KL from one token: facts about whole distributions, whose expectations need no sampling.


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        ("k1", [0.6931472, -1.0986123]),  # ln 2, −ln 3
        ("k2", [0.2402265, 0.6034745]),  # ln² 2 / 2, ln² 3 / 2
        ("k3", [0.1931472, 0.9013877]),  # 1 / 2 − 1 + ln 2, 3 − 1 − ln 3
    ],
)
def test_kl_of_a_token_by_hand_and_silent_on_padding(wrap, estimator, expected):
    """A token twice as likely as under the reference, one a third as likely, and padding that overflows."""
    logp, ref = np.log([[0.5, 0.1, 0.5]]), np.array([[np.log(0.25), np.log(0.3), 1000.0]])
    mask = np.array([[True, True, False]])
    estimate = wrap(lambda logp: rewards.kl_estimate(logp, ref, mask, estimator))
    tiny.assert_close(estimate(np.float32(logp)), np.array([[*expected, 0.0]]), HAND, scale=2.0)
    slope = wrap(jax.grad(lambda logp: jnp.sum(rewards.kl_estimate(logp, ref, mask, estimator))))
    assert np.isfinite(slope(np.float32(logp))).all()


@pytest.fixture
def distributions():
    """A policy's logits and a reference's log-probabilities of five tokens."""
    logits, other = np.random.default_rng(0).standard_normal((2, 5))
    return jnp.float32(logits), jax.nn.log_softmax(jnp.float32(other))


def estimates(logits, reference, estimator):
    """Probability of each token, and what the estimator says of KL when it is drawn."""
    logp = jax.nn.log_softmax(logits)
    every = np.ones((1, 5), bool)
    return jnp.exp(logp), rewards.kl_estimate(logp[None], reference[None], every, estimator)[0]


def divergence(logits, reference):
    logp = jax.nn.log_softmax(logits)
    return jnp.sum(jnp.exp(logp) * (logp - reference))


def test_k1_and_k3_are_unbiased_and_k2_is_not(distributions):
    """Σ_v π(v) k(v) against Σ_v π(v) log π(v) / π_ref(v)."""
    found = {}
    for estimator in ("k1", "k2", "k3"):
        probabilities, each = estimates(*distributions, estimator)
        found[estimator] = float(jnp.sum(probabilities * each))
        assert estimator == "k1" or each.min() >= 0
    kl = float(divergence(*distributions))
    tiny.assert_close([found["k1"], found["k3"]], [kl, kl], HAND, scale=1.0)
    assert abs(found["k2"] - kl) > 0.05 * kl


def test_in_a_loss_k1_pulls_nowhere_and_k2_as_kl_does(distributions):
    """Σ_v π(v) ∇k(v), the samples' probabilities held: why `kl_in=loss` takes no k1."""
    logits, reference = distributions
    pull = {}
    for estimator in ("k1", "k2", "k3"):
        probabilities = jax.nn.softmax(logits)
        pull[estimator] = jax.grad(lambda x, e=estimator, p=probabilities: p @ estimates(x, reference, e)[1])(
            logits
        )
    kl = jax.grad(divergence)(logits, reference)
    tiny.assert_close(pull["k1"], np.zeros(5), HAND, scale=1.0)
    tiny.assert_close(pull["k2"], kl, HAND, scale=1.0)
    assert np.abs(pull["k3"] - kl).max() > 0.05 * np.abs(kl).max()
    reverse = jax.nn.softmax(logits) - jnp.exp(reference)  # ∇ KL(reference ‖ π)
    tiny.assert_close(pull["k3"], reverse, HAND, scale=1.0)


def test_in_the_reward_k1_pulls_as_kl_does(distributions):
    """Σ_v π(v) k(v) ∇ log π(v), as a policy gradient takes it; k2 and k3 pull elsewhere."""
    logits, reference = distributions
    kl = jax.grad(divergence)(logits, reference)
    for estimator in ("k1", "k2", "k3"):
        probabilities, each = estimates(logits, reference, estimator)
        score = jax.grad(lambda x, w=probabilities * each: w @ jax.nn.log_softmax(x))(logits)
        apart = np.abs(score - kl).max()
        assert apart < 1e-5 if estimator == "k1" else apart > 0.05 * np.abs(kl).max()

import itertools
import math

import numpy as np
import pytest

from rlhf_jax.evaluation.best_of_n import closed_form_kl, measured_kl, weights


def test_weights_are_those_of_all_subsets():
    scores = np.array([0.3, -1.0, 0.3, 2.0, 0.9, -1.0])
    for n in (1, 2, 3, 6):
        counted = np.zeros(6)
        subsets = list(itertools.combinations(range(6), n))
        for subset in subsets:
            best = [i for i in subset if scores[i] == max(scores[list(subset)])]
            counted[best] += 1 / len(best) / len(subsets)
        tied = [counted[[0, 2]].mean(), counted[[1, 5]].mean()]
        counted[[0, 2]], counted[[1, 5]] = tied
        np.testing.assert_allclose(weights(scores, n), counted, atol=1e-12)


def test_the_estimate_is_without_bias():
    """Pools of 6 draws from {1, 2, 3} with probabilities ½, ¼, ¼: the best of 3 is 3 with 1 − (¾)³ = 37/64,
    1 with ⅛ and 2 with the other 19/64: 111/64 + 38/64 + 8/64 = 157/64 on average."""
    rng = np.random.default_rng(0)
    pools = rng.choice([1.0, 2.0, 3.0], p=[0.5, 0.25, 0.25], size=(20_000, 6))
    estimates = [weights(pool, 3) @ pool for pool in pools]
    assert np.mean(estimates) == pytest.approx(157 / 64, abs=4 * np.std(estimates) / math.sqrt(20_000))


def test_closed_form_at_the_published_points():
    published = {8: 1.2, 64: 3.2, 128: 3.9, 256: 4.5, 512: 5.2}
    assert {n: round(closed_form_kl(n), 1) for n in published} == published
    assert closed_form_kl(1) == 0


def test_closed_form_by_integration():
    """The best of n uniform scores has density n x^(n−1): KL = ∫ n x^(n−1) log(n x^(n−1)) dx."""
    x = (np.arange(100_000) + 0.5) / 100_000
    for n in (2, 16):
        density = n * x ** (n - 1)
        np.testing.assert_allclose(closed_form_kl(n), (density * np.log(density)).mean(), rtol=1e-6)


def test_without_ties_the_measured_kl_is_the_closed_form():
    scores = np.random.default_rng(0).normal(size=20_000)
    for n in (1, 4, 64):
        assert measured_kl(scores, n) == pytest.approx(closed_form_kl(n), abs=0.01)


def test_measured_kl_of_two_scores_by_hand():
    # Half of the samples score 1: best-of-2 is one of them with ¾. KL = ¾ log(¾ / ½) + ¼ log(¼ / ½).
    scores = np.repeat([0.0, 1.0], 10)
    assert measured_kl(scores, 2) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert measured_kl(scores, 512) == pytest.approx(math.log(2))  # all there is to choose


def test_a_policy_that_always_says_the_same_cannot_be_left():
    assert measured_kl(np.zeros(50), 32) == 0

import math

import numpy as np
import pytest

from rlhf_jax.evaluation.preference import outcomes, preference


def test_a_tie_counts_one_half():
    # Won, tied, lost, won: (1 + ½ + 0 + 1) / 4.
    rate = preference(outcomes(np.array([2.0, 1.0, 0.0, 5.0]), np.array([1.0, 1.0, 1.0, 4.0])))
    assert rate["rate"] == 0.625
    # Squared distances from 0.625: .140625 + .015625 + .390625 + .140625 = .6875; variance .171875; over 4.
    assert rate["stderr"] == pytest.approx(math.sqrt(0.171875 / 4))


def test_without_ties_the_error_is_binomial():
    rate = preference(np.array([1.0] * 60 + [0.0] * 40))
    assert (rate["rate"], rate["stderr"]) == pytest.approx((0.6, math.sqrt(0.6 * 0.4 / 100)))


def test_the_two_sides_share_one():
    a, b = np.random.default_rng(0).integers(0, 3, size=(2, 50))
    assert preference(outcomes(a, b))["rate"] + preference(outcomes(b, a))["rate"] == pytest.approx(1)


def test_a_score_that_is_not_a_number_is_not_a_loss():
    assert math.isnan(preference(outcomes(np.array([math.nan, 1.0]), np.zeros(2)))["rate"])


def test_outcomes_of_integer_scores_are_fractions():
    np.testing.assert_array_equal(outcomes(np.array([1, 2, 3]), np.array([2, 2, 2])), [0, 0.5, 1])


def test_the_interval_is_about_two_standard_errors_each_way():
    rate = preference(np.array([1.0] * 240 + [0.0] * 160))
    assert rate["low"] == pytest.approx(0.6 - 1.96 * rate["stderr"], abs=0.006)
    assert rate["high"] == pytest.approx(0.6 + 1.96 * rate["stderr"], abs=0.006)

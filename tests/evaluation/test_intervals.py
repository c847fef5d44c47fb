import numpy as np
import pytest

from rlhf_jax.evaluation.intervals import joint, mean


def test_the_interval_of_a_mean_is_about_two_standard_errors():
    values = np.random.default_rng(1).normal(3, 2, 400)  # standard error 0.1
    estimate = mean(values)
    assert estimate["value"] == pytest.approx(values.mean())
    assert estimate["high"] - estimate["low"] == pytest.approx(4 * 0.1, rel=0.15)


def test_values_of_one_post_are_drawn_together():
    """100 posts with the same value ten times each know as much as 100 values, not as 1,000."""
    values = np.random.default_rng(2).normal(size=100)
    alone, repeated = mean(values), mean(np.repeat(values, 10), np.repeat(np.arange(100), 10).tolist())
    assert repeated == pytest.approx(alone)


def test_a_post_with_more_values_counts_more():
    # (1 + 1 + 1 + 0) / 4, not the mean of the posts' means, ½.
    assert mean([1, 1, 1, 0], ["a", "a", "a", "b"])["value"] == 0.75


def test_what_is_not_a_number_does_not_count():
    assert mean([1.0, np.nan, 0.0])["value"] == 0.5
    assert mean([np.nan]) == {}


def test_a_fit_is_repeated_on_posts_drawn_again():
    posts = np.repeat(np.arange(50), 4)
    x = np.random.default_rng(3).normal(size=200)
    estimates = joint(posts, lambda rows: np.array([x[rows].mean(), 7.0]))
    assert estimates[0]["low"] < estimates[0]["value"] == x.mean() < estimates[0]["high"]
    assert estimates[1] == {"value": 7.0, "low": 7.0, "high": 7.0}
    assert estimates[0]["high"] - estimates[0]["low"] == pytest.approx(4 / np.sqrt(200), rel=0.3)

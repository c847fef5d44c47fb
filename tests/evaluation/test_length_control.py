import numpy as np
import pytest

from rlhf_jax.evaluation import intervals, length_control
from rlhf_jax.evaluation.length_control import preference_at_equal_length


def rates(outcomes, log_ratios):
    """Without their intervals."""
    estimates = preference_at_equal_length(outcomes, log_ratios)
    return {name: estimate["value"] for name, estimate in estimates.items()}


def wins(share, n=10):
    return np.arange(n) < share * n


def test_hand_solved_regression():
    # Half the comparisons at log ratio +1, won 8 of 10, half at −1, won 5 of 10. Two coefficients fit
    # both rates exactly: c + s = log 4 and c − s = 0, so c = log 2 and σ(c) = 2/3.
    outcomes = {"ppo": np.concatenate([wins(0.8), wins(0.5)])}
    log_ratios = {"ppo": np.repeat([1.0, -1.0], 10)}
    assert rates(outcomes, log_ratios)["ppo"] == pytest.approx(2 / 3, abs=1e-5)


def test_at_equal_lengths_it_is_the_plain_rate():
    outcomes = {"sft": wins(0.3), "ppo": np.concatenate([wins(0.7), [0.5, 0.5]])}
    equal = {name: np.zeros(len(won)) for name, won in outcomes.items()}
    assert rates(outcomes, equal) == pytest.approx({"sft": 0.3, "ppo": 8 / 12}, abs=1e-5)


def test_a_policy_that_wins_by_length_alone_comes_out_even(monkeypatch):
    monkeypatch.setattr(intervals, "FITS", 2)  # its rows are many
    # Truth: σ(0 + 2 · log ratio) for both; the longer policy wins more in the raw counts.
    rng = np.random.default_rng(0)
    log_ratios = {"short": rng.normal(-0.3, 0.5, 20_000), "long": rng.normal(0.5, 0.5, 20_000)}
    outcomes = {name: rng.random(len(x)) < 1 / (1 + np.exp(-2 * x)) for name, x in log_ratios.items()}
    assert outcomes["long"].mean() > 0.65
    assert rates(outcomes, log_ratios) == pytest.approx({"short": 0.5, "long": 0.5}, abs=0.02)


def test_intervals_hold_the_truth_and_narrow_with_more_posts():
    # Truth: σ(0.5 + 1 · log ratio); at ratio 1, .622.
    rng = np.random.default_rng(0)
    widths = []
    for posts in (200, 3200):
        log_ratios = {"ppo": rng.normal(0.2, 0.3, posts)}
        outcomes = {"ppo": (rng.random(posts) < 1 / (1 + np.exp(-0.5 - log_ratios["ppo"]))).astype(float)}
        estimate = preference_at_equal_length(outcomes, log_ratios)["ppo"]
        assert estimate["low"] < 0.622 < estimate["high"]
        widths.append(estimate["high"] - estimate["low"])
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.35)  # √16


def test_comparisons_that_nobody_made_leave_no_trace():
    rng = np.random.default_rng(1)
    ratios = rng.normal(0, 0.3, 40)
    won = (rng.random(40) < 0.7).astype(float)
    unknown = np.insert(won, [3, 3, 20], np.nan)
    padded = np.insert(ratios, [3, 3, 20], 0.5)
    assert preference_at_equal_length({"ppo": unknown}, {"ppo": padded}) == preference_at_equal_length(
        {"ppo": won}, {"ppo": ratios}
    )


def test_ties_alone_are_no_news_for_people(recwarn):
    """The fit is there at its start, where Newton's method finds no way on and says so."""
    outcomes = {name: np.full(4, 0.5) for name in ("sft", "ppo", "best")}
    ratios = {name: 2.0 + 0.1 * np.arange(4) for name in outcomes}
    assert rates(outcomes, ratios) == pytest.approx(dict.fromkeys(outcomes, 0.5))
    assert not list(recwarn)


def test_posts_are_drawn_with_all_that_was_said_of_them(monkeypatch):
    """Of the second and third posts the one policy, of the first and third the other."""
    drawn = []
    monkeypatch.setattr(length_control, "joint", lambda posts, statistic: drawn.append(posts) or [{}, {}])
    outcomes = {"sft": np.array([np.nan, 1, 0]), "ppo": np.array([0, np.nan, 1])}
    preference_at_equal_length(outcomes, {name: np.zeros(3) for name in outcomes})
    assert drawn == [[1, 2, 0, 2]]


def test_a_draw_without_a_policy_says_nothing_of_it():
    # The one comparison of "rare" is missing from a third of the draws; it was won in all others.
    outcomes = {"often": wins(0.5, 50), "rare": np.r_[1.0, np.full(49, np.nan)]}
    estimate = preference_at_equal_length(outcomes, {name: np.zeros(50) for name in outcomes})["rare"]
    assert estimate["low"] > 0.99

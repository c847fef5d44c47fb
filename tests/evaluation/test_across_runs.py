import numpy as np
import pytest

from rlhf_jax.evaluation.across_runs import difference, lead, matched, over_runs, together
from rlhf_jax.evaluation.intervals import mean


def estimate(value, margin=0.01):
    return {"value": value, "low": value - margin, "high": value + margin}


def test_student_s_interval_by_hand():
    # s = 0.1 and t(0.975, 2) = 4.3027, so the margin is 4.3027 · 0.1 / √3.
    found = over_runs([estimate(0.5), estimate(0.6), estimate(0.7)])
    assert found == pytest.approx({"value": 0.6, "low": 0.6 - 0.24842, "high": 0.6 + 0.24842}, abs=1e-5)


def test_runs_that_agree_by_luck_leave_open_what_their_posts_do():
    # √(3 · 0.03²) / 3 = 0.03 / √3
    found = over_runs([estimate(0.5, 0.03)] * 3)
    assert found == pytest.approx({"value": 0.5, "low": 0.5 - 0.01732, "high": 0.5 + 0.01732}, abs=1e-5)


def test_one_run_keeps_its_interval_and_a_rate_is_an_estimate():
    assert over_runs([{"rate": 0.5, "stderr": 0.1, "low": 0.2, "high": 0.6}]) == {
        "value": 0.5,
        "low": 0.2,
        "high": 0.6,
    }


def test_what_one_run_could_not_estimate_is_not_known():
    assert over_runs([estimate(0.5), {}]) == {}
    assert together([estimate(0.5) | {"pairs": 3}, {"pairs": 0}]) == {"pairs": 3}


def test_nineteen_of_twenty_intervals_hold_the_truth():
    """Three runs of 100 posts each, whose seeds move the truth 0 by 0.1, as much as the posts do."""
    rng = np.random.default_rng(0)
    held = []
    for _ in range(400):
        values = rng.normal(0, 0.1, 3) + rng.normal(0, 0.1, 3)
        found = over_runs([estimate(value, 0.196) for value in values])
        held.append(found["low"] < 0 < found["high"])
    assert np.mean(held) > 0.93


def test_a_difference_adds_the_margins_of_independent_posts():
    assert difference(estimate(0.7, 0.03), estimate(0.5, 0.04)) == pytest.approx(estimate(0.2, 0.05))


def test_the_interval_of_a_difference_is_too_wide_where_posts_are_the_same():
    hard = np.random.default_rng(1).normal(size=500)
    ours, theirs = hard + 1, hard + 0.1 * np.random.default_rng(2).normal(size=500)
    paired, found = mean(ours - theirs), difference(mean(ours), mean(theirs))
    assert found["value"] == pytest.approx(paired["value"])
    assert found["high"] - found["low"] > paired["high"] - paired["low"]


def test_what_a_seed_adds_to_both_is_not_in_their_difference():
    ours, theirs = [estimate(0.5), estimate(0.7)], [estimate(0.4), estimate(0.6)]
    assert lead(ours, theirs) == pytest.approx(estimate(0.1, 0.01))  # √2 · 0.01, twice, over 2


def test_json_of_several_runs_is_one():
    runs = [
        {"seed": i, "rates": {"ppo": estimate(0.5 + 0.1 * i) | {"pairs": 9}}, "tokens": 1.0 + i, "name": "x"}
        for i in range(2)
    ]
    found = together([runs[0] | {"more": 1}, runs[1]])
    assert found["rates"]["ppo"]["value"] == pytest.approx(0.55) and found["rates"]["ppo"]["pairs"] == 9
    assert (found["seed"], found["tokens"], found["name"]) == (0, 1.5, "x") and "more" not in found


def test_objects_of_lists_are_matched_by_their_keys():
    runs = [{"ppo": [{"b": 1, "x": 1}, {"b": 2, "x": 2}]}, {"ppo": [{"b": 2, "x": 3}]}]
    assert matched(runs, "ppo", "b") == {(2,): [{"b": 2, "x": 2}, {"b": 2, "x": 3}]}

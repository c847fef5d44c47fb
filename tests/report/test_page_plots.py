import re

import numpy as np

from rlhf_jax.report.page_plots import change_plot, curve_plot, preference_plot, running_mean


def test_running_mean_by_hand():
    # Windows of three: (1 + 2) / 2 at the start, (1 + 2 + 6) / 3, (2 + 6) / 2 at the end.
    np.testing.assert_allclose(running_mean(np.array([1.0, 2.0, 6.0]), 3), [1.5, 3.0, 4.0])


def test_a_window_of_one_changes_nothing():
    np.testing.assert_array_equal(running_mean(np.array([3.0, 1.0]), 1), [3.0, 1.0])


def test_every_colour_is_a_variable_of_the_page():
    svg = preference_plot({"SFT": {"rate": 0.4, "stderr": 0.02}, "PPO": {"rate": 0.6, "stderr": 0.02}})
    assert not re.search(r"#[0-9a-f]{6}\b", svg)
    assert svg.count("var(--accent)") == 1  # PPO's bar


def test_words_stay_words_and_nothing_is_fetched():
    svg = preference_plot({"SFT": {"rate": 0.404, "stderr": 0.02}})
    assert ">SFT</text>" in svg
    assert ">40%</text>" in svg
    assert "http" not in svg


def test_people_are_dots_beside_the_bars_of_the_judge():
    judge = {name: {"rate": 0.5, "stderr": 0.02} for name in ("SFT", "PPO")}
    alone, both = preference_plot(judge), preference_plot(judge, {"PPO": {"rate": 0.8, "stderr": 0.1}})
    assert "<use" in both and both.count("<use") == alone.count("<use") + 1


def test_each_change_tells_its_share_and_its_pairs():
    svg = change_plot({"roles": {"pairs": 1200, "value": 0.755, "low": 0.7, "high": 0.8}})
    assert ">roles (1,200)</text>" in svg and ">76%</text>" in svg


def test_a_gap_in_a_curve_is_drawn_as_a_gap():
    steps, values = np.arange(5.0), np.array([1.0, np.nan, 2.0, np.inf, 3.0])
    assert "nan" not in curve_plot(steps, values)

import pytest

from rlhf_jax.report.paper_figures import kl_where


def point(kl, reward):
    return {"kl": {"value": kl}, "reward": {"value": reward}}


def test_where_a_level_is_reached_between_two_points():
    points = [point(9.0, 3.0), point(1.0, 1.0), point(4.0, 2.0)]  # in any order
    assert kl_where(points, "reward", 1.5) == pytest.approx(2.5)
    assert kl_where(points, "reward", 3.0) == pytest.approx(9.0)


def test_a_level_that_is_never_reached_or_always_was():
    points = [point(1.0, 1.0), point(4.0, 2.0)]
    assert kl_where(points, "reward", 2.5) is None
    assert kl_where(points, "reward", 0.5) == 1.0

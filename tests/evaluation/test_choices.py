import numpy as np
import pytest

from rlhf_jax.config import DataConfig
from rlhf_jax.data.records import Post
from rlhf_jax.data.tasks.tldr import Tldr
from rlhf_jax.evaluation.choices import agreement, countable, hits


def test_a_tie_of_the_metric_is_a_guess_and_one_of_the_judge_does_not_count():
    # Right, wrong, right, a margin of 0 (½), a tied pair and an unknown one (left out): 2.5 of 4.
    margins = np.array([0.5, 2.0, -1.0, 0.0, 3.0, 1.0])
    truth = np.array([1.0, -0.1, -4.0, 1.0, 0.0, np.nan])
    np.testing.assert_array_equal(hits(margins, truth), [1, 0, 1, 0.5, np.nan, np.nan])
    assert agreement(margins, truth, list("abcdef"))["value"] == 0.625


def test_a_metric_that_is_the_judge_agrees_always_and_its_contrary_never():
    truth = np.random.default_rng(0).normal(size=50)
    posts = list(range(50))
    assert agreement(truth, truth, posts) == {"pairs": 50, "value": 1, "low": 1, "high": 1}
    assert agreement(-truth, truth, posts)["value"] == 0


def test_chance_is_within_the_interval():
    rng = np.random.default_rng(1)
    estimate = agreement(rng.normal(size=2000), rng.normal(size=2000), (np.arange(2000) // 4).tolist())
    assert estimate["low"] < 0.5 < estimate["high"]
    assert estimate["high"] - estimate["low"] == pytest.approx(4 * 0.5 / np.sqrt(2000), rel=0.3)


def test_what_can_be_counted():
    post = Post("1", "work", "title", "my boss fired me", "boss fired me")
    counted = countable(Tldr(DataConfig()), [post], ["my boss"], [post.summary])
    assert counted["words"] == 2 and counted["copying"] == 1  # (my boss), which the post has
    assert counted["rouge1"] == pytest.approx(2 * 1 / (2 + 3))

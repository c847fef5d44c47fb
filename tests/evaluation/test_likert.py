import json

import numpy as np
import pytest

from rlhf_jax.data.record_json import write_jsonl
from rlhf_jax.data.records import AxisRating, Post, RatedSummary
from rlhf_jax.evaluation.likert import Rated, figures, main, overall_at_equal_length


def rated(post, policy, words, overall, **axes):
    return Rated(post, policy, words, {"overall": overall} | axes)


def test_means_and_perfect_ratings():
    found = figures(
        [rated("1", "ppo", 3, 7, accuracy=5), rated("2", "ppo", 3, 4), rated("1", "sft", 3, None)]
    )
    assert found["ppo"]["overall"]["value"] == 5.5
    assert found["ppo"]["accuracy"]["value"] == 5  # the rating that is missing does not count
    assert found["ppo"]["perfect"]["value"] == 0.5
    assert found["ppo"]["coverage"] == {} and found["sft"]["overall"] == {}


def test_a_study_s_own_axes_are_told_too_and_what_is_no_rating_is_none():
    found = figures([rated("1", "ppo", 3, 7, tone=2, compatible=True), rated("2", "ppo", 3, 4, tone=3)])
    assert found["ppo"]["tone"]["value"] == 2.5 and "compatible" not in found["ppo"]


def test_two_policies_that_differ_by_length_alone():
    # Ratings 2 + log2(words): both have the same at the same length, here the geometric mean, 4.
    short = [rated(str(i), "short", 2, 3) for i in range(10)] + [rated("x", "short", 4, 4)]
    long = [rated(str(i), "long", 8, 5) for i in range(10)] + [rated("x", "long", 4, 4)]
    found = overall_at_equal_length(short + long)
    assert found["short"]["value"] == pytest.approx(4) == found["long"]["value"]


def test_the_regression_recovers_what_made_the_ratings():
    rng = np.random.default_rng(0)
    ratings = []
    for policy, level, length in (("a", 4.0, 10), ("b", 5.0, 20)):
        for i in range(400):
            words = int(rng.integers(length, 2 * length))
            ratings.append(
                rated(str(i), policy, words, level + 0.8 * np.log(words / 15) + rng.normal(0, 0.3))
            )
    found = overall_at_equal_length(ratings)
    assert found["b"]["value"] - found["a"]["value"] == pytest.approx(1, abs=0.1)
    assert all(0 < one["high"] - one["low"] < 0.3 for one in found.values())


def test_a_policy_of_one_post_keeps_within_the_scale():
    """A third of the draws of posts are without it, and say nothing of it."""
    ratings = [rated(str(i), "often", 3, 3) for i in range(20)] + [rated("x", "rare", 3, 6)]
    rare = overall_at_equal_length(ratings)["rare"]
    assert [rare[end] for end in ("low", "value", "high")] == pytest.approx([6, 6, 6])


def test_ratings_without_an_overall_one():
    found = figures([rated("1", "ppo", 3, None, accuracy=5), rated("2", "ppo", 3, None, accuracy=6)])
    assert found["ppo"]["accuracy"]["value"] == 5.5 and "overall_at_equal_length" not in found["ppo"]


def test_the_command_reads_the_site_s_export(tmp_path, capsys):
    post = Post("1", "pets", "title", "text")
    records = [
        AxisRating(post, "train", RatedSummary("a cat sat", "ppo", {"overall": 6, "accuracy": 7}), "w", "b"),
        AxisRating(post, "train", RatedSummary("a cat", "sft", {"overall": 2}), "w", "b"),
    ]
    write_jsonl(tmp_path / "ratings.jsonl", records)
    assert main(["rlhf-jax likert", str(tmp_path / "ratings.jsonl"), f"--json={tmp_path / 'out.json'}"]) == 0
    assert "ppo: overall 6.00" in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text())["sft"]["overall"]["value"] == 2
    assert main(["rlhf-jax likert", str(tmp_path / "nothing.jsonl")]) == 2
    assert main(["likert"]) == 2

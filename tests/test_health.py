import pytest

from rlhf_jax.config import PpoConfig
from rlhf_jax.health import warnings


def warned(kl=5.0, stderr=0.1, score=0.3, **options):
    metrics = {"objective/kl": kl, "objective/kl_stderr": stderr, "objective/score": score}
    return [line.split(" is ")[0] for line in warnings(metrics, PpoConfig(**options))]


@pytest.mark.parametrize(
    ("kl", "stderr", "negative"),
    [(-0.31, 0.1, True), (-0.29, 0.1, False), (-0.29, 0.09, True), (0.0, 0.0, False), (5.0, 0.1, False)],
)
def test_kl_is_negative_beyond_three_standard_errors(kl, stderr, negative):
    assert warned(kl=kl, stderr=stderr) == ["objective/kl"] * negative


@pytest.mark.parametrize(("score", "low"), [(-1.01, True), (-0.99, False), (0.3, False)])
def test_score_below_that_of_a_response_without_eos(score, low):
    assert warned(score=score) == ["objective/score"] * low


def test_the_setting_decides_what_is_low():
    assert warned(score=-1.5, no_eos_score=-2.0) == []
    assert warned(score=-2.5, no_eos_score=-2.0) == ["objective/score"]


@pytest.mark.parametrize("no_eos", ["subtract", "none"])
def test_where_ending_always_pays_no_score_is_too_low(no_eos):
    assert warned(score=-9.0, no_eos=no_eos) == []


def test_both_are_told_with_their_numbers_and_causes():
    metrics = {"objective/kl": -0.5, "objective/kl_stderr": 0.02, "objective/score": -3.25}
    kl, score = warnings(metrics, PpoConfig())
    assert "-0.5 ± 0.02 nats" in kl and "temperature" in kl and "EOS" in kl
    assert "-3.25" in score and "ppo.no_eos_score -1" in score and "references" in score
    assert "\n" not in kl + score

import jax.numpy as jnp
import pytest

from rlhf_jax.command_line import explain
from rlhf_jax.config import HealthConfig, PpoConfig
from rlhf_jax.run import checkpoint
from rlhf_jax.training.health import TrainingError, Watch, ppo_signs

USUAL = (-1.5, 2.0)  # scores of the texts that the reward model was trained on


def signs(kl=5.0, stderr=0.1, score=0.3, eos=1.0, entropy=1.0, **options):
    objective = {"kl": kl, "kl_stderr": stderr, "score": score, "eos_rate": eos}
    metrics = {f"objective/{name}": value for name, value in objective.items()}
    return ppo_signs(metrics | {"policy/entropy": entropy}, PpoConfig(**options), USUAL)


@pytest.mark.parametrize(
    ("kl", "stderr", "negative"),
    [(-0.31, 0.1, True), (-0.29, 0.1, False), (-0.29, 0.09, True), (0.0, 0.0, False), (5.0, 0.1, False)],
)
def test_kl_is_negative_beyond_three_standard_errors(kl, stderr, negative):
    assert list(signs(kl=kl, stderr=stderr)) == ["negative KL"] * negative


@pytest.mark.parametrize(("score", "low"), [(-1.01, True), (-0.99, False), (0.3, False)])
def test_score_below_that_of_a_response_without_eos(score, low):
    assert list(signs(score=score)) == ["low score"] * low


def test_the_setting_decides_what_is_low():
    assert not signs(score=-1.4, no_eos_score=-2.0)
    assert list(signs(score=-1.4, no_eos_score=-1.2)) == ["low score"]


@pytest.mark.parametrize("no_eos", ["subtract", "none"])
def test_where_ending_always_pays_no_score_is_too_low(no_eos):
    assert not signs(score=-1.4, no_eos=no_eos)


@pytest.mark.parametrize(("score", "unusual"), [(-1.51, True), (-1.49, False), (1.99, False), (2.01, True)])
def test_score_outside_of_what_the_reward_model_gave_in_training(score, unusual):
    assert list(signs(score=score, no_eos_score=-9.0)) == ["unusual score"] * unusual


@pytest.mark.parametrize(
    ("figures", "found"),
    [
        ({"entropy": 0.9e-3}, ["collapsed entropy"]),
        ({"entropy": 4.5e-3}, []),  # the lowest of the miniature's healthy runs
        ({"eos": 0.49}, ["no EOS"]),
        ({"eos": 0.5}, []),
    ],
)
def test_policy_that_always_writes_the_same_or_never_ends(figures, found):
    assert list(signs(**figures)) == found


def test_a_non_finite_rollout_is_a_matter_of_skipping():
    nan = float("nan")
    assert not signs(kl=nan, stderr=nan, score=nan, entropy=nan)


def test_all_are_told_in_one_line_with_numbers_and_causes():
    lines = signs(kl=-0.5, stderr=0.02, score=-3.25, eos=0.25, entropy=1e-4)
    kl, low, unusual, entropy, eos = lines.values()
    assert "-0.5 ± 0.02 nats" in kl and "temperature" in kl and "EOS" in kl
    assert "-3.25" in low and "ppo.no_eos_score -1" in low and "references" in low
    assert "-3.25" in unusual and "-1.5 to 2" in unusual and "ppo.kl_coef" in unusual
    assert "0.0001 nats" in entropy and "ppo.kl_coef" in entropy
    assert "0.25" in eos and "length" in eos
    assert all("Usual causes: " in line and "\n" not in line for line in lines.values())


def watching(tmp_path, updates=1, patience=10, found=lambda metrics: {}):
    return Watch(tmp_path / "checkpoints" / "ppo", HealthConfig(patience=patience), updates, found)


def step_metrics(skipped=0, in_a_row=0, **others):
    return {"skipped": float(skipped), "skipped_in_a_row": float(in_a_row)} | others


def steps_told(tmp_path, present):
    """The steps at which a sign is told that is there at the steps `present`."""
    watch = watching(tmp_path, found=lambda metrics: {"kl": "negative"} if metrics["step"] in present else {})
    return [i for i in range(300) if watch(i, step_metrics(step=i))]


@pytest.mark.parametrize(
    ("present", "told"),
    [
        ([5], [5]),
        (range(5, 300), [5, 105, 205]),
        (range(0, 300, 2), [0, 100, 200]),  # in and out of the limit
        ([5, 6, 17, 18], [5, 17]),  # back after eleven steps
        ([5, 6, 16, 17], [5]),
    ],
)
def test_a_sign_is_told_when_it_comes_and_every_hundred_steps(tmp_path, present, told):
    assert steps_told(tmp_path, present) == told


def test_signs_are_told_each_for_itself(tmp_path):
    watch = watching(tmp_path, found=lambda metrics: {"kl": "negative"})
    assert watch(0, step_metrics()) == ["negative"]
    (line,) = watch(1, step_metrics(skipped=1, in_a_row=1, loss=float("nan"), grad_norm=float("inf")))
    assert "1 skipped" in line and "Not finite: loss, grad_norm" in line and "learning rate" in line


def test_a_broken_reward_model_and_a_spike_are_named_as_causes(tmp_path):
    skipped = {"skipped": 4, "in_a_row": 4}
    (score,) = watching(tmp_path, 4)(0, step_metrics(**skipped, **{"objective/score": float("nan")}))
    (spike,) = watching(tmp_path, 4)(0, step_metrics(**skipped, **{"policy/loss": 99.0}))
    assert "4 skipped" in score and "reward model" in score and "whole iteration" in score
    assert "health.spike_sigma" in spike


def test_a_run_that_cannot_recover_ends_and_says_where_it_was_healthy(tmp_path):
    """Four updates a step. The last two of step 6 and all of steps 7, 8 and 9 are skipped."""
    watch = watching(tmp_path, updates=4, patience=3)
    for step in (2, 6, 8):
        arrays = {"params": {"w": jnp.zeros(1)}, "rest": {"n": jnp.zeros(1)}}
        checkpoint.save(tmp_path / "checkpoints" / "ppo", step, **arrays, meta={}, keep=3)
    for step, in_a_row in ((6, 2), (7, 6), (8, 10)):
        watch(step, step_metrics(in_a_row=in_a_row, **{"policy/loss": float("nan")}))
    with pytest.raises(TrainingError) as end:
        watch(9, step_metrics(in_a_row=14, **{"policy/loss": float("nan")}))
    text = str(end.value)
    assert text.startswith("ppo cannot recover: no update in the 3 steps to 9 (health.patience)")
    newest = tmp_path / "checkpoints" / "ppo" / "6"  # that of 8 was saved after the last update
    assert f"Last healthy step: 6; newest whole checkpoint up to it: {newest}." in text
    assert "Not finite: policy/loss" in text
    assert explain(end.value) == (2, text)


def test_a_run_that_was_never_healthy_says_so(tmp_path):
    with pytest.raises(
        TrainingError, match="Last healthy step: none; newest whole checkpoint up to it: none"
    ):
        watching(tmp_path, patience=3)(2, step_metrics(skipped=1, in_a_row=3, loss=float("nan")))

"""Runs that go on from another one."""

import dataclasses
import json
import os

import jax.numpy as jnp
import pytest
from etils.epath import Path

from rlhf_jax.config import Config, DataConfig, DpoConfig, ModelConfig, PpoConfig, RewardConfig
from rlhf_jax.files import write_text
from rlhf_jax.pipeline.stages import STAGES
from rlhf_jax.run import checkpoint, fork
from rlhf_jax.run import workdir as runs
from rlhf_jax.run.workdir import WorkdirError

TRAININGS = {"sft": ("sft", "sft_10x"), "collect": (), "reward": ("reward_seed0", "reward"), "ppo": ("ppo",)}


@pytest.fixture
def source(tmp_path):
    """A run whose stages have all finished."""
    folder = runs.open_workdir(tmp_path / "a", Config())
    for file in ("tokenizer.model", "tokenizer_config.json", "comparisons.jsonl"):
        (folder / file).write_text(file)
    for stage, trainings in TRAININGS.items():
        for training in trainings:
            arrays = {"params": {"w": jnp.arange(100.0)}, "rest": {"n": jnp.int32(1)}}
            checkpoint.save(folder / "checkpoints" / training, 5, **arrays, meta={})
            write_text(folder / "metrics" / f"{training}.jsonl", "{}\n")
        runs.record_stage(folder, stage, 7.0, done=True)
    return Path(folder)


def made(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_stages_before_the_one_that_differs_are_taken_over(source, tmp_path, capsys):
    ours, config = Path(tmp_path / "b"), Config(ppo=PpoConfig(kl_coef=0.1))
    fork.fork(config, source, ours, STAGES)
    runs.open_workdir(ours, config)
    assert made(ours) == ["reward", "reward_seed0", "sft", "sft_10x"]
    assert runs.read_seconds(ours) == {"sft": 7.0, "collect": 7.0, "reward": 7.0}
    assert [stage for stage in TRAININGS if runs.stage_done(ours, stage)] == ["sft", "collect", "reward"]
    assert all((ours / file).read_text() == file for file in ("tokenizer.model", "comparisons.jsonl"))
    assert not (ours / "metrics" / "ppo.jsonl").exists() and (ours / "metrics" / "sft.jsonl").exists()
    told = json.loads((ours / "fork.json").read_text())
    assert told == {
        "from": str(source),
        "stages": ["sft", "collect", "reward"],
        "differences": ["ppo.kl_coef: 0.05 → 0.1"],
    }
    assert "sft, collect, reward of" in (out := capsys.readouterr().out) and "ppo.kl_coef: 0.05 → 0.1" in out


def test_checkpoints_share_their_bytes_and_neither_run_changes_the_other(source, tmp_path):
    ours = Path(tmp_path / "b")
    fork.fork(Config(ppo=PpoConfig(kl_coef=0.1)), source, ours, STAGES)
    step = "checkpoints/sft/5/manifest.json"
    assert os.path.samefile(source / step, ours / step)
    assert not os.path.samefile(source / "metrics/sft.jsonl", ours / "metrics/sft.jsonl")
    arrays = {"params": {"w": jnp.zeros(100)}, "rest": {"n": jnp.int32(1)}}
    for i in (5, 6, 7):
        checkpoint.save(ours / "checkpoints" / "sft", i, **arrays, meta={})
    assert checkpoint.latest_step(source / "checkpoints" / "sft") == 5
    like = {"w": jnp.zeros(100)}
    assert checkpoint.restore_params(source / "checkpoints" / "sft", 5, like)["w"][7] == 7


def test_with_other_comparisons_or_another_setting_the_reward_model_is_trained_anew(source, tmp_path, capsys):
    for i, config in enumerate(
        (Config(data=DataConfig(comparisons="x")), Config(reward=RewardConfig(epochs=2)))
    ):
        fork.fork(config, source, Path(tmp_path / f"b{i}"), STAGES)
        assert made(tmp_path / f"b{i}") == ["sft", "sft_10x"]
    told = capsys.readouterr().out
    assert "data.comparisons:  → x" in told and "reward.epochs: 1.0 → 2" in told


def test_a_stage_runs_anew_where_it_or_what_it_needs_differs_and_no_other(source, tmp_path):
    """DPO reads pairs and no reward model; of PPO and distillation the one does not need the other."""
    for stage in ("dpo", "distill"):
        runs.record_stage(source, stage, 1.0, done=True)

    def taken(name, config):
        fork.fork(config, source, Path(tmp_path / name), STAGES)
        return json.loads((tmp_path / name / "fork.json").read_text())["stages"]

    assert taken("b", Config(reward=RewardConfig(epochs=2))) == ["sft", "collect", "dpo"]
    assert taken("c", Config(reward=RewardConfig(batches=("batch3",)))) == ["sft", "collect"]
    assert taken("d", Config(dpo=DpoConfig(beta=0.5))) == ["sft", "collect", "reward", "distill", "ppo"]
    assert taken("e", Config(ppo=PpoConfig(reward="own.py:f"))) == ["sft", "collect", "reward", "dpo"]


def test_other_data_is_told_and_taken(source, tmp_path, capsys):
    config = Config(data=DataConfig(queries="other"), ppo=PpoConfig(kl_coef=0.1))
    fork.fork(config, source, Path(tmp_path / "b"), STAGES)
    assert made(tmp_path / "b") == ["reward", "reward_seed0", "sft", "sft_10x"]
    assert "data.queries:  → other; ppo.kl_coef: 0.05 → 0.1" in capsys.readouterr().out


def test_a_policy_knows_the_prompts_that_its_template_wrote_with_its_variables(source, tmp_path):
    config = Config(data=DataConfig(template_variables="enable_thinking=false"), ppo=PpoConfig(kl_coef=0.1))
    with pytest.raises(
        WorkdirError, match=r"no finished stage to go on from \(data.template_variables:  → enable"
    ):
        fork.fork(config, source, Path(tmp_path / "b"), STAGES)
    assert not (tmp_path / "b").exists()


def test_another_model_or_an_unfinished_run_is_refused(source, tmp_path):
    with pytest.raises(WorkdirError, match=r"no finished stage to go on from \(model.width: 256 → 64\)"):
        fork.fork(Config(model=ModelConfig(width=64)), source, Path(tmp_path / "b"), STAGES)
    empty = runs.open_workdir(tmp_path / "c", Config())
    with pytest.raises(WorkdirError, match="c has no finished stage to go on from"):
        fork.fork(Config(seed=2), empty, Path(tmp_path / "b"), STAGES)
    with pytest.raises(WorkdirError, match="nowhere is not the folder of a run"):
        fork.fork(Config(), Path(tmp_path / "nowhere"), Path(tmp_path / "b"), STAGES)
    assert not (tmp_path / "b").exists()


def test_a_stage_may_be_that_of_another_name(source, tmp_path):
    ours = Path(tmp_path / "larger")
    (source / "checkpoints" / "sft_10x" / "5" / "mark").write_text("10x")
    fork.take_over(source, ours, {"sft": "sft_10x"}, STAGES)
    assert [path.name for path in (ours / "checkpoints").iterdir()] == ["sft"]
    assert (ours / "checkpoints" / "sft" / "5" / "mark").read_text() == "10x" and runs.stage_done(ours, "sft")


def test_the_same_command_again_resumes_and_a_run_of_its_own_is_no_fork(source, tmp_path):
    ours, config = Path(tmp_path / "b"), Config(ppo=PpoConfig(kl_coef=0.1))
    fork.fork(config, source, ours, STAGES)
    runs.open_workdir(ours, config)
    runs.record_stage(ours, "ppo", 1.0)
    fork.fork(config, source, ours, STAGES)
    assert runs.read_seconds(ours)["ppo"] == 1.0
    other = runs.open_workdir(tmp_path / "c", dataclasses.replace(config, seed=1))
    with pytest.raises(WorkdirError, match="c is a run of its own: --fork makes a new one"):
        fork.fork(config, source, other, STAGES)


def test_a_fork_that_was_ended_in_its_midst_is_made_again(source, tmp_path, monkeypatch):
    ours, config, link = Path(tmp_path / "b"), Config(ppo=PpoConfig(kl_coef=0.1)), fork._link_steps

    def stopped(theirs, mine):
        link(theirs, mine)
        if theirs.name == "reward":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fork, "_link_steps", stopped)
        fork.fork(config, source, ours, STAGES)
    fork.fork(config, source, ours, STAGES)
    assert runs.read_seconds(ours) == {"sft": 7.0, "collect": 7.0, "reward": 7.0}
    assert checkpoint.require(ours, "reward")[1] == 5

"""PPO by rewards of one's own: on any devices the same, resumed after an error as if there had been none."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
import tiny
from states import last_checkpoint, numbers_of

from rlhf_jax import inference
from rlhf_jax.config import MODEL, ConfigError, MeshConfig
from rlhf_jax.data import task as tasks
from rlhf_jax.data.records import Example
from rlhf_jax.model import heads, params, transformer
from rlhf_jax.pipeline import own_reward, ppo, stages
from rlhf_jax.pipeline.own_reward import OwnReward, RewardError
from rlhf_jax.run import checkpoint
from rlhf_jax.training.metrics import read_metrics
from rlhf_jax.validation import validate

REWARDS = """
from pathlib import Path

calls = Path(__file__).with_name("calls")  # how often it may be asked before it breaks


def length(prompts, responses, rows):
    if calls.exists():
        left = int(calls.read_text())
        calls.write_text(str(left - 1))
        if not left:
            raise RuntimeError("out of words")
    return [len(text) / 10 for text in responses]


def known(prompts, responses, rows):
    return [float(row["summary"] == row["reference"]) for row in rows]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data, a file of rewards, and what stage sft would have left."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "mine.py").write_text(REWARDS)
    data = tiny.write_data(folder / "data")
    config = tiny.run_config(data)
    task = tasks.find(data, 0)
    tokenizer = task.make_tokenizer(task.records()["train"], None)
    tokenizer.save(folder)
    specs = transformer.specs(config.model, tokenizer.vocab_size)
    weights = params.init(specs, jax.random.key(0))
    about = inference.describe(config.model)
    checkpoint.save(folder / "checkpoints" / "sft", 1, params=weights, rest={"none": np.zeros(1)}, meta=about)
    scalar = heads.on_top(weights, config.model, tokenizer.vocab_size, jax.random.key(1))
    about = inference.describe(config.model, scalar=True) | {"usual_scores": [-9.0, 9.0]}
    checkpoint.save(
        folder / "checkpoints" / "reward", 1, params=scalar, rest={"none": np.zeros(1)}, meta=about
    )
    return folder


@pytest.fixture(scope="module")
def compiled():
    """Runs that differ in their rewards alone share the programs of an iteration's halves."""
    halves, make, made = ppo.jitted_halves, ppo.make_optimizer, {}

    def shared(setting):
        return made.setdefault(setting.options.algorithm, halves(setting))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ppo, "jitted_halves", shared)
        patch.setattr(ppo, "make_optimizer", lambda *given: made.setdefault("optimizer", make(*given)))
        yield


@pytest.fixture
def run(folder, tmp_path, compiled):
    """`run(name, reward, …)`: PPO in a folder of its own; the folder."""

    def train(name, reward, without=(), mesh=(1, 1, 1), **fields):
        workdir = tmp_path / name
        if not workdir.exists():
            shutil.copytree(folder, workdir, ignore=shutil.ignore_patterns("data", *without))
        config = tiny.run_config(tiny.write_data(folder / "data"))
        place = ",".join(f"{folder}/mine.py:{name}" if name != MODEL else name for name in reward.split(","))
        options = dataclasses.replace(config.ppo, reward=place, **fields)
        config = validate(dataclasses.replace(config, ppo=options, mesh=MeshConfig(*mesh)))
        ppo.train(config, workdir)
        return workdir

    return train


def logged(workdir):
    return read_metrics(workdir / "metrics" / "ppo.jsonl")


def test_no_reward_model_has_to_exist_and_each_reward_is_logged(run):
    workdir = run("a", "length,known", without=["reward"], reward_weights=(1.0, 0.5))
    for record in logged(workdir):
        assert record["rewards/known/mean"] == 1 and record["rewards/known/std"] == 0
        assert record["rewards/length/mean"] > 0 and record["rewards/length/std"] > 0
        if record["objective/eos_rate"] == 0:
            assert record["objective/score"] == -1  # ppo.no_eos_score


ALGORITHMS = {
    "ppo": {},
    "grpo": {"algorithm": "grpo", "samples": 2},
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_error_leaves_the_steps_before_it_and_a_resumed_run_is_the_undisturbed_one(run, folder, algorithm):
    fields = ALGORITHMS[algorithm]
    whole = run("whole", "length", **fields)
    (folder / "calls").write_text("3")  # of five steps; the second is saved by its number
    with pytest.raises(RewardError) as told:
        run("broken", "length", **fields)
    assert str(told.value) == (
        f"{folder}/mine.py:length: RuntimeError: out of words (mine.py, line 12); "
        "3 of 5 steps of ppo are saved; the same command resumes"
    )
    (folder / "calls").unlink()
    resumed = run("broken", "length", **fields)
    (steps, *ours), (expected, *theirs) = (last_checkpoint(one, "ppo") for one in (resumed, whole))
    assert steps == expected
    tiny.assert_same(ours, theirs)
    assert numbers_of(resumed, "ppo") == numbers_of(whole, "ppo")


def test_without_a_value_network_nothing_of_one_is_kept_or_logged(run):
    """Each prompt has two responses, of which a reward is told with the prompt's own row."""
    workdir = run("critic_free", "length,known", without=["reward"], **ALGORITHMS["grpo"])
    _, saved = last_checkpoint(workdir, "ppo")
    assert saved["rest"]["value"] is None and saved["rest"]["policy"]["step"] == 5 * 4
    for record in logged(workdir):
        assert not any(name.startswith("value/") for name in record)
        assert record["rewards/known/mean"] == 1 and record["episodes"] == 8 * (record["step"] + 1)


def test_the_reward_model_may_be_one_of_several():
    options = dataclasses.replace(tiny.run_config(None).ppo, reward=f"{MODEL}", reward_weights=(2.0,))
    own, scores = OwnReward(options, None), np.array([0.5, -1.0], np.float32)
    each = own.of([], [], scores, seed="0")
    np.testing.assert_array_equal(own.total(each), 2 * scores)
    assert not options.is_by_model_alone and tiny.run_config(None).ppo.is_by_model_alone


def test_eight_devices_get_the_numbers_of_one(run):
    """In the first iteration to rounding; what follows is that of the parameters then."""
    one, eight = run("one", "length,known"), run("eight", "length,known", mesh=(2, 2, 2))
    ours, theirs = logged(eight)[0], logged(one)[0]
    assert ours["rewards/length/mean"] == theirs["rewards/length/mean"]  # the same texts
    for name in ("objective/score", "objective/kl", "policy/loss", "value/loss"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_sum_is_weighted_and_a_weight_may_be_negative():
    options = dataclasses.replace(
        tiny.run_config(None).ppo, reward="a.py:f,a.py:g", reward_weights=(1.0, -0.5)
    )
    own = OwnReward(options, None)
    each = {"f": np.array([1.0, 2.0], np.float32), "g": np.array([4.0, 0.0], np.float32)}
    np.testing.assert_array_equal(own.total(each), [-1.0, 2.0])
    assert own_reward.metrics(each)["rewards/g/mean"] == 2 and own_reward.metrics(each)["rewards/g/std"] == 2


def test_a_row_is_what_the_data_hold():
    record = Example("q1", "2 + 2?", "4", {"answer": 4})
    row = {"id": "q1", "prompt": "2 + 2?", "reference": "4", "answer": 4}
    assert own_reward.row_of(record) == row
    assert own_reward.row_of(tiny.posts(1, 0)[0])["reference"] == tiny.posts(1, 0)[0].summary


def test_without_the_reward_model_a_run_asks_nobody_for_comparisons():
    config = tiny.run_config(None)
    assert stages.planned(config) == ["sft", "collect", "reward", "ppo", "eval"]
    config.ppo.reward = "a.py:f"
    assert stages.planned(config) == ["sft", "ppo", "eval"]
    config.ppo.reward = "a.py:f,model"
    assert stages.planned(config) == ["sft", "collect", "reward", "ppo", "eval"]


def test_a_function_that_is_not_there_is_told_before_a_run_begins(folder):
    options = dataclasses.replace(tiny.run_config(None).ppo, reward=f"model,{folder}/mine.py:lenght")
    with pytest.raises(RewardError, match="^ppo.reward: .*/mine.py:lenght: there is no function lenght in"):
        own_reward.check(options)


@pytest.mark.parametrize(
    "reward, weights, told",
    [
        ("", (), "'' is neither model nor FILE.py:function"),
        ("mine.py", (), "'mine.py' is neither"),
        ("http:length", (), "'http:length' is neither"),
        ("model,a.py:f,b.py:f", (), "f stands there twice"),
        ("model,a.py:f", (1.0,), "1 weights for the 2 of ppo.reward"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused(reward, weights, told):
    config = tiny.config_with("ppo.reward", reward)
    config.ppo.reward_weights = weights
    with pytest.raises(ConfigError, match=told):
        validate(config)

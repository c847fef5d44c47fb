"""Whole stages on an invented data set: stopped and resumed, each ends where it would have ended anyway."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import programs
import pytest
import tiny
from states import last_checkpoint, numbers_of

from rlhf_jax import inference
from rlhf_jax.config import MeshConfig
from rlhf_jax.data import task as tasks
from rlhf_jax.data.batches import QueryPlan
from rlhf_jax.data.tokenizer import load_tokenizer
from rlhf_jax.inference import Network
from rlhf_jax.mesh import ROWS, layout, make_mesh
from rlhf_jax.model import passes
from rlhf_jax.pipeline import distill, dpo, ppo, reward, sft
from rlhf_jax.run import checkpoint
from rlhf_jax.run.checkpoint import CheckpointError
from rlhf_jax.training.health import TrainingError
from rlhf_jax.training.loop import Training
from rlhf_jax.training.metrics import MetricsLog, read_metrics
from rlhf_jax.validation import validate

STAGES = {"sft": sft, "reward": reward, "dpo": dpo, "distill": distill, "ppo": ppo}
LOGS = {
    "sft": "sft",
    "reward": "reward_seed0",
    "dpo": "dpo",
    "distill": "distill",
    "ppo": "ppo",
}  # name of the checkpoints and metrics of its loop
SUMS = tiny.additions(tiny.run_config(None).model, 44 + 9)  # behind a score or a log-probability


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return validate(tiny.run_config(tiny.write_data(tmp_path_factory.mktemp("data"))))


@pytest.fixture(scope="module")
def made():
    """The programs of runs that change nothing of what is compiled."""
    return {}


@pytest.fixture
def compiled_once(made, monkeypatch):
    programs.share(monkeypatch, made)


@pytest.fixture(scope="module")
def undisturbed(config, made, tmp_path_factory):
    """The folder of a run whose stages were never stopped, and how often PPO's iteration was traced."""
    workdir, traces = tmp_path_factory.mktemp("undisturbed"), []
    iteration = ppo.iteration

    def counted(*arguments, **named):
        traces.append(1)
        return iteration(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ppo, "iteration", counted)
        programs.share(patch, made)
        for stage in STAGES.values():
            stage.train(config, workdir)
    return workdir, len(traces)


def steps_of(workdir, name):
    return [record["step"] for record in read_metrics(workdir / "metrics" / f"{name}.jsonl")]


def before(stage, undisturbed, folder):
    """A folder with what the stages before `stage` left."""
    shutil.copy(undisturbed / "tokenizer.model", folder)
    for earlier in list(STAGES)[: list(STAGES).index(stage)]:
        shutil.copytree(undisturbed / "checkpoints" / earlier, folder / "checkpoints" / earlier)
    return folder


def stop_at(step, train, config, workdir):
    """Runs until step `step` is logged, as Ctrl-C would end it."""
    log = MetricsLog.log

    def stopping(self, i, metrics, **read):
        log(self, i, metrics, **read)
        if i == step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MetricsLog, "log", stopping)
        train(config, workdir)


@pytest.mark.parametrize("stage", STAGES)
def test_stopped_and_resumed_is_the_undisturbed_run(stage, config, undisturbed, compiled_once, tmp_path):
    """Bit for bit, one step after a checkpoint: so the same run twice is the same, too."""
    name, train, workdir = LOGS[stage], STAGES[stage].train, before(stage, undisturbed[0], tmp_path)
    stop_at(3, train, config, workdir)
    assert checkpoint.latest_step(workdir / "checkpoints" / name) == 2
    assert steps_of(workdir, name) == [0, 1, 2, 3]
    train(config, workdir)
    total, expected = last_checkpoint(undisturbed[0], name)
    ours, state = last_checkpoint(workdir, name)
    assert ours == total and total >= 4
    tiny.assert_same(state, expected)
    assert steps_of(workdir, name) == list(range(total))
    assert numbers_of(workdir, name) == numbers_of(undisturbed[0], name)
    if stage == "reward":
        tiny.assert_same(last_checkpoint(workdir, stage)[1], last_checkpoint(undisturbed[0], stage)[1])


def test_tokens_a_second_are_those_of_queries_and_responses(config, undisturbed):
    """Padding is not counted."""
    workdir, size = undisturbed[0], config.ppo.batch_size
    tokenizer = load_tokenizer(workdir)
    task = tasks.find(config.data, config.seed)
    plan = QueryPlan(task.queries(), tokenizer, task, size, config.seed)
    for i, record in enumerate(read_metrics(workdir / "metrics" / "ppo.jsonl")):
        tokens = size * record["tokens_per_second"] / record["episodes_per_second"]
        read = sum(int(token != tokenizer.pad_id) for token in plan.batch(i)["query"].flat)
        assert tokens == pytest.approx(read + size * record["objective/length"], rel=tiny.rounding(8))


def test_state_that_resuming_needs_is_in_the_checkpoint(undisturbed):
    """What is compared above holds both optimizers, the value network, the coefficient and the key."""
    total, state = last_checkpoint(undisturbed[0], "ppo")
    rest = state["rest"]
    updates = total * 2 * 2  # epochs × minibatches
    assert rest["policy"]["step"] == rest["value"]["step"] == updates
    moments = [
        leaf
        for network in ("policy", "value")
        for leaf in jax.tree.leaves(rest[network]["opt_state"])
        if leaf.ndim
    ]
    assert all(np.any(moment) for moment in moments if moment.shape[-1] == 16) and len(moments) > 40
    assert rest["kl_coef"] != np.float32(0.05)
    assert "head" in rest["value"]["params"] and rest["key"].shape == (2,)


def test_ppo_resumes_on_another_mesh(config, undisturbed, tmp_path):
    """From one device to two before the last iteration: the same episodes, the numbers to rounding."""
    workdir = before("ppo", undisturbed[0], tmp_path)
    total, expected = last_checkpoint(undisturbed[0], "ppo")
    shutil.copytree(undisturbed[0] / "checkpoints" / "ppo", workdir / "checkpoints" / "ppo")
    shutil.copytree(undisturbed[0] / "metrics", workdir / "metrics")
    shutil.rmtree(workdir / "checkpoints" / "ppo" / str(total))
    ppo.train(dataclasses.replace(config, mesh=MeshConfig(1, 2, 1)), workdir)
    ours, state = last_checkpoint(workdir, "ppo")
    assert ours == total
    tiny.assert_close_to_a_step(state["params"], expected["params"], config.ppo.optimizer)
    assert steps_of(workdir, "ppo") == list(range(total))
    one, two = numbers_of(undisturbed[0], "ppo")[-1], numbers_of(workdir, "ppo")[-1]
    tiny.assert_close(two["objective/entropy"], one["objective/entropy"], SUMS)
    assert two["objective/length"] == one["objective/length"]


def train_with_nan(step, module, config, workdir, patch):
    """Trains with a forward pass that gives NaN for one row of the batch of step `step`.

    Returns the states: the first one, and that after each step. The compiled functions know the row by a
    negative token in its first place.
    """
    states, marks = [], []
    steps, after, to_devices = Training.steps, Training.after, module.to_devices

    def poisoned(apply):
        def poisoned_apply(weights, model, tokens, *more):
            hidden = apply(weights, model, jnp.abs(tokens), *more)
            of_row = jnp.any(tokens < 0, axis=1)  # of a query, several responses to which may stand together
            of_row = jnp.repeat(of_row, hidden.shape[0] // len(of_row), axis=0, out_sharding=layout(ROWS))
            return jnp.where(of_row[:, None, None], jnp.nan, hidden)

        return poisoned_apply

    def marked(batch, mesh):
        tokens = batch if isinstance(batch, np.ndarray) else batch.get("tokens", batch.get("query"))
        if marks[-1]:
            tokens[0, 0] = -1
        return to_devices(batch, mesh)

    def recorded_steps(self, state):
        states.append(jax.tree.map(jnp.copy, state))
        for i in steps(self, state):
            marks.append(i == step)
            yield i

    def recorded_after(self, state, metrics, **read):
        states.append(jax.tree.map(jnp.copy, state))  # the state itself is given away at the next step
        after(self, state, metrics, **read)

    for name in ("apply_at", "apply_to_ends", "apply_to_responses"):
        patch.setattr(passes, name, poisoned(getattr(passes, name)))
    patch.setattr(module, "to_devices", marked)
    patch.setattr(Training, "steps", recorded_steps)
    patch.setattr(Training, "after", recorded_after)
    module.train(config, workdir)
    return states


def learned(state):
    """What updates change: of every network parameters, moments, counts and the window of spikes."""
    networks = [state.policy, state.value] if isinstance(state, ppo.PpoState) else [state]
    return [network.replace(skipped=None) for network in networks]


@pytest.mark.parametrize("stage", STAGES)
def test_an_injected_nan_changes_nothing_and_the_run_goes_on(
    stage, config, undisturbed, tmp_path, monkeypatch, capfd
):
    """Bit for bit. In PPO one bad episode reaches all others by the whitening: no update of the iteration."""
    name, workdir, updates = LOGS[stage], before(stage, undisturbed[0], tmp_path), 4 if stage == "ppo" else 1
    states = train_with_nan(2, STAGES[stage], config, workdir, monkeypatch)
    total = last_checkpoint(undisturbed[0], name)[0]
    assert len(states) == total + 1 and last_checkpoint(workdir, name)[0] == total
    tiny.assert_same(learned(states[3]), learned(states[2]))
    for step, (earlier, later) in enumerate(zip(states, states[1:], strict=False)):
        before_it, after_it = learned(earlier)[0], learned(later)[0]
        assert after_it.step - before_it.step == (0 if step == 2 else updates)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(learned(later)))
    records = read_metrics(workdir / "metrics" / f"{name}.jsonl")
    assert [record["skipped"] for record in records] == [updates * (step == 2) for step in range(total)]
    assert f"WARNING step 2: updates: {updates} skipped" in capfd.readouterr().err
    if stage == "ppo":
        assert states[3].kl_coef == states[2].kl_coef and np.isnan(records[2]["objective/kl"])
        assert not np.array_equal(*(jax.random.key_data(states[i].key) for i in (2, 3)))


def test_a_reward_model_whose_scores_are_not_finite_is_not_saved(config, undisturbed, tmp_path, monkeypatch):
    workdir = before("reward", undisturbed[0], tmp_path)
    shutil.copytree(undisturbed[0] / "checkpoints" / "reward_seed0", workdir / "checkpoints" / "reward_seed0")
    monkeypatch.setattr(Network, "score", lambda self, records, texts: np.full(len(records), np.nan))
    with pytest.raises(TrainingError, match="reward: the scores of the references are not finite"):
        reward.train(config, workdir)
    assert checkpoint.latest_step(workdir / "checkpoints" / "reward") is None


def test_every_reward_model_has_an_order_of_the_pairs_of_its_own(
    config, undisturbed, compiled_once, tmp_path, monkeypatch
):
    """As well as a head: both decide which of several seeds comes out best."""
    workdir, orders = before("reward", undisturbed[0], tmp_path), []
    train_one = reward.train_one

    def recorded(name, config, plan, workdir):
        orders.append([plan.batch(i)["index"].tolist() for i in range(plan.steps_per_epoch)])
        return train_one(name, config, plan, workdir)

    monkeypatch.setattr(reward, "train_one", recorded)
    reward.train(dataclasses.replace(config, reward=dataclasses.replace(config.reward, seeds=2)), workdir)
    first, second = orders
    assert first != second and sorted(sum(first, [])) == sorted(sum(second, []))


def test_references_that_lose_tokens_are_counted(config, tmp_path, monkeypatch, capsys):
    """A reference here is two words, a response of two tokens one word and EOS."""
    monkeypatch.setattr(sft, "fine_tune", lambda *_: None)
    data = dataclasses.replace(config.data, response_tokens=2)
    sft.train(dataclasses.replace(config, data=data), tmp_path)
    assert "sft: 40 of 40 references lose tokens to data.response_tokens" in capsys.readouterr().out


def test_reward_model_says_which_scores_are_usual(undisturbed):
    low, high = checkpoint.read_meta(*checkpoint.require(undisturbed[0], "reward"))["usual_scores"]
    assert -10 < low < high < 10


def test_the_best_reward_model_is_taken_where_it_is_asked_for(config, undisturbed, compiled_once, tmp_path):
    """By the loss, which rises here: it is not the newest, which is taken otherwise."""
    workdir = before("reward", undisturbed[0], tmp_path)
    judged = dataclasses.replace(config, reward=dataclasses.replace(config.reward, best="-loss"))
    reward.train(judged, workdir)
    total, newest = last_checkpoint(workdir, "reward_seed0")
    folder, step = checkpoint.require(workdir, "reward_seed0")
    assert step == 2 < total
    with ocp.StandardCheckpointer() as orbax:
        best = orbax.restore(folder / "2" / "params")
    taken = last_checkpoint(workdir, "reward")[1]["params"]["transformer"]
    tiny.assert_same(taken, best["transformer"])
    assert not np.array_equal(taken["embed"]["tokens"], newest["params"]["transformer"]["embed"]["tokens"])


def test_ppo_is_traced_once_for_one_bucket(undisturbed):
    """The state that an iteration returns is laid out as the one it was given."""
    assert undisturbed[1] == 1


def test_training_references_score_zero_on_average(config, undisturbed):
    posts = tasks.find(config.data, config.seed).records()["train"]
    with jax.set_mesh(make_mesh(config.mesh)):
        network = inference.load(undisturbed[0], "reward", config=config)
        scores = network.score(posts, [post.reference for post in posts])
    scale = tiny.largest(scores) + tiny.largest(network.weights["head"]["bias"])
    error = tiny.rounding(SUMS) * scale
    assert abs(scores.mean()) < error
    assert scores.std() > 10 * error


def test_losses_fall(undisturbed):
    losses = [record["loss"] for record in numbers_of(undisturbed[0], "sft")]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("stage", "there", "missing"),
    [
        ("reward", [], "sft"),
        ("dpo", [], "sft"),
        ("distill", ["sft"], "reward"),
        ("ppo", [], "sft"),
        ("ppo", ["sft"], "reward"),
    ],
)
def test_a_missing_stage_is_named(stage, there, missing, config, undisturbed, tmp_path):
    for earlier in there:
        shutil.copy(undisturbed[0] / "tokenizer.model", tmp_path)
        shutil.copytree(undisturbed[0] / "checkpoints" / earlier, tmp_path / "checkpoints" / earlier)
    message = f"no whole checkpoint in .*{missing}"
    with pytest.raises(CheckpointError, match=message):
        STAGES[stage].train(config, tmp_path)

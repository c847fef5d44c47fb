"""A whole run with adapters: one base, and every network a small tree beside it."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import programs
import pytest
import tiny
from states import last_checkpoint, numbers_of

from rlhf_jax import inference
from rlhf_jax.config import ConfigError, LoraConfig, ModelConfig
from rlhf_jax.data import task as tasks
from rlhf_jax.mesh import make_mesh
from rlhf_jax.model import lora, params, pretrained, transformer
from rlhf_jax.pipeline import dpo, export, ppo, reward, sft, stages
from rlhf_jax.run import checkpoint, fork
from rlhf_jax.run import workdir as runs
from rlhf_jax.training.inputs import InputError
from rlhf_jax.training.metrics import MetricsLog
from rlhf_jax.validation import validate

RANK = 2
TRAININGS = {
    "sft": (sft, "sft"),
    "reward": (reward, "reward_seed0"),
    "dpo": (dpo, "dpo"),
    "ppo": (ppo, "ppo"),
}


def save_base(folder, tokenizer, seed):
    shape = ModelConfig(width=16, layers=1, heads=2, context=64)
    specs = transformer.specs(shape, tokenizer.vocab_size)
    weights = jax.tree.map(lambda x: 0.2 * x, tiny.parameters(specs, seed))
    pretrained.save(folder, weights, shape)
    tokenizer.save(folder)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    data, base = tiny.write_data(tmp_path_factory.mktemp("data")), tmp_path_factory.mktemp("base")
    save_base(base, tasks.find(data, 0).make_tokenizer(tiny.posts(40, 0), None), 0)
    config = tiny.run_config(data)
    config.model = ModelConfig(pretrained=str(base), lora=LoraConfig(RANK, 4.0))
    config.data.query_tokens, config.data.query_buckets = 36, (36,)
    config.eval.posts, config.eval.best_of, config.eval.shots = 4, 2, 0
    config.ppo.minibatches = config.ppo.epochs = 1
    config.policies = ("dpo", "ppo")
    return validate(config)


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    with pytest.MonkeyPatch.context() as patch:
        programs.share(patch, {})
        yield


@pytest.fixture(scope="module")
def run(config, compiled_once, tmp_path_factory):
    """A finished run."""
    workdir = runs.open_workdir(tmp_path_factory.mktemp("run"), config)
    stages.run_stages(config, workdir)
    return workdir


def trained(config, name="sft"):
    model = pretrained.architecture(config.model)
    return lora.trained(transformer.specs(model, 320), model.lora)


def test_all_stages_run_to_the_report(run):
    results = json.loads((run / "results.json").read_text())
    assert {"base", "sft", "dpo", "ppo"} <= results["policies"].keys() and (run / "report.html").exists()


def test_checkpoints_hold_adapters_and_heads_alone(config, run):
    """And moments of them: the base is nowhere, and its digest stands with each network."""
    adapter = params.count(trained(config))
    for name, own in {"sft": adapter, "reward": adapter + 17, "ppo": adapter}.items():
        folder, step = checkpoint.require(run, name)
        shapes = json.loads((folder / str(step) / "shapes.json").read_text())
        assert sum(int(np.prod(shape)) for shape in shapes["params"].values()) == own
        assert checkpoint.read_meta(folder, step)["base"].startswith("2 files")
    rest = sum(int(np.prod(shape)) for shape in shapes["rest"].values())  # of ppo: with the value network
    counts = 2 * 2 * 128 + 20  # windows of spikes, steps
    assert 2 * adapter + 3 * (adapter + 17) <= rest <= 2 * adapter + 3 * (adapter + 17) + counts


def test_policy_and_reference_are_one_at_the_beginning(run):
    """No KL, a ratio of 1, no clipping: one update an iteration, of responses that the policy just wrote."""
    first = numbers_of(run, "ppo")[0]
    assert first["objective/kl"] == 0.0 and first["policy/clipfrac"] == 0.0
    assert first["policy/ratio"] == pytest.approx(1.0, abs=1e-6)
    assert numbers_of(run, "ppo")[-1]["objective/kl"] != 0.0


def test_dpo_begins_at_its_reference(run):
    """The base with the adapter that stage sft trained: it prefers nothing, and the loss is log 2."""
    first, *_, last = numbers_of(run, "dpo")
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert abs(first["margin"]) < 1e-6 < abs(last["margin"])


def test_networks_of_a_run_share_one_base(config, run):
    with jax.set_mesh(make_mesh(config.mesh)):
        networks = [inference.load(run, name, config=config) for name in ("sft", "reward", "dpo", "ppo")]
        assert len({id(network.base["embed"]["tokens"]) for network in networks}) == 1
        fresh = params.init(trained(config), jax.random.key(0))
    for network in networks:
        body = network.trained.get("transformer", network.trained)
        assert jax.tree.structure(body) == jax.tree.structure(fresh)
        assert all(np.any(adapter) for adapter in jax.tree.leaves(body))  # of B, which was 0, too


@pytest.mark.parametrize("stage", TRAININGS)
def test_stopped_and_resumed_is_the_undisturbed_run(stage, config, run, tmp_path, monkeypatch):
    """Bit for bit, one step after a checkpoint."""
    (module, name), log = TRAININGS[stage], MetricsLog.log
    for file in [*run.glob("tokenizer*"), run / "comparisons.jsonl"]:
        if file.exists():
            shutil.copy(file, tmp_path)
    for earlier in list(TRAININGS)[: list(TRAININGS).index(stage)]:
        shutil.copytree(run / "checkpoints" / earlier, tmp_path / "checkpoints" / earlier)

    def stopping(self, i, metrics, **read):
        log(self, i, metrics, **read)
        if i == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MetricsLog, "log", stopping)
        module.train(config, tmp_path)
    assert checkpoint.latest_step(tmp_path / "checkpoints" / name) == 2
    module.train(config, tmp_path)
    expected, ours = last_checkpoint(run, name), last_checkpoint(tmp_path, name)
    assert ours[0] == expected[0]
    tiny.assert_same(ours[1], expected[1])


def test_a_fork_takes_adapters_over_and_another_rank_begins_anew(config, run, tmp_path):
    other = dataclasses.replace(config, ppo=dataclasses.replace(config.ppo, kl_coef=0.2))
    fork.fork(other, run, runs.Path(tmp_path / "fork"), stages.STAGES)
    assert inference.load(tmp_path / "fork", "reward", config=config).is_scalar
    wider = dataclasses.replace(config, model=dataclasses.replace(config.model, lora=LoraConfig(4)))
    with pytest.raises(runs.WorkdirError, match="no finished stage to go on from.*model.lora.rank: 2 → 4"):
        fork.fork(wider, run, runs.Path(tmp_path / "wider"), stages.STAGES)


def test_another_base_is_refused_and_the_same_elsewhere_is_not(config, run, tmp_path):
    base = config.model.pretrained
    shutil.copytree(base, tmp_path / "moved")
    save_base(tmp_path / "other", inference.load(run, "sft").tokenizer, 1)

    def beside(place):
        model = dataclasses.replace(config.model, pretrained=str(tmp_path / place))
        return dataclasses.replace(config, model=model)

    moved = inference.load(run, "ppo", config=beside("moved"))
    assert moved.write(["x"]) == inference.load(run, "ppo").write(["x"])
    with pytest.raises(InputError, match="model.pretrained: .*other is not the model beside which these"):
        inference.load(run, "ppo", config=beside("other"))
    with pytest.raises(InputError, match="model.pretrained: what stage sft reads has changed"):
        sft.train(beside("other"), run)  # to resume


def test_merged_and_exported_it_is_the_same_network(config, run, tmp_path):
    texts = [post.post for post in tiny.posts(6, 5)]
    for name in ("ppo", "reward"):
        export.export(run, name, tmp_path / name)
        ours, theirs = inference.load(run, name), inference.load(tmp_path / name)
        assert not theirs.base
        if name == "ppo":
            assert theirs.write(texts) == ours.write(texts)
            summaries = theirs.write(texts)
            nats = [network.log_likelihood(texts, summaries) for network in (ours, theirs)]
        else:
            nats = [network.score(texts, summaries) for network in (ours, theirs)]
        tiny.assert_close(*nats, tiny.additions(ours.model, 36 + 24), scale=1.0)


def test_an_adapter_of_peft_is_where_fine_tuning_starts(config, run, tmp_path):
    """Written by one run, read by the next, whose policy without a step is that of the first."""
    export.export(run, "ppo", tmp_path / "adapter", adapter=True)
    start = dataclasses.replace(config.model.lora, start=str(tmp_path / "adapter"))
    other = dataclasses.replace(config, model=dataclasses.replace(config.model, lora=start))
    other.sft = dataclasses.replace(config.sft, save_every=1)
    other.sft.optimizer = dataclasses.replace(config.sft.optimizer, learning_rate=0.0)
    sft.train(validate(other), tmp_path / "run")
    tiny.assert_close(
        last_checkpoint(tmp_path / "run", "sft")[1]["params"], last_checkpoint(run, "ppo")[1]["params"], 1
    )
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert "library_name: peft" in card and config.model.pretrained in card


def test_exports_that_make_no_sense_are_one_line(run, tmp_path):
    with pytest.raises(ConfigError, match="--adapter: PEFT has no place for the shift of reward"):
        export.export(run, "reward", tmp_path / "out", adapter=True)
    assert not (tmp_path / "out").exists()

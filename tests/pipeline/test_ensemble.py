import dataclasses
import functools

import jax
import numpy as np
import programs
import pytest
import tiny
from states import numbers_of
from tiny import PAD, VOCABULARY

from rlhf_jax import inference
from rlhf_jax.config import MODEL, Config, ConfigError, MeshConfig, PpoConfig
from rlhf_jax.data import task as tasks
from rlhf_jax.mesh import make_mesh, to_devices
from rlhf_jax.model import heads
from rlhf_jax.pipeline import ensemble, ppo, reward, sft
from rlhf_jax.pipeline.rollout import scored
from rlhf_jax.run import checkpoint
from rlhf_jax.validation import validate

SEEDS = 2


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    config = tiny.run_config(tiny.write_data(tmp_path_factory.mktemp("data")))
    config.reward = dataclasses.replace(config.reward, seeds=SEEDS, shared_head=True)
    config.ppo = dataclasses.replace(config.ppo, episodes=8, epochs=1, minibatches=1)
    return validate(config)


@pytest.fixture(scope="module")
def workdir(config, tmp_path_factory):
    """A run whose two reward models are trained."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        programs.share(patch, {})
        for stage in (sft, reward):
            stage.train(config, folder)
    return folder


def by(config, how, **fields):
    return dataclasses.replace(config, ppo=dataclasses.replace(config.ppo, ensemble=how, **fields))


@pytest.fixture(autouse=True)
def one_device():
    with jax.set_mesh(make_mesh(MeshConfig(1, 1, 1))):
        yield


def test_each_scores_as_it_does_alone_whatever_the_devices():
    """Mean and least of two, and their distance: half of the difference."""
    model = dataclasses.replace(tiny.NEOX, layers=1)
    specs = heads.specs(model, VOCABULARY)
    both = tuple(tiny.parameters(specs, seed) for seed in (0, 1))
    query, response = tiny.random_queries(8, 6), np.where(np.arange(5) < 3, tiny.random_tokens(8, 5), PAD)
    score = jax.jit(heads.score, static_argnums=(1, 4))
    alone = np.array([score(one, model, query, response, PAD) for one in both])
    sums = tiny.additions(model, 6 + 5)
    found = {"mean": alone.mean(axis=0), "worst": alone.min(axis=0)}
    mesh = make_mesh(MeshConfig(2, 2, 2))
    with jax.set_mesh(mesh):
        placed = tuple(tiny.placed(one, specs, mesh) for one in both)
        rows = to_devices((query, response), mesh)
        for how, expected in found.items():
            together = functools.partial(scored, model=model, pad_id=PAD, options=PpoConfig(ensemble=how))
            of_all, disagreement = jax.jit(together)(placed, query=rows[0], response=rows[1])
            tiny.assert_close(of_all, expected, sums, tiny.largest(alone))
            tiny.assert_close(disagreement, np.abs(alone[0] - alone[1]) / 2, sums, tiny.largest(alone))
    assert tiny.largest(alone[0] - alone[1]) > 0.1


@pytest.mark.parametrize("how", ["best", "averaged", "mean", "worst"])
def test_training_references_score_zero_by_each_that_scores(how, config, workdir):
    config = by(config, how)
    posts = tasks.find(config.data, config.seed).records()["train"]
    loaded = ensemble.load(config, workdir)
    members = loaded if isinstance(loaded, tuple) else (loaded,)
    assert len(members) == len(ensemble.scoring(config)) == (SEEDS if how in ("mean", "worst") else 1)
    network = inference.load(workdir, "reward", config=config)
    for member in members:
        scores = dataclasses.replace(network, trained=member).score(posts, [post.reference for post in posts])
        error = tiny.rounding(tiny.additions(network.model, 44 + 9)) * (tiny.largest(scores) + 1)
        assert abs(scores.mean()) < error < scores.std() / 10


def test_the_average_is_of_the_weights_of_models_with_one_head(config, workdir):
    first, second, both = (
        inference.load(workdir, name, config=config).trained
        for name in ("reward_seed0", "reward_seed1", "reward_averaged")
    )
    mean = jax.tree.map(lambda x, y: (x + y) / 2, first, second)
    tiny.assert_close(both["transformer"], mean["transformer"], 2)
    tiny.assert_close(both["head"]["weight"], mean["head"]["weight"], 2)
    apart = tiny.largest(first["head"]["weight"] - second["head"]["weight"])
    assert 0 < apart < 8 * config.reward.optimizer.learning_rate  # of two trainings of four steps of AdamW


def test_ppo_tells_how_far_they_disagree(config, workdir):
    ppo.train(by(config, "worst"), workdir)
    assert numbers_of(workdir, "ppo")[-1]["objective/disagreement"] > 0


def test_a_run_that_does_not_know_its_shifts_says_what_to_do(config, workdir, monkeypatch):
    monkeypatch.setattr(checkpoint, "read_meta", lambda *_: {"usual_scores": [0, 1]})
    monkeypatch.setattr(inference, "load", lambda *_, **__: dataclasses.make_dataclass("N", ["trained"])({}))
    with pytest.raises(ConfigError, match="ppo.ensemble: .*2 reward models has its 0.*--stage=reward"):
        ensemble.load(by(config, "mean"), workdir)


def test_without_a_model_among_the_rewards_none_is_read():
    assert ensemble.read(Config(ppo=PpoConfig(reward="own.py:f"))) == [] and ensemble.together([]) is None
    assert ensemble.read(Config()) == ["reward"]
    several = Config(ppo=PpoConfig(reward=f"{MODEL},own.py:f", ensemble="mean"))
    several.reward.seeds = 2
    assert ensemble.read(several) == ["reward_seed0", "reward_seed1", "reward"]

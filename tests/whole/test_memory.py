"""Fine-tuning that saves memory wherever it can: stopped and resumed, loaded and exported."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import programs
import pytest
import tiny
from states import last_checkpoint

from rlhf_jax import inference
from rlhf_jax.config import LoraConfig, ModelConfig, OptimizerConfig
from rlhf_jax.data import task as tasks
from rlhf_jax.mesh import make_mesh
from rlhf_jax.model import lora, pretrained, quantized, transformer
from rlhf_jax.pipeline import export, sft
from rlhf_jax.run import checkpoint
from rlhf_jax.run import workdir as runs
from rlhf_jax.training import adapters
from rlhf_jax.training.metrics import MetricsLog
from rlhf_jax.validation import validate

SHAPE = ModelConfig(width=16, layers=1, heads=2, context=64)


def saving(config, **model):
    """The configuration with few bytes a weight."""
    config.model = dataclasses.replace(config.model, weights="bfloat16", **model)
    config.sft.optimizer = OptimizerConfig(1e-3, name="adamw_8bit")
    return validate(config)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.write_data(tmp_path_factory.mktemp("data"))


def stopping_at(step):
    log = MetricsLog.log

    def stop(self, i, metrics, **read):
        log(self, i, metrics, **read)
        if i == step:
            raise KeyboardInterrupt

    return stop


def test_stopped_and_resumed_is_the_undisturbed_run(data, tmp_path, monkeypatch):
    """Bytes and noise, too, bit for bit, one step after a checkpoint."""
    programs.share(monkeypatch, {})
    config = saving(tiny.run_config(data), rematerialize=True, rematerialize_but="products")
    sft.train(config, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MetricsLog, "log", stopping_at(3))
        sft.train(config, tmp_path / "again")
    assert checkpoint.latest_step(tmp_path / "again" / "checkpoints" / "sft") == 2
    sft.train(config, tmp_path / "again")
    expected, ours = (last_checkpoint(tmp_path / name, "sft") for name in ("whole", "again"))
    assert ours[0] == expected[0]
    tiny.assert_same(ours[1], expected[1])
    kept = {x.dtype.name for x in jax.tree.leaves(expected[1]["rest"]["opt_state"])}
    assert {x.dtype.name for x in jax.tree.leaves(expected[1]["params"])} == {"bfloat16"}
    assert kept == {"uint8", "float32", "int32"}
    network = inference.load(tmp_path / "again", "sft", config=config)
    assert network.trained["embed"]["tokens"].dtype == jnp.bfloat16 and len(network.write(["x"])) == 1


def test_adapters_beside_an_int8_base_are_exported_into_the_base_as_it_was(data, tmp_path):
    tokenizer = tasks.find(data, 0).make_tokenizer(tiny.posts(40, 0), None)
    weights = tiny.parameters(transformer.specs(SHAPE, tokenizer.vocab_size))
    weights = jax.tree.map(lambda x: 0.2 * x, weights)
    pretrained.save(tmp_path / "base", weights, SHAPE)
    tokenizer.save(tmp_path / "base")
    config = tiny.run_config(dataclasses.replace(data, query_tokens=36, query_buckets=(36,)))
    config.eval.shots = 0
    adapter = LoraConfig(rank=2, alpha=4.0, base="int8")
    config.model = ModelConfig(pretrained=str(tmp_path / "base"), lora=adapter)
    workdir = runs.open_workdir(tmp_path / "run", validate(config))
    sft.train(config, workdir)
    runs.record_stage(workdir, "sft", label="", networks={}, done=True)
    with jax.set_mesh(make_mesh(config.mesh)):
        network = inference.load(workdir, "sft", config=config)
        up = network.base["layers"]["mlp"]["up"]
        assert isinstance(up, quantized.Int8) and network.base["embed"]["tokens"].dtype == jnp.float32
        whole = adapters.whole_base_of(network.model, tokenizer.vocab_size)
        expected = lora.merged(lora.attach(whole, network.trained), adapter)
    exact = np.asarray(weights["layers"]["mlp"]["up"])
    assert 0 < np.abs(up.whole("float32") - exact).max() <= 0.501 * np.asarray(up.scale).max()
    export.export(workdir, "sft", tmp_path / "out")
    tiny.assert_close(inference.load(tmp_path / "out").trained, expected, 4)

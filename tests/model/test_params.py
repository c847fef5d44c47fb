import dataclasses

import jax
import numpy as np
import pytest
import tiny
from jax.sharding import PartitionSpec as P

from rlhf_jax.config import MeshConfig, ModelConfig, RotaryConfig
from rlhf_jax.mesh import make_mesh
from rlhf_jax.model import params, transformer
from rlhf_jax.model.params import ParamSpec, constant, normal

GPT2_SMALL = ModelConfig(width=768, layers=12, heads=12)
PYTHIA_1B = ModelConfig(
    width=2048, layers=16, heads=8, positions="rotary", rotary=RotaryConfig(0.25), activation="gelu"
)
PYTHIA_1B = dataclasses.replace(PYTHIA_1B, parallel_residual=True, tied_head=False)
LLAMA_7B = dataclasses.replace(tiny.LLAMA, width=4096, layers=32, heads=32, kv_heads=0, ff=11_008)


@pytest.mark.parametrize(
    ("config", "vocabulary", "published"),
    [
        (GPT2_SMALL, 50_257, 124_439_808),
        (PYTHIA_1B, 50_304, 1_011_781_632),
        (LLAMA_7B, 32_000, 6_738_415_616),
    ],
    ids=["gpt2", "pythia-1b", "llama-7b"],
)
def test_parameter_count_is_the_published_one(config, vocabulary, published):
    assert params.count(transformer.specs(config, vocabulary)) == published


@pytest.fixture(scope="module")
def weights():
    return {
        "a": ParamSpec((8, 4), P("fsdp", "tensor"), normal(2.0)),
        "b": ParamSpec((8,), P(), constant(3.0)),
    }


def test_a_tensor_does_not_depend_on_its_neighbours(weights):
    key = jax.random.key(0)
    more = {"_": ParamSpec((3,), P(), normal(1.0)), **weights}
    np.testing.assert_array_equal(params.init(weights, key)["a"], params.init(more, key)["a"])


def test_name_and_key_decide_the_numbers(weights):
    twins = {"a": weights["a"], "c": weights["a"]}
    drawn = params.init(twins, jax.random.key(0))
    assert not np.isclose(drawn["a"], drawn["c"]).any()
    assert not np.isclose(drawn["a"], params.init(twins, jax.random.key(1))["a"]).any()


def test_abstract_matches_init_and_the_mesh_does_not_change_the_numbers(weights):
    mesh = make_mesh(MeshConfig(2, 2, 2))
    with jax.set_mesh(mesh):
        drawn = jax.jit(lambda: params.init(weights, jax.random.key(0)))()
    described = params.abstract(weights, mesh)
    for name in weights:
        assert drawn[name].shape == described[name].shape and drawn[name].dtype == described[name].dtype
        assert drawn[name].sharding.is_equivalent_to(described[name].sharding, drawn[name].ndim)
    alone = params.init(weights, jax.random.key(0))
    tiny.assert_close(drawn, alone, 4)  # the inverse error function's polynomial is fused or not


def test_initial_values_have_the_declared_scale():
    drawn = params.init({"w": ParamSpec((100_000,), P(), normal(0.02))}, jax.random.key(0))["w"]
    np.testing.assert_allclose(np.std(drawn), 0.02, rtol=0.01)  # 4 standard errors
    np.testing.assert_allclose(np.mean(drawn), 0, atol=0.02 * 4 / 100_000**0.5)


def test_stacked_layers_are_drawn_apart(weights):
    stacked = params.stack(weights, 3)["a"]
    assert stacked.shape == (3, 8, 4) and stacked.partition == P(None, "fsdp", "tensor")
    layers = np.asarray(params.init({"a": stacked}, jax.random.key(0))["a"])
    assert len(np.unique(layers)) == layers.size

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from safetensors.flax import load_file, save_file

from rlhf_jax.config import ConfigError, MeshConfig
from rlhf_jax.mesh import make_mesh
from rlhf_jax.model import params, pretrained, transformer

SPECS = transformer.specs(tiny.LLAMA, tiny.VOCABULARY)


@pytest.fixture
def base(tmp_path):
    pretrained.save(tmp_path, tiny.parameters(SPECS), tiny.LLAMA)
    return tmp_path


def test_saved_and_loaded_is_the_same_in_bfloat16(base):
    mesh = make_mesh(MeshConfig(1, 4, 2))
    wanted = params.abstract(SPECS, mesh)
    loaded = pretrained.load(base, wanted)
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), tiny.parameters(SPECS))
    tiny.assert_same(loaded, rounded)
    assert jax.tree.map(lambda x: (x.dtype, x.sharding), loaded) == jax.tree.map(
        lambda x: (x.dtype, x.sharding), wanted
    )


def test_architecture_is_the_checkpoint_s_and_the_rest_the_run_s(base):
    ours = dataclasses.replace(tiny.GPT2, base=str(base), dtype="bfloat16", rematerialize=True)
    expected = dataclasses.replace(tiny.LLAMA, base=str(base), dtype="bfloat16", rematerialize=True)
    assert pretrained.architecture(ours) == expected
    assert pretrained.architecture(tiny.GPT2) == tiny.GPT2


def edit(base, change):
    tensors = load_file(base / "model.safetensors")
    change(tensors)
    save_file(tensors, base / "model.safetensors")


def add(tensors):
    tensors["layers.mlp.up_bias"] = jnp.zeros((2, 64))


def cut(tensors):
    tensors["embed.tokens"] = tensors["embed.tokens"][:-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("layers.attention.query"), "tensor layers.attention.query is missing"),
        (add, "tensor layers.mlp.up_bias is not part of this model"),
        (cut, r"tensor embed.tokens has shape \(39, 32\), the model needs \(40, 32\)"),
    ],
)
def test_a_wrong_tensor_is_named_in_one_line(base, change, message):
    edit(base, change)
    with pytest.raises(ConfigError, match=message) as error:
        pretrained.load(base, params.abstract(SPECS, make_mesh()))
    assert str(base / "model.safetensors") in str(error.value) and "\n" not in str(error.value)


def test_a_folder_without_weights_is_named(tmp_path):
    with pytest.raises(ConfigError, match=f"model.base: .*no model.safetensors .looked in {tmp_path}"):
        pretrained.folder_of(str(tmp_path))


def test_shipped_bases_are_found_by_name():
    for name in ("small", "large"):
        config = pretrained.architecture(tiny.GPT2, f"mini/{name}")
        tensors = load_file(pretrained.folder_of(f"mini/{name}") / "model.safetensors")
        specs = transformer.specs(config, tensors["embed.tokens"].shape[0])
        assert params.count(specs) == sum(np.size(x) for x in tensors.values())

import dataclasses
import json
import math
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file, save_file

from rlhf_jax.config import ConfigError, LoraConfig, MeshConfig, ModelConfig
from rlhf_jax.mesh import make_mesh
from rlhf_jax.model import heads, params, pretrained, transformer

SPECS = transformer.specs(tiny.LLAMA, tiny.VOCABULARY)


@pytest.fixture
def folder(tmp_path):
    pretrained.save(tmp_path, tiny.parameters(SPECS), tiny.LLAMA)
    return tmp_path


def layouts(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), tree)


@pytest.mark.parametrize("name", tiny.FAMILIES)
@pytest.mark.parametrize("of", [transformer, heads], ids=["policy", "reward model"])
def test_saved_and_loaded_is_the_same_on_any_mesh(tmp_path, name, of):
    model = tiny.FAMILIES[name]
    specs = of.specs(model, tiny.VOCABULARY)
    weights = tiny.parameters(specs)
    pretrained.save(tmp_path, weights, model)
    wanted = params.abstract(specs, make_mesh(MeshConfig(1, 4, 2)))
    loaded = pretrained.load(tmp_path, wanted)
    tiny.assert_same(loaded, weights)
    assert layouts(loaded) == layouts(wanted)


def test_bfloat16_rounds_and_nothing_else(tmp_path):
    weights = tiny.parameters(SPECS)
    pretrained.save(tmp_path, weights, tiny.LLAMA, "bfloat16")
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), weights)
    tiny.assert_same(pretrained.load(tmp_path, params.abstract(SPECS, make_mesh())), rounded)


def test_weights_are_read_in_the_type_that_is_asked_for(folder):
    loaded = pretrained.load(folder, params.abstract(SPECS, make_mesh(), jnp.bfloat16))
    tiny.assert_same(loaded, jax.tree.map(lambda x: x.astype(jnp.bfloat16), tiny.parameters(SPECS)))


def test_a_matrix_to_adapt_that_the_model_does_not_have_is_told(tmp_path):
    pretrained.save(tmp_path, tiny.parameters(transformer.specs(tiny.GPT2, tiny.VOCABULARY)), tiny.GPT2)
    model = ModelConfig(pretrained=str(tmp_path), lora=LoraConfig(2, targets=("up", "gate")))
    with pytest.raises(ConfigError, match="model.lora.targets: the MLP of .* has no gate"):
        pretrained.architecture(model)


def test_whoever_may_read_the_configuration_may_read_the_weights(tmp_path):
    pretrained.save(tmp_path, tiny.parameters(transformer.specs(tiny.LLAMA, tiny.VOCABULARY)), tiny.LLAMA)
    modes = {(tmp_path / name).stat().st_mode for name in ("config.json", "model.safetensors")}
    assert len(modes) == 1


def test_large_models_are_written_in_shards(tmp_path, monkeypatch):
    weights = tiny.parameters(SPECS)
    monkeypatch.setattr(pretrained, "SHARD_BYTES", 20_000)
    pretrained.save(tmp_path, weights, tiny.LLAMA)
    files = sorted(file.name for file in tmp_path.glob("*.safetensors"))
    assert len(files) > 2 and files[0] == f"model-00001-of-{len(files):05}.safetensors"
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(files)
    assert index["metadata"]["total_size"] == 4 * params.count(SPECS)
    tiny.assert_same(pretrained.load(tmp_path, params.abstract(SPECS, make_mesh())), weights)


def test_the_host_holds_its_shards_and_one_tensor(tmp_path):
    model = dataclasses.replace(tiny.LLAMA, width=256, ff=1024, heads=4, layers=8)
    specs = transformer.specs(model, 64)
    pretrained.save(tmp_path, tiny.parameters(specs), model)
    like = params.abstract(specs, make_mesh(MeshConfig(1, 8, 1)))
    largest_tensor, largest_leaf = 4 * 256 * 1024, 4 * 8 * 256 * 1024
    tracemalloc.start()
    pretrained.load(tmp_path, like)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Where devices copy late, all arrays are there at once, and beside them 0.06 to 0.12 MB of Python's own
    # objects: names, views, caches. Another leaf would be 64 times as much.
    objects = 2**17
    assert largest_leaf < peak < 4 * params.count(specs) + 2 * largest_tensor + objects


def test_seven_billion_parameters_load_where_no_device_could_hold_them():
    model = ModelConfig(width=4096, layers=32, heads=32, ff=11008, norm="rms", positions="rotary")
    model = dataclasses.replace(model, activation="silu", gated=True, attention_bias=False, mlp_bias=False)
    specs = transformer.specs(dataclasses.replace(model, tied_head=False), 32_000)
    like = jax.tree.leaves(params.abstract(specs, make_mesh(MeshConfig(1, 4, 2))))
    on_a_device = sum(4 * math.prod(x.sharding.shard_shape(x.shape)) for x in like)
    assert 4 * params.count(specs) > 26e9 and on_a_device < 3.4e9  # an H100 has 80e9, a v5e chip 16e9 bytes


def test_names_without_prefix_and_buffers_are_understood(folder):
    tensors = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("model."): x for name, x in tensors.items()}
    bare["layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(2, np.float32)
    save_file(bare, folder / "model.safetensors")
    tiny.assert_same(pretrained.load(folder, params.abstract(SPECS, make_mesh())), tiny.parameters(SPECS))


def test_architecture_is_the_checkpoint_s_and_the_rest_the_run_s(folder):
    ours = dataclasses.replace(tiny.GPT2, pretrained=str(folder), dtype="bfloat16", rematerialize=True)
    theirs = pretrained.architecture(ours)
    chosen = {"pretrained": str(folder), "dtype": "bfloat16", "rematerialize": True, "head_size": 4}
    assert theirs == dataclasses.replace(tiny.LLAMA, **chosen)
    assert pretrained.architecture(tiny.GPT2) == tiny.GPT2


def edit(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def add(tensors):
    tensors["model.layers.0.mlp.up_proj.bias"] = np.zeros(64, np.float32)


def cut(tensors):
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tensors: tensors.pop("model.layers.1.self_attn.q_proj.weight"),
            "tensor model.layers.1.self_attn.q_proj.weight is missing",
        ),
        (add, "tensor model.layers.0.mlp.up_proj.bias is not part of this llama model"),
        (
            cut,
            r"tensor model.embed_tokens.weight has shape \(39, 32\), .* say \(40, 32\)",
        ),
    ],
)
def test_a_wrong_tensor_is_named_in_one_line(folder, change, message):
    edit(folder, change)
    with pytest.raises(ConfigError, match=message) as error:
        pretrained.load(folder, params.abstract(SPECS, make_mesh()))
    assert str(folder / "model.safetensors") in str(error.value) and "\n" not in str(error.value)


def test_damaged_files_are_named_in_one_line(folder):
    like = params.abstract(SPECS, make_mesh())
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for damaged in (b"", whole[:100], whole[:-1], b"\xff" * 100):
        file.write_bytes(damaged)
        with pytest.raises(ConfigError, match="not a whole safetensors file"):
            pretrained.load(folder, like)
    for damaged in ("", "[]", "{"):
        (folder / "config.json").write_text(damaged)
        with pytest.raises(ConfigError, match="config.json: "):
            pretrained.load(folder, like)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_head_beside_a_tied_embedding_is_read_only_if_it_is_the_same(tmp_path, monkeypatch, name):
    model = dataclasses.replace(tiny.FAMILIES[name], tied_head=True)
    specs = transformer.specs(model, tiny.VOCABULARY)
    like = params.abstract(specs, make_mesh())
    weights = tiny.parameters(specs)
    pretrained.save(tmp_path, weights, model)
    monkeypatch.setattr(pretrained, "COMPARED", 7 * model.width)  # 40 rows in parts of 7
    embedding = np.asarray(weights["embed"]["tokens"])
    edit(tmp_path, lambda tensors: tensors.update({"lm_head.weight": embedding}))
    tiny.assert_same(pretrained.load(tmp_path, like), weights)
    for other in (embedding + np.eye(*embedding.shape, k=-8), embedding[1:]):
        edit(tmp_path, lambda tensors, x=other: tensors.update({"lm_head.weight": x.astype(np.float32)}))
        with pytest.raises(ConfigError, match=r"lm_head.weight differs from .* tie_word_embeddings to false"):
            pretrained.load(tmp_path, like)
    reward = heads.specs(model, tiny.VOCABULARY)  # which has no use for an output matrix
    edit(tmp_path, lambda tensors: tensors.update({"score.weight": np.ones((1, model.width), np.float32)}))
    tiny.assert_same(pretrained.load(tmp_path, params.abstract(reward, make_mesh()))["transformer"], weights)


def test_one_file_goes_before_an_index_as_in_transformers(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "other.safetensors"}}')
    tiny.assert_same(pretrained.load(folder, params.abstract(SPECS, make_mesh())), tiny.parameters(SPECS))


def test_shards_hold_what_the_index_says(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "SHARD_BYTES", 20_000)
    pretrained.save(tmp_path, tiny.parameters(SPECS), tiny.LLAMA)
    first, *_, last = sorted(tmp_path.glob("*.safetensors"))
    name = next(iter(load_file(first)))
    save_file(load_file(last) | {name: load_file(first)[name] * 2}, last)
    with pytest.raises(ConfigError, match=f"{last.name}: tensor {name} is here, and not where .*index.json"):
        pretrained.load(tmp_path, params.abstract(SPECS, make_mesh()))


def test_an_adapter_is_told_and_not_left_out(folder):
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="adapter_config.json: an adapter of another model: name that one"):
        pretrained.architecture(ModelConfig(pretrained=str(folder)))


def test_a_folder_is_named_by_a_text_or_a_path(folder):
    like = params.abstract(SPECS, make_mesh())
    tiny.assert_same(pretrained.load(str(folder), like), pretrained.load(folder, like))
    assert pretrained.folder_of(folder) == pretrained.folder_of(str(folder)) == folder
    pretrained.save(str(folder / "copy"), tiny.parameters(SPECS), tiny.LLAMA)
    assert pretrained.architecture(ModelConfig(), folder / "copy").width == tiny.LLAMA.width


def test_an_index_that_promises_too_much(folder):
    index = folder / "model.safetensors.index.json"
    (folder / "model.safetensors").rename(folder / "x.safetensors")
    for text, message in (
        ("{}", "not the index of a sharded model"),
        ('{"weight_map": {"a": "../x.safetensors"}}', "weight_map.a: .* is no file of this folder"),
        ('{"weight_map": {"a": "x.safetensors"}}', "tensor a is missing, which .*index.json promises"),
    ):
        index.write_text(text)
        with pytest.raises(ConfigError, match=message):
            pretrained.load(folder, params.abstract(SPECS, make_mesh()))


def test_a_folder_without_weights_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "pytorch_model.bin").write_text("")
    with pytest.raises(ConfigError, match="has no model.safetensors .*convert its .bin weights"):
        pretrained.load(tmp_path, {"embed": {"tokens": np.zeros((2, 2))}})


def test_a_name_that_is_nothing():
    with pytest.raises(ConfigError, match="neither a folder nor a name on the hub"):
        pretrained.folder_of("./no/such/folder")


def test_shipped_models_are_found_by_name():
    for name in ("small", "large"):
        folder = pretrained.folder_of(f"mini/{name}")
        config = pretrained.architecture(tiny.GPT2, f"mini/{name}")
        vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
        tensors = load_file(folder / "model.safetensors")
        assert params.count(transformer.specs(config, vocabulary)) == sum(x.size for x in tensors.values())

"""Adapters as PEFT's folders. That PEFT computes the same from them is tested in tests/live."""

import dataclasses
import json
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file, save_file

from rlhf_jax.config import ConfigError, LoraConfig, MeshConfig
from rlhf_jax.mesh import make_mesh
from rlhf_jax.model import families, lora, params, peft, transformer

RANK = 3
MESH = make_mesh(MeshConfig(1, 1, 1))
FIXTURES = sorted((Path(__file__).parents[1] / "fixtures").glob("*/config.json"))


def model_of(name, **fields):
    adapters = LoraConfig(RANK, 6.0, **fields)
    return dataclasses.replace(tiny.FAMILIES[name], lora=adapters, pretrained="some/base")


def like_of(model):
    return params.abstract(lora.trained(transformer.specs(model, tiny.VOCABULARY), model.lora), MESH)


def adapters_of(model):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), like_of(model))


@pytest.mark.parametrize("file", FIXTURES, ids=lambda file: file.parent.name)
def test_saved_and_loaded_is_the_same(tmp_path, file):
    """In every family, also where one module of transformers holds several matrices of ours."""
    model = families.read(json.loads(file.read_text()), file)[1]
    model = dataclasses.replace(model, lora=LoraConfig(RANK, 6.0, rank_stabilized=True), pretrained="a base")
    adapters = adapters_of(model)
    peft.save(tmp_path, adapters, model)
    loaded = peft.load(tmp_path, model, like_of(model))
    tiny.assert_close(loaded, adapters, 1)  # B is multiplied by a ratio of scales, which is 1


def test_names_and_fields_are_those_of_peft(tmp_path):
    model = model_of("gpt2", targets=("attention",))
    peft.save(tmp_path, adapters_of(model), model)
    fields = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (fields["peft_type"], fields["task_type"], fields["r"]) == ("LORA", "CAUSAL_LM", RANK)
    assert fields["target_modules"] == ["attn.c_attn", "attn.c_proj"] and fields["fan_in_fan_out"]
    assert fields["rank_pattern"] == {"attn.c_attn": 9} and fields["alpha_pattern"] == {"attn.c_attn": 18.0}
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    shapes = {name: x.shape for name, x in tensors.items() if ".h.1." in name}
    start = "base_model.model.transformer.h.1.attn."
    assert shapes == {
        f"{start}c_attn.lora_A.weight": (9, 32),
        f"{start}c_attn.lora_B.weight": (96, 9),
        f"{start}c_proj.lora_A.weight": (3, 32),
        f"{start}c_proj.lora_B.weight": (32, 3),
    }


@pytest.mark.parametrize("name", ["gpt2", "neox"])
def test_one_a_for_three_matrices_is_that_of_each(tmp_path, name):
    """The change of the fused matrix, A · B by hand, is that of ours; alpha may be another."""
    model = model_of(name, targets=("query", "key", "value"))
    peft.save(tmp_path, adapters_of(model), model)
    rng, tensors = np.random.default_rng(1), {}
    for key, x in load_file(tmp_path / peft.WEIGHTS).items():
        shape = (RANK, 32) if "lora_A" in key else (96, RANK)
        assert x.shape == tuple(3 * n if n == RANK else n for n in shape)
        tensors[key] = rng.normal(size=shape).astype(np.float32)
    save_file(tensors, tmp_path / peft.WEIGHTS)
    fields = json.loads((tmp_path / peft.CONFIG).read_text()) | {"alpha_pattern": {}, "rank_pattern": {}}
    fields["lora_alpha"] = 12.0
    (tmp_path / peft.CONFIG).write_text(json.dumps(fields))
    loaded = peft.load(tmp_path, model, like_of(model))["layers"]["attention"]
    module = next(iter(peft.modules(model, {"layers": {"attention": loaded}})))
    start = peft.PREFIX + module.name.format(1)
    change = 12 / RANK * tensors[f"{start}.lora_B.weight"] @ tensors[f"{start}.lora_A.weight"]  # [out, in]
    theirs = module.line.split(change.T if name == "gpt2" else change, model, tiny.VOCABULARY)
    for part, matrix in zip(theirs, ("query", "key", "value"), strict=True):
        a, b = np.asarray(loaded[matrix].a[1]), np.asarray(loaded[matrix].b[1])
        ours = model.lora.scale * a @ b.reshape(RANK, -1)
        tiny.assert_close(ours, part.reshape(32, 32), RANK + 3, scale=tiny.largest(a) * tiny.largest(b))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"r": 4}, "adapter_config.json: field r is 4, and model.lora.rank 3"),
        ({"use_dora": True}, "adapter_config.json: field use_dora is True, which is not supported"),
        ({"peft_type": "IA3"}, "field peft_type is 'IA3'"),
        ({"peft_type": None}, "field peft_type is None"),
        ({"init_lora_weights": "pissa"}, "field init_lora_weights is 'pissa'"),
        ({"alpha_pattern": [8]}, r"field alpha_pattern is \[8\], it should be an object"),
        ({"alpha_pattern": {"q_proj(": 8}}, r"alpha_pattern: 'q_proj\(' is no regular expression"),
        ({"alpha_pattern": {"q_proj": 10**400}}, "alpha_pattern: field q_proj is 1000.*, it should be below"),
        ({"rank_pattern": {"q_proj": 6}}, "q_proj has A .* and the rank 6 of adapter_config.json"),
        ({"use_rslora": "no"}, "field use_rslora is 'no', which is not supported"),
        ({"kasa_config": {"beta": 1e-4}}, "field kasa_config is .*, which is not supported"),
        ({"modules_to_save": ["lm_head"]}, "field modules_to_save"),
        ({"lora_alpha": None}, "field lora_alpha is missing"),
    ],
)
def test_what_cannot_be_read_is_told_by_its_field(tmp_path, change, message):
    model = model_of("llama", targets=("query",))
    peft.save(tmp_path, adapters_of(model), model)
    fields = json.loads((tmp_path / peft.CONFIG).read_text())
    (tmp_path / peft.CONFIG).write_text(json.dumps(fields | change))
    with pytest.raises(ConfigError, match=message):
        peft.load(tmp_path, model, like_of(model))


def test_other_targets_and_shapes_are_told_by_the_tensor(tmp_path):
    model = model_of("llama", targets=("query",))
    peft.save(tmp_path, adapters_of(model), model)
    more, fewer = model_of("llama", targets=("query", "up")), model_of("llama", targets=("down",))
    with pytest.raises(
        ConfigError, match="up_proj.lora_A.weight is missing; model.pretrained and model.lora"
    ):
        peft.load(tmp_path, more, like_of(more))
    with pytest.raises(ConfigError, match="down_proj.lora_A.weight is missing"):
        peft.load(tmp_path, fewer, like_of(fewer))
    fused = model_of("neox", targets=("attention",))
    peft.save(tmp_path / "fused", adapters_of(fused), fused)
    wide = dataclasses.replace(fused, width=64)
    with pytest.raises(ConfigError, match="query_key_value has A .* which do not fit the model"):
        peft.load(tmp_path / "fused", wide, like_of(wide))
    wide = dataclasses.replace(model, width=64)
    with pytest.raises(ConfigError, match="q_proj has A .* which do not fit the model"):
        peft.load(tmp_path, wide, like_of(wide))
    (tmp_path / peft.WEIGHTS).write_bytes(b"half")
    with pytest.raises(ConfigError, match="not a whole safetensors file"):
        peft.load(tmp_path, model, like_of(model))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.astype(np.int8), "lora_A.weight is of type I8, not one of F64, F32, F16, BF16"),
        (lambda x: x.astype(ml_dtypes.float8_e4m3fn), "lora_A.weight is of type F8_E4M3, not one of F64"),
        (lambda x: x / np.float32(0), "lora_A.weight has entries that are not finite"),
        (lambda x: x[0, 0].reshape(()), r"q_proj has A \(\) and B \(\), which do not fit the model"),
        (lambda x: x[:0, :0], r"q_proj has A \(0, 0\) and B \(0, 0\), which do not fit the model"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_tensors_that_are_no_adapter_are_told_by_name(tmp_path, change, message):
    model = model_of("llama", targets=("query",))
    peft.save(tmp_path, adapters_of(model), model)
    tensors = load_file(tmp_path / peft.WEIGHTS)
    save_file({name: np.asarray(change(x)) for name, x in tensors.items()}, tmp_path / peft.WEIGHTS)
    with pytest.raises(ConfigError, match=message):
        peft.load(tmp_path, model, like_of(model))


def test_one_of_three_matrices_in_a_module_is_refused(tmp_path):
    model = model_of("gpt2", targets=("query", "up"))
    with pytest.raises(
        ConfigError, match="model.lora.targets: PEFT changes .*c_attn.* all of query, key, value"
    ):
        peft.save(tmp_path, adapters_of(model), model)

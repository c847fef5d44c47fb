import dataclasses

import numpy as np
import pytest
import tiny

from rlhf_jax.config import ConfigError, ModelConfig, RotaryConfig
from rlhf_jax.model import families, rotary
from rlhf_jax.model.families import FAMILIES, Tensor

EPS = np.finfo(np.float32).eps

PYTHIA = {
    "model_type": "gpt_neox",
    "hidden_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "max_position_embeddings": 2048,
    "rotary_pct": 0.25,
    "rotary_emb_base": 10000,
    "hidden_act": "gelu",
    "use_parallel_residual": True,
    "tie_word_embeddings": False,
}
LLAMA_3 = {
    "model_type": "llama",
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "tie_word_embeddings": True,
}


def read(fields) -> ModelConfig:
    return families.read(fields, "x/config.json")[1]


def test_a_published_pythia_config():
    model = read(PYTHIA)
    assert (model.width, model.layers, model.heads, model.ff) == (512, 6, 8, 2048)
    assert model.parallel_residual and model.attention_bias and not model.tied_head
    assert (model.norm, model.positions, model.activation) == ("layer", "rotary", "gelu")
    assert model.rotary == RotaryConfig(fraction=0.25, base=10_000.0)


def test_a_published_llama_3_config():
    model = read(LLAMA_3)
    assert (model.heads, model.kv_heads, model.head_size, model.ff) == (32, 8, 64, 8192)
    assert (model.norm, model.activation, model.gated, model.tied_head) == ("rms", "silu", True, True)
    assert model.rotary == RotaryConfig(1.0, 500_000.0, "llama3", 32.0, 8192, 1.0, 4.0)


def test_both_spellings_of_rotary_say_the_same():
    newer = {k: v for k, v in LLAMA_3.items() if k not in ("rope_theta", "rope_scaling")}
    newer["rope_parameters"] = LLAMA_3["rope_scaling"] | {"rope_theta": 500000.0}
    assert read(newer) == read(LLAMA_3)


LINEAR = {"rope_type": "linear", "factor": 4.0}
LLAMA_1 = {k: v for k, v in LLAMA_3.items() if k not in ("rope_theta", "rope_scaling")}
GPT_2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}


@pytest.mark.parametrize(
    ("fields", "rotary"),
    [
        # rope_scaling is all that counts, where it says something.
        (
            LLAMA_1 | {"rope_parameters": {"rope_theta": 500.0}, "rope_scaling": LINEAR},
            RotaryConfig(base=10_000.0, scaling="linear", factor=4.0),
        ),
        (LLAMA_1 | {"rope_parameters": {"rope_theta": 500.0}, "rope_scaling": {}}, RotaryConfig(base=500.0)),
        (
            LLAMA_1 | {"rope_theta": 777.0, "rope_parameters": {"rope_theta": 500.0}},
            RotaryConfig(base=500.0),
        ),
        (LLAMA_1 | {"rope_scaling": LINEAR | {"rope_type": "default", "type": "linear"}}, RotaryConfig()),
        (
            LLAMA_3 | {"original_max_position_embeddings": 16},
            RotaryConfig(1.0, 500_000.0, "llama3", 32.0, 16, 1.0, 4.0),
        ),
        (
            PYTHIA | {"rope_parameters": {"partial_rotary_factor": 0.5}, "rope_scaling": LINEAR},
            RotaryConfig(0.25, 10_000.0, "linear", 4.0),
        ),
    ],
)
def test_of_two_places_that_disagree_the_one_that_transformers_reads_counts(fields, rotary):
    assert read(fields).rotary == rotary


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in ("gpt2", "phi3")])
def test_positions_are_stretched_from_the_context_of_the_family(name):
    """Where a file names none, it is the one that the model itself gets."""
    yarn = {"rope_type": "yarn", "factor": 2.0}
    model = read({"model_type": name, "rope_scaling": yarn})
    assert model.rotary.original_context == model.context


def test_gemma_3_takes_the_original_context_from_within():
    """As transformers does in a family with two rotaries."""
    yarn = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}
    fields = {"model_type": "gemma3_text", "rope_scaling": yarn, "original_max_position_embeddings": 16}
    assert read(fields).rotary.original_context == 64


def test_more_heads_than_dimensions_have_a_family():
    model = read(LLAMA_3 | {"hidden_size": 16, "num_attention_heads": 32, "head_dim": 2})
    assert families.family_of(model) is FAMILIES["llama"]


def test_a_second_name_of_a_field_of_gpt2_goes_before_the_first():
    assert read(GPT_2 | {"num_attention_heads": 2}) == read(GPT_2 | {"n_head": 2})
    unnamed = {name: value for name, value in GPT_2.items() if name != "n_layer"}
    assert read(unnamed | {"num_hidden_layers": 2}) == read(GPT_2)


@pytest.mark.parametrize("model", [*tiny.FAMILIES.values(), ModelConfig(), ModelConfig(positions="rotary")])
def test_what_is_written_reads_as_the_same_model(model):
    family = families.family_of(model)
    fields = family.write(model)
    again = read(fields)
    assert family.write(again) == fields


def test_a_gate_is_the_family_s_and_the_activation_the_model_s():
    assert read(PYTHIA | {"hidden_act": "silu"}) == dataclasses.replace(read(PYTHIA), activation="silu")
    model = read(LLAMA_3 | {"hidden_act": "gelu_pytorch_tanh"})
    assert model == dataclasses.replace(read(LLAMA_3), activation="gelu_tanh") and model.gated
    family = families.family_of(model)
    assert family is families.LLAMA and family.write(model)["hidden_act"] == "gelu_new"


def test_families_are_told_apart():
    names = {name: families.family_of(model).name for name, model in tiny.FAMILIES.items()}
    assert names == {"gpt2": "gpt2", "neox": "gpt_neox", "llama": "llama"}


@pytest.mark.parametrize(
    "model",
    [
        dataclasses.replace(tiny.LLAMA, positions="learned"),
        dataclasses.replace(tiny.LLAMA, gated=False),
        dataclasses.replace(tiny.GPT2, gated=True),
    ],
)
def test_a_mixture_has_no_family(model):
    with pytest.raises(ConfigError, match="no Hugging Face family"):
        families.family_of(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, "model_type 'mamba' is not supported; gpt2, gpt_neox, llama, .* are"),
        ({"hidden_size": "many"}, "field hidden_size is 'many', it should be of type int"),
        ({"num_hidden_layers": -1}, "field num_hidden_layers is -1, it should be positive"),
        ({"num_attention_heads": 7}, "7 heads do not fit width 512"),
        ({"hidden_act": "relu"}, "hidden_act 'relu' is not supported"),
        ({"rope_scaling": {"rope_type": "su"}}, "rope_scaling: rope_type 'su' is not supported"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "rope_scaling: field short_factor is missing"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling: field factor is missing"),
        ({"rope_scaling": 3}, "field rope_scaling is 3, it should be an object"),
        ({"is_causal": False}, "is_causal False is not supported, only True"),
        ({"quantization_config": {"bits": 4}}, "quantization_config {'bits': 4} is not supported$"),
        ({"per_layer_config": {"0": {}}}, "per_layer_config {'0': {}} is not supported$"),
        ({"transformers_weights": "a.safetensors"}, "transformers_weights 'a.safetensors' is not supported$"),
        ({"head_dim": 8}, "head_dim 8 is not supported, only 64"),
        ({"rotary_pct": 0.05}, "of 64 dimensions of a head 3 rotate, an odd number"),
    ],
)
def test_an_unknown_architecture_is_named(change, message):
    with pytest.raises(ConfigError, match=message) as error:
        read(PYTHIA | change)
    assert str(error.value).startswith("x/config.json")


@pytest.mark.parametrize("place", ["rope_parameters", "rope_scaling", None])
def test_llama_turns_whole_heads(place):
    partial = {"partial_rotary_factor": 0.5}
    with pytest.raises(ConfigError, match="partial_rotary_factor 0.5 is not supported, only 1.0"):
        read(LLAMA_1 | ({place: partial} if place else partial))


def test_an_odd_number_of_turning_dimensions_has_no_family():
    with pytest.raises(ConfigError, match="model: of 9 dimensions of a head 9 rotate, an odd number"):
        families.family_of(dataclasses.replace(tiny.LLAMA, width=72))


def test_fused_projections_are_laid_out_as_gpt2_and_neox_do():
    model = ModelConfig(width=4, heads=2, layers=1)  # heads of 2 dimensions
    weight = np.arange(4 * 12).reshape(4, 12)
    by_name = {t.name: t for family in FAMILIES.values() for t in family.tensors}
    query, key, _ = by_name["h.{}.attn.c_attn.weight"].split(weight, model, 1)
    assert query[0].tolist() == [[0, 1], [2, 3]]  # GPT-2: all queries, all keys, all values
    assert key[0].tolist() == [[4, 5], [6, 7]]
    query, key, _ = by_name["layers.{}.attention.query_key_value.weight"].split(weight.T, model, 1)
    assert query[0].tolist() == [[0, 1], [6, 7]]  # GPT-NeoX: head by head
    assert key[0].tolist() == [[2, 3], [8, 9]]


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_joining_undoes_splitting(family):
    model = dataclasses.replace(tiny.LLAMA, heads=6, kv_heads=2, head_size=5, width=32, context=7)
    model = model if family is families.LLAMA else dataclasses.replace(model, kv_heads=0)
    for line in family.tensors:
        tensor = np.random.default_rng(0).normal(size=line.shape(model, 11))
        np.testing.assert_array_equal(line.join(line.split(tensor, model, 11), model, 11), tensor)


def test_shapes_follow_the_pattern():
    line = Tensor("q", ("attention.query",), "(h g k) d -> d h g k")
    model = ModelConfig(width=12, heads=4, kv_heads=2, head_size=5)
    assert line.shape(model, 1) == (20, 12)


def test_plain_rotary_frequencies_by_hand():
    np.testing.assert_allclose(rotary.frequencies(RotaryConfig(base=100.0), 4), [1.0, 0.1], rtol=4 * EPS)


def test_linear_scaling_divides_every_frequency():
    config = RotaryConfig(base=100.0, scaling="linear", factor=4.0)
    np.testing.assert_allclose(rotary.frequencies(config, 4), [0.25, 0.025], rtol=4 * EPS)


def test_llama3_keeps_fast_and_stretches_slow_dimensions():
    config = RotaryConfig(1.0, 1e4, "llama3", 8.0, 64, 1.0, 4.0)
    plain = rotary.frequencies(RotaryConfig(), 16)
    turns = 64 * plain / (2 * np.pi)
    stretched = rotary.frequencies(config, 16)
    np.testing.assert_allclose(stretched[turns > 4], plain[turns > 4], rtol=4 * EPS)
    np.testing.assert_allclose(stretched[turns < 1], plain[turns < 1] / 8, rtol=4 * EPS)
    between = (turns > 1) & (turns < 4)
    assert between.any() and np.all(stretched[between] < plain[between])


def test_longrope_divides_each_frequency_by_its_own_factor():
    config = RotaryConfig(
        base=100.0, scaling="longrope", factor=64.0, original_context=8, short_factors=(1.0, 4.0)
    )
    np.testing.assert_allclose(rotary.frequencies(config, 4), [1.0, 0.025], rtol=4 * EPS)
    assert rotary.amplitude(config) == pytest.approx(3**0.5)  # ln 64 = 2 ln 8
    assert rotary.amplitude(dataclasses.replace(config, attention_factor=0.5)) == 0.5
    assert rotary.amplitude(dataclasses.replace(config, factor=0.5)) == 1.0


def test_yarn_whose_passage_ends_before_it_begins():
    """transformers' formula for it, by hand: kept = 1 - (i - 0) / (-1 - 0), of pair 1 more than all."""
    config = RotaryConfig(scaling="yarn", factor=2.0, original_context=8, beta_slow=40.0)
    np.testing.assert_allclose(rotary.frequencies(config, 6), 10_000.0 ** (-np.arange(3) / 3), rtol=1e-6)


def test_yarn_amplitude():
    config = RotaryConfig(scaling="yarn", factor=np.e, original_context=64)
    assert rotary.amplitude(config) == pytest.approx(1.1)
    assert rotary.amplitude(dataclasses.replace(config, attention_factor=0.5)) == 0.5
    assert rotary.amplitude(RotaryConfig()) == 1.0

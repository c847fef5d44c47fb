"""`config.json` as their makers published them, shortened to what counts; and what is refused in them."""

import dataclasses

import pytest

from rlhf_jax.config import ConfigError, ModelConfig, RotaryConfig
from rlhf_jax.model import families, params, transformer
from rlhf_jax.plan.published import GEMMA3_1B, QWEN3_06B

FULL, SLIDING = "full_attention", "sliding_attention"
QWEN25_HALF_B = {
    "model_type": "qwen2",
    "hidden_size": 896,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "max_window_layers": 24,
    "sliding_window": 32768,
    "use_sliding_window": False,
    "use_mrope": False,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
}
MISTRAL_7B = {
    "model_type": "mistral",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "sliding_window": 4096,
}
OLMO2_1B = {
    "model_type": "olmo2",
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "intermediate_size": 8192,
    "max_position_embeddings": 4096,
    "rope_theta": 500_000,
    "rms_norm_eps": 1e-6,
}
SMOLLM3_3B = {
    "model_type": "smollm3",
    "hidden_size": 2048,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "intermediate_size": 11008,
    "max_position_embeddings": 65536,
    "rope_theta": 5e6,
    "no_rope_layer_interval": 4,
    "no_rope_layers": [1, 1, 1, 0] * 9,
    "layer_types": [FULL] * 36,
    "use_sliding_window": False,
}
GEMMA2_2B = {
    "model_type": "gemma2",
    "hidden_size": 2304,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "intermediate_size": 9216,
    "max_position_embeddings": 8192,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "hidden_activation": "gelu_pytorch_tanh",
}
PHI_4 = {
    "model_type": "phi3",
    "hidden_size": 5120,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "num_key_value_heads": 10,
    "intermediate_size": 17920,
    "max_position_embeddings": 16384,
    "rope_theta": 250_000,
    "rope_scaling": None,
    "sliding_window": None,
}
PHI_4_MINI = PHI_4 | {
    "hidden_size": 3072,
    "num_hidden_layers": 32,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "intermediate_size": 8192,
    "max_position_embeddings": 131_072,
    "original_max_position_embeddings": 4096,
    "partial_rotary_factor": 0.75,
    "rope_theta": 10_000.0,
    "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2] * 48},
    "sliding_window": 262_144,
    "tie_word_embeddings": True,
}


def read(fields) -> ModelConfig:
    return families.read(fields, "x/config.json")[1]


@pytest.mark.parametrize(
    ("fields", "vocabulary", "parameters"),
    [
        (QWEN25_HALF_B, 151_936, 494_032_768),
        (QWEN3_06B, 151_936, 596_049_920),
        (MISTRAL_7B, 32_000, 7_241_732_096),
        (OLMO2_1B, 100_352, 1_484_916_736),
        (SMOLLM3_3B, 128_256, 3_075_098_624),
        (GEMMA2_2B, 256_000, 2_614_341_888),
        (GEMMA3_1B, 262_144, 999_885_952),
        (PHI_4, 100_352, 14_659_507_200),
        (PHI_4_MINI, 200_064, 3_836_021_760),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_the_number_of_parameters_is_the_published_one(fields, vocabulary, parameters):
    model = read(fields)
    assert params.count(transformer.specs(model, vocabulary)) == parameters
    again = families.family_of(model).write(model)
    assert families.family_of(read(again)) is families.family_of(model)
    assert read(again).kinds == model.kinds


def test_which_layers_see_how_far():
    local = "local"
    assert read(QWEN25_HALF_B).layer_pattern == read(QWEN3_06B).layer_pattern == ("global",)
    assert (read(MISTRAL_7B).layer_pattern, read(MISTRAL_7B).window) == ((local,), 4096)
    assert read(MISTRAL_7B | {"sliding_window": None}).layer_pattern == ("global",)
    assert read(GEMMA2_2B).layer_pattern == (local, "global")
    assert read(GEMMA3_1B).layer_pattern == (*[local] * 5, "global")
    late = read(QWEN25_HALF_B | {"use_sliding_window": True, "max_window_layers": 22})
    assert late.layer_kinds == ["global"] * 22 + [local] * 2 and late.window == 32768
    typed = read(
        QWEN3_06B | {"use_sliding_window": True, "sliding_window": 9, "layer_types": [FULL, SLIDING] * 14}
    )
    assert typed.layer_pattern == ("global", local) and typed.window == 9


def test_where_transformers_has_a_window_without_being_told():
    untold = {name: value for name, value in MISTRAL_7B.items() if name != "sliding_window"}
    assert read(untold).window == 4096
    assert read(PHI_4).window == 0


def test_layers_without_positions():
    assert read(SMOLLM3_3B).layer_pattern == ("global", "global", "global", "nope")
    every_third = {"no_rope_layers": None, "no_rope_layer_interval": 3}
    assert read(SMOLLM3_3B | every_third).layer_pattern == ("global", "global", "nope")
    rotaries = [kind.rotary for kind in read(SMOLLM3_3B).kinds]
    assert rotaries == [RotaryConfig(base=5e6)] * 3 + [None]


def test_two_rotaries_in_both_spellings():
    stretched = {"rope_type": "linear", "factor": 8.0}
    model = read(GEMMA3_1B | {"rope_scaling": stretched})
    local, everywhere = model.kinds[0].rotary, model.kinds[5].rotary
    assert (local.base, local.scaling) == (10_000.0, "plain")
    assert (everywhere.base, everywhere.scaling, everywhere.factor) == (1e6, "linear", 8.0)
    newer = {name: value for name, value in GEMMA3_1B.items() if not name.startswith("rope")}
    newer["rope_parameters"] = {
        FULL: stretched | {"rope_theta": 1e6},
        SLIDING: {"rope_type": "default", "rope_theta": 10_000.0},
    }
    assert read(newer) == model


def test_gemma_s_scales_and_caps():
    model = read(GEMMA2_2B)
    assert (model.embedding_scale, model.attention_scale) == (48.0, 0.0625)  # √2304, 1 / √256
    assert (model.attention_cap, model.logit_cap) == (50.0, 30.0)
    assert (read(GEMMA3_1B).attention_cap, read(GEMMA3_1B).logit_cap) == (0.0, 0.0)


def test_a_model_that_two_families_can_say_is_written_as_the_first():
    assert families.family_of(read(PHI_4)) is families.LLAMA
    assert families.family_of(read(PHI_4 | {"sliding_window": 9})) is families.MISTRAL
    assert families.family_of(read(PHI_4 | {"partial_rotary_factor": 0.5})) is families.PHI3


def test_longrope_is_read_within_the_original_context_and_written_whole():
    model = read(PHI_4_MINI)
    rotary = model.rotary
    assert (model.context, rotary.scaling, rotary.factor, rotary.original_context) == (
        4096,
        "longrope",
        32,
        4096,
    )
    assert families.family_of(model) is families.PHI3
    fields = families.PHI3.write(model)
    assert (fields["max_position_embeddings"], fields["original_max_position_embeddings"]) == (131_072, 4096)
    assert fields["rope_parameters"]["long_factor"] == [2.0] * 48
    assert (read(fields).rotary, read(fields).context) == (rotary, 4096)
    given = PHI_4_MINI["rope_scaling"] | {"factor": 8, "attention_factor": 1.25}
    assert read(PHI_4_MINI | {"rope_scaling": given}).rotary == dataclasses.replace(
        rotary, factor=8.0, attention_factor=1.25
    )


MROPE = {"type": "mrope", "mrope_section": [16, 24, 24]}
LONGROPE = {"type": "longrope", "short_factor": [1.0] * 64, "long_factor": [2.0] * 63}


@pytest.mark.parametrize(
    ("fields", "change", "message"),
    [
        (QWEN25_HALF_B, {"rope_scaling": MROPE}, r"rope_scaling: mrope_section \[16, 24, 24\] is not"),
        (QWEN25_HALF_B, {"rope_scaling": {"type": "mrope"}}, "rope_scaling: type 'mrope' is not supported"),
        (QWEN25_HALF_B, {"use_mrope": True}, "use_mrope True is not supported"),
        (QWEN25_HALF_B, {"dual_chunk_attention_config": {}}, "dual_chunk_attention_config {} is not"),
        (QWEN25_HALF_B, {"rope_parameters": {FULL: {"rope_theta": 1.0}}}, "full_attention {.*} is not"),
        (QWEN3_06B, {"model_type": "qwen3_moe"}, "model_type 'qwen3_moe' is not supported"),
        (QWEN3_06B, {"num_experts": 8}, "num_experts 8 is not supported"),
        (QWEN3_06B, {"layer_types": [FULL] * 27}, "layer_types has 27 entries for 28 layers"),
        (QWEN3_06B, {"layer_types": ["chunked_attention"] * 28}, "layer_types has 'chunked_attention'"),
        (QWEN3_06B, {"layer_types": [SLIDING] * 28}, "type sliding_attention have no sliding_window"),
        (MISTRAL_7B, {"layer_types": [SLIDING, FULL] * 16}, "layer_types .* is not supported"),
        (MISTRAL_7B, {"sliding_window": -1}, "sliding_window is -1, it should be positive"),
        (OLMO2_1B, {"clip_qkv": 8.0}, "clip_qkv 8.0 is not supported"),
        (SMOLLM3_3B, {"use_sliding_window": True}, "use_sliding_window True is not supported"),
        (SMOLLM3_3B, {"no_rope_layers": [1, 2] * 18}, "no_rope_layers has 2, which is not supported; 0, 1"),
        (SMOLLM3_3B, {"no_rope_layers": [1]}, "no_rope_layers has 1 entries for 36 layers"),
        (GEMMA2_2B, {"use_bidirectional_attention": True}, "use_bidirectional_attention True is not"),
        (GEMMA2_2B, {"sliding_window": None}, "type sliding_attention have no sliding_window"),
        (GEMMA3_1B, {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping 50.0 is not supported"),
        (GEMMA3_1B, {"rope_parameters": {"rope_theta": 1.0}}, "rope_parameters: rope_theta 1.0 is not"),
        (GEMMA3_1B, {"rope_parameters": {SLIDING: {"rope_type": "yarn"}}}, "rope_type 'yarn' is not"),
        (GEMMA3_1B, {"model_type": "gemma3"}, "model_type 'gemma3' is not supported"),
        (PHI_4, {"rope_scaling": LONGROPE}, "longrope has 63 long_factors for the 64 pairs that rotate"),
        (
            PHI_4,
            {"rope_scaling": LONGROPE | {"short_factor": [1.0, 0]}},
            r"short_factor\[1\] is 0, it should",
        ),
        (PHI_4, {"rope_scaling": LONGROPE | {"short_mscale": 1.2}}, "short_mscale 1.2 is not supported"),
        (
            GEMMA3_1B,
            {"rope_scaling": LONGROPE | {"rope_type": "longrope"}},
            "rope_type 'longrope' is not supported in this family",
        ),
        (PHI_4, {"rope_scaling": {"type": "linear", "factor": 2.0}}, "'linear' is not supported in this"),
        (
            GEMMA3_1B,
            {"rope_scaling": {"type": "linear", "factor": 8.0}},
            "rope_scaling: .* name it rope_type",
        ),
        (GEMMA3_1B, {"query_pre_attn_scalar": 0.5}, "query_pre_attn_scalar is 0.5, it should be of type int"),
        (PHI_4, {"rope_scaling": LONGROPE | {"original_max_position_embeddings": 1}}, "context above 1"),
        (PHI_4, {"partial_rotary_factor": 0.4}, "of 128 dimensions of a head 51 rotate, an odd number"),
    ],
)
def test_what_is_not_computed_is_refused_in_one_line(fields, change, message):
    with pytest.raises(ConfigError, match=message) as error:
        read(fields | change)
    assert str(error.value).startswith("x/config.json") and "\n" not in str(error.value)

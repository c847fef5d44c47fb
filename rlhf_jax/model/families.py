"""The families of the transformers library that are settings of the one transformer, line by line.

family.py says how the lines are read. Families that began as Llama share most of its tables.
"""

import dataclasses
from typing import Any

from rlhf_jax.config import ConfigError, ModelConfig, RotaryConfig
from rlhf_jax.model.family import SPELLED_OUT, Family, Field, Tensor
from rlhf_jax.model.hf_config import HfConfig
from rlhf_jax.model.hf_parts import (
    LATE_WINDOWS,
    NEOX_ROTARY,
    PARTIAL_ROTARY,
    SCALED,
    TWO_ROTARIES,
    WINDOW,
    WITHOUT_ROTARY,
    Part,
    alternating,
    caps,
    one_window,
    shortest_period,
    whole_rotary,
)
from rlhf_jax.validation import check_factors

RUN_FIELDS = (  # of a run
    "pretrained dtype weights lora layer_loop attention rematerialize rematerialize_but "
    "gather_to_sample".split()
)
DROPOUTS = ("attn_pdrop", "embd_pdrop", "resid_pdrop")

QKV = ("attention.query", "attention.key", "attention.value")
QKV_BIAS = ("attention.query_bias", "attention.key_bias", "attention.value_bias")

GPT2 = Family(
    name="gpt2",
    class_name="GPT2",
    prefix="transformer.",
    fields=(
        Field("n_embd", "width", int, 768),
        Field("n_layer", "layers", int, 12),
        Field("n_head", "heads", int, 12),
        Field("n_inner", "ff", int, 0),
        Field("n_positions", "context", int, 1024),
        Field("layer_norm_epsilon", "norm_epsilon", float, 1e-5),
        Field("tie_word_embeddings", "tied_head", bool, True),
    ),
    activation=("activation_function", "gelu_new"),
    always={},
    only=dict(scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False),
    # As trained here.
    parts=(Part(lambda c, layers: {}, lambda model: dict.fromkeys(DROPOUTS, 0.0)),),
    aliases={
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "n_positions",
    },
    output="lm_head.weight",
    buffers=(".attn.bias", ".attn.masked_bias"),
    tensors=(
        Tensor("wte.weight", ("embed.tokens",), "v d -> v d"),
        Tensor("wpe.weight", ("embed.positions",), "p d -> p d"),
        Tensor("h.{}.ln_1.weight", ("attention_norm.scale",), "d -> d"),
        Tensor("h.{}.ln_1.bias", ("attention_norm.bias",), "d -> d"),
        Tensor("h.{}.attn.c_attn.weight", QKV, "d (n h k) -> n d h k"),
        Tensor("h.{}.attn.c_attn.bias", QKV_BIAS, "(n h k) -> n h k"),
        Tensor("h.{}.attn.c_proj.weight", ("attention.out",), "(h k) d -> h k d"),
        Tensor("h.{}.attn.c_proj.bias", ("attention.out_bias",), "d -> d"),
        Tensor("h.{}.ln_2.weight", ("mlp_norm.scale",), "d -> d"),
        Tensor("h.{}.ln_2.bias", ("mlp_norm.bias",), "d -> d"),
        Tensor("h.{}.mlp.c_fc.weight", ("mlp.up",), "d f -> d f"),
        Tensor("h.{}.mlp.c_fc.bias", ("mlp.up_bias",), "f -> f"),
        Tensor("h.{}.mlp.c_proj.weight", ("mlp.down",), "f d -> f d"),
        Tensor("h.{}.mlp.c_proj.bias", ("mlp.down_bias",), "d -> d"),
        Tensor("ln_f.weight", ("norm.scale",), "d -> d"),
        Tensor("ln_f.bias", ("norm.bias",), "d -> d"),
    ),
)
GPT_NEOX = Family(
    name="gpt_neox",
    class_name="GPTNeoX",
    prefix="gpt_neox.",
    fields=(
        Field("hidden_size", "width", int, 6144),
        Field("num_hidden_layers", "layers", int, 44),
        Field("num_attention_heads", "heads", int, 64),
        Field("intermediate_size", "ff", int, 24576),
        Field("max_position_embeddings", "context", int, 2048),
        Field("layer_norm_eps", "norm_epsilon", float, 1e-5),
        Field("use_parallel_residual", "parallel_residual", bool, True),
        Field("attention_bias", "attention_bias", bool, True),
        Field("tie_word_embeddings", "tied_head", bool, False),
    ),
    activation=("hidden_act", "gelu"),
    always={"positions": "rotary"},
    only={},
    parts=(NEOX_ROTARY,),
    output="embed_out.weight",
    buffers=(".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"),
    tensors=(
        Tensor("embed_in.weight", ("embed.tokens",), "v d -> v d"),
        Tensor("layers.{}.input_layernorm.weight", ("attention_norm.scale",), "d -> d"),
        Tensor("layers.{}.input_layernorm.bias", ("attention_norm.bias",), "d -> d"),
        Tensor("layers.{}.attention.query_key_value.weight", QKV, "(h n k) d -> n d h k"),
        Tensor("layers.{}.attention.query_key_value.bias", QKV_BIAS, "(h n k) -> n h k"),
        Tensor("layers.{}.attention.dense.weight", ("attention.out",), "d (h k) -> h k d"),
        Tensor("layers.{}.attention.dense.bias", ("attention.out_bias",), "d -> d"),
        Tensor("layers.{}.post_attention_layernorm.weight", ("mlp_norm.scale",), "d -> d"),
        Tensor("layers.{}.post_attention_layernorm.bias", ("mlp_norm.bias",), "d -> d"),
        Tensor("layers.{}.mlp.dense_h_to_4h.weight", ("mlp.up",), "f d -> d f"),
        Tensor("layers.{}.mlp.dense_h_to_4h.bias", ("mlp.up_bias",), "f -> f"),
        Tensor("layers.{}.mlp.dense_4h_to_h.weight", ("mlp.down",), "d f -> f d"),
        Tensor("layers.{}.mlp.dense_4h_to_h.bias", ("mlp.down_bias",), "d -> d"),
        Tensor("final_layer_norm.weight", ("norm.scale",), "d -> d"),
        Tensor("final_layer_norm.bias", ("norm.bias",), "d -> d"),
    ),
)

# Llama and its kin ---------------------------------------------------------------------------

EMBEDDING = Tensor("embed_tokens.weight", ("embed.tokens",), "v d -> v d")
INPUT_NORM = Tensor("layers.{}.input_layernorm.weight", ("attention_norm.scale",), "d -> d")
ATTENTION = (
    Tensor("layers.{}.self_attn.q_proj.weight", ("attention.query",), "(h g k) d -> d h g k"),
    Tensor("layers.{}.self_attn.k_proj.weight", ("attention.key",), "(h k) d -> d h k"),
    Tensor("layers.{}.self_attn.v_proj.weight", ("attention.value",), "(h k) d -> d h k"),
    Tensor("layers.{}.self_attn.o_proj.weight", ("attention.out",), "d (h g k) -> h g k d"),
    Tensor("layers.{}.self_attn.q_proj.bias", ("attention.query_bias",), "(h g k) -> h g k"),
    Tensor("layers.{}.self_attn.k_proj.bias", ("attention.key_bias",), "(h k) -> h k"),
    Tensor("layers.{}.self_attn.v_proj.bias", ("attention.value_bias",), "(h k) -> h k"),
    Tensor("layers.{}.self_attn.o_proj.bias", ("attention.out_bias",), "d -> d"),
)
HEAD_NORMS = (
    Tensor("layers.{}.self_attn.q_norm.weight", ("attention.query_norm.scale",), "k -> k"),
    Tensor("layers.{}.self_attn.k_norm.weight", ("attention.key_norm.scale",), "k -> k"),
)
NORMS_OF_ALL_HEADS = (
    Tensor("layers.{}.self_attn.q_norm.weight", ("attention.query_norm.scale",), "(h g k) -> h g k"),
    Tensor("layers.{}.self_attn.k_norm.weight", ("attention.key_norm.scale",), "(h k) -> h k"),
)
MLP_NORM = Tensor("layers.{}.post_attention_layernorm.weight", ("mlp_norm.scale",), "d -> d")
GATED_MLP = (
    Tensor("layers.{}.mlp.gate_proj.weight", ("mlp.gate",), "f d -> d f"),
    Tensor("layers.{}.mlp.up_proj.weight", ("mlp.up",), "f d -> d f"),
    Tensor("layers.{}.mlp.down_proj.weight", ("mlp.down",), "d f -> f d"),
    Tensor("layers.{}.mlp.gate_proj.bias", ("mlp.gate_bias",), "f -> f"),
    Tensor("layers.{}.mlp.up_proj.bias", ("mlp.up_bias",), "f -> f"),
    Tensor("layers.{}.mlp.down_proj.bias", ("mlp.down_bias",), "d -> d"),
)
LAST_NORM = Tensor("norm.weight", ("norm.scale",), "d -> d")

LLAMA_FIELDS = {
    "hidden_size": Field("hidden_size", "width", int, 4096),
    "num_hidden_layers": Field("num_hidden_layers", "layers", int, 32),
    "num_attention_heads": Field("num_attention_heads", "heads", int, 32),
    "num_key_value_heads": Field("num_key_value_heads", "kv_heads", int, 0, null=0),
    "head_dim": Field("head_dim", "head_size", int, 0, null=0),
    "intermediate_size": Field("intermediate_size", "ff", int, 11008),
    "max_position_embeddings": Field("max_position_embeddings", "context", int, 2048),
    "rms_norm_eps": Field("rms_norm_eps", "norm_epsilon", float, 1e-6),
    "attention_bias": Field("attention_bias", "attention_bias", bool, False),
    "mlp_bias": Field("mlp_bias", "mlp_bias", bool, False),
    "tie_word_embeddings": Field("tie_word_embeddings", "tied_head", bool, False),
}


def llama_fields(without: tuple[str, ...] = ("mlp_bias",), **defaults: Any) -> tuple[Field, ...]:
    """The fields of Llama without some of them, and with other defaults."""
    kept = (field for name, field in LLAMA_FIELDS.items() if name not in without)
    return tuple(field._replace(default=defaults.get(field.name, field.default)) for field in kept)


LLAMA = Family(
    name="llama",
    class_name="Llama",
    prefix="model.",
    fields=llama_fields(without=()),
    activation=("hidden_act", "silu"),
    always={"norm": "rms", "positions": "rotary", "gated": True},
    only={"pretraining_tp": 1, "partial_rotary_factor": 1.0, "sliding_window": None, "layer_types": None},
    parts=(whole_rotary(),),
    output="lm_head.weight",
    buffers=(".rotary_emb.inv_freq",),
    tensors=(EMBEDDING, INPUT_NORM, *ATTENTION, MLP_NORM, *GATED_MLP, LAST_NORM),
)
NO_MLP_BIAS = LLAMA.always | {"mlp_bias": False}
WHOLE_HEADS_TURN = {"partial_rotary_factor": 1.0}

MISTRAL = dataclasses.replace(
    LLAMA,
    name="mistral",
    class_name="Mistral",
    fields=llama_fields(
        ("mlp_bias", "attention_bias"),
        num_key_value_heads=8,
        intermediate_size=14336,
        max_position_embeddings=131072,
    ),
    always=NO_MLP_BIAS | {"attention_bias": False},
    only=WHOLE_HEADS_TURN | {"layer_types": None},
    parts=(whole_rotary(), one_window(WINDOW)),
)
QWEN2 = dataclasses.replace(
    LLAMA,
    name="qwen2",
    class_name="Qwen2",
    fields=llama_fields(
        ("mlp_bias", "attention_bias"),
        num_key_value_heads=32,
        intermediate_size=22016,
        max_position_embeddings=32768,
    ),
    always=NO_MLP_BIAS | {"attention_bias": True, "attention_out_bias": False},
    only=WHOLE_HEADS_TURN | {"use_mrope": False, "dual_chunk_attention_config": None},
    parts=(whole_rotary(), LATE_WINDOWS),
)
QWEN3 = dataclasses.replace(
    QWEN2,
    name="qwen3",
    class_name="Qwen3",
    fields=llama_fields(
        num_key_value_heads=32, head_dim=128, intermediate_size=22016, max_position_embeddings=32768
    ),
    always=NO_MLP_BIAS | {"qk_norm": "head"},
    tensors=(EMBEDDING, INPUT_NORM, *ATTENTION, *HEAD_NORMS, MLP_NORM, *GATED_MLP, LAST_NORM),
)
OLMO2 = dataclasses.replace(
    LLAMA,
    name="olmo2",
    class_name="Olmo2",
    fields=llama_fields(rms_norm_eps=1e-5),
    always=NO_MLP_BIAS | {"qk_norm": "all_heads", "norm_place": "output"},
    only=WHOLE_HEADS_TURN | {"clip_qkv": None, "sliding_window": None, "layer_types": None},
    tensors=(
        EMBEDDING,
        *ATTENTION,
        *NORMS_OF_ALL_HEADS,
        Tensor("layers.{}.post_attention_layernorm.weight", ("attention_out_norm.scale",), "d -> d"),
        *GATED_MLP,
        Tensor("layers.{}.post_feedforward_layernorm.weight", ("mlp_out_norm.scale",), "d -> d"),
        LAST_NORM,
    ),
)
SMOLLM3 = dataclasses.replace(
    LLAMA,
    name="smollm3",
    class_name="SmolLM3",
    fields=llama_fields(
        (),
        hidden_size=2048,
        num_hidden_layers=36,
        num_attention_heads=16,
        num_key_value_heads=4,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
    ),
    only=WHOLE_HEADS_TURN,
    parts=(whole_rotary(2_000_000.0), WITHOUT_ROTARY),
)
GEMMA2 = dataclasses.replace(
    LLAMA,
    name="gemma2",
    class_name="Gemma2",
    fields=llama_fields(
        hidden_size=2304,
        num_hidden_layers=26,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=256,
        intermediate_size=9216,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    ),
    activation=("hidden_activation", "gelu_pytorch_tanh"),
    always=NO_MLP_BIAS | {"norm_plus_one": True, "norm_place": "both"},
    only=WHOLE_HEADS_TURN | {"sliding_window_pattern": 2},
    parts=(whole_rotary(), alternating(2), SCALED, caps(50.0, 30.0)),
    tensors=(
        EMBEDDING,
        INPUT_NORM,
        *ATTENTION,
        Tensor("layers.{}.post_attention_layernorm.weight", ("attention_out_norm.scale",), "d -> d"),
        Tensor("layers.{}.pre_feedforward_layernorm.weight", ("mlp_norm.scale",), "d -> d"),
        *GATED_MLP,
        Tensor("layers.{}.post_feedforward_layernorm.weight", ("mlp_out_norm.scale",), "d -> d"),
        LAST_NORM,
    ),
)
GEMMA3 = dataclasses.replace(
    GEMMA2,
    name="gemma3_text",
    class_name="Gemma3",
    scorer="Gemma3Text",
    fields=tuple(
        field._replace(default=131072) if field.ours == "context" else field for field in GEMMA2.fields
    ),
    always=GEMMA2.always | {"qk_norm": "head"},
    only=WHOLE_HEADS_TURN | {"attn_logit_softcapping": None},  # which transformers reads and does not apply
    parts=(TWO_ROTARIES, alternating(6), SCALED, caps(0.0, 0.0)),
    tensors=(*GEMMA2.tensors, *HEAD_NORMS),
)
PHI3 = dataclasses.replace(
    LLAMA,
    name="phi3",
    class_name="Phi3",
    fields=llama_fields(
        ("mlp_bias", "attention_bias"),
        hidden_size=3072,
        intermediate_size=8192,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
    ),
    always=NO_MLP_BIAS | {"attention_bias": False},
    only={},
    parts=(
        PARTIAL_ROTARY,
        one_window(0),
        Part(lambda c, layers: {}, lambda model: dict.fromkeys(DROPOUTS[1:], 0.0)),
    ),
    tensors=(
        EMBEDDING,
        INPUT_NORM,
        Tensor(
            "layers.{}.self_attn.qkv_proj.weight",
            QKV,
            ("(h g k) d -> d h g k", "(h k) d -> d h k", "(h k) d -> d h k"),
        ),
        ATTENTION[3],
        MLP_NORM,
        Tensor("layers.{}.mlp.gate_up_proj.weight", ("mlp.gate", "mlp.up"), "(n f) d -> n d f"),
        GATED_MLP[2],
        LAST_NORM,
    ),
)
# A model that two of them can say is written as the first.
FAMILIES = {
    family.name: family
    for family in (GPT2, GPT_NEOX, LLAMA, QWEN2, QWEN3, MISTRAL, OLMO2, SMOLLM3, GEMMA2, GEMMA3, PHI3)
}


def read(fields: dict[str, Any], file: object) -> tuple[Family, ModelConfig]:
    """The family and architecture that a `config.json` describes; `file` names it in errors."""
    c = HfConfig(fields, file)
    family: Family = c.choose("model_type", FAMILIES, "(none)")
    model = family.read(c)
    _check_heads(model, file)
    return family, model


def _check_heads(model: ModelConfig, place: object) -> None:
    heads, size = model.key_value_heads, model.head_dimension
    if model.heads % heads or (not model.head_size and model.width % model.heads):
        raise ConfigError(
            f"{place}: {model.heads} heads do not fit width {model.width} and {heads} key-value heads"
        )
    rotating = int(size * model.rotary.fraction)
    if model.positions == "rotary" and rotating % 2:
        raise ConfigError(
            f"{place}: of {size} dimensions of a head {rotating} rotate, an odd number, which transformers "
            "computes otherwise; an even one is the same in both"
        )

    check_factors(model, place)


def family_of(model: ModelConfig) -> Family:
    """The family whose `config.json` can say what `model` is."""
    _check_heads(model, "model")
    for family in FAMILIES.values():
        try:
            described = read(family.write(model), family.name)[1]
        except ConfigError:
            continue
        if _shape_of(described) == _shape_of(model):
            return family
    raise ConfigError(
        "model: no Hugging Face family has this combination of settings; docs/pretrained.md lists them"
    )


def _shape_of(model: ModelConfig) -> ModelConfig:
    """`model` with its defaults spelled out, and without what a run chooses or what has no effect."""
    plain = {name: getattr(ModelConfig(), name) for name in RUN_FIELDS}
    spelled = {name: getattr(model, spelled_out) for name, spelled_out in SPELLED_OUT.items()}
    pattern = shortest_period(model.layer_kinds)
    rotary = model.rotary if model.positions == "rotary" else RotaryConfig()
    if "local" not in pattern:
        plain["window"] = 0
        rotary = dataclasses.replace(rotary, local_base=0.0)
    if not model.attention_bias:
        plain["attention_out_bias"] = True
    if not model.attention_scale:
        plain["attention_scale"] = model.head_dimension**-0.5
    return dataclasses.replace(model, **plain, **spelled, layer_pattern=pattern, rotary=rotary)

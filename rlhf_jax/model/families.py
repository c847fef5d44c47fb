"""GPT-2, GPT-NeoX and Llama as settings of the one transformer, and where Hugging Face keeps each tensor.

A family is a reading of `config.json` into `ModelConfig`, the same the other way round, and a table of
tensors. A line of the table names the tensor, the leaves of our pytree that it holds, and the
rearrangement between them as an einops pattern, which serves both directions. Letters: v vocabulary,
d width, p positions, f hidden units, h key-value heads, g query heads of each, k head dimensions,
n leaves in one tensor.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from einops import rearrange

from rlhf_jax.config import ConfigError, ModelConfig, RotaryConfig
from rlhf_jax.model.hf_config import HfConfig, rotary_fields

RUN_FIELDS = "pretrained dtype layer_loop attention rematerialize gather_to_sample".split()  # of a run alone
ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh"}
ACTIVATIONS |= {"gelu": "gelu", "silu": "silu", "swish": "silu"}
ACTIVATION_NAMES = {"gelu_tanh": "gelu_new", "gelu": "gelu", "silu": "silu"}


class Tensor(NamedTuple):
    """One tensor of a checkpoint: its name, the leaves it holds, `tensor axes -> leaf axes`."""

    name: str  # with {} for the layer
    leaves: tuple[str, ...]  # without "layers."; several are stacked on the pattern's axis n
    pattern: str

    @property
    def of_layer(self) -> bool:
        return "{}" in self.name

    def shape(self, model: ModelConfig, vocabulary: int) -> tuple[int, ...]:
        """The shape it has in a checkpoint."""
        return self._shape(self.pattern.split("->")[0], model, vocabulary)

    def split(self, tensor: np.ndarray, model: ModelConfig, vocabulary: int) -> list[np.ndarray]:
        """The leaves in the order of `leaves`, as views where numpy can."""
        sizes = self._sizes(model, vocabulary)
        out = rearrange(tensor, self.pattern, **{k: n for k, n in sizes.items() if k in self.pattern})
        return list(out) if len(self.leaves) > 1 else [out]

    def join(self, leaves: list[np.ndarray], model: ModelConfig, vocabulary: int) -> np.ndarray:
        """The tensor that `split` takes apart."""
        left, right = self.pattern.split("->")
        leaf_axes = right.replace("n ", "", 1) if len(leaves) > 1 else right
        shape = self._shape(leaf_axes, model, vocabulary)
        shaped = [leaf.reshape(shape) for leaf in leaves]
        return rearrange(np.stack(shaped) if len(shaped) > 1 else shaped[0], f"{right} -> {left}")

    def _sizes(self, model: ModelConfig, vocabulary: int) -> dict[str, int]:
        heads = model.key_value_heads
        return {
            "v": vocabulary,
            "d": model.width,
            "p": model.context,
            "f": model.hidden_units,
            "h": heads,
            "g": model.heads // heads,
            "k": model.head_dimension,
            "n": len(self.leaves),
        }

    def _shape(self, axes: str, model: ModelConfig, vocabulary: int) -> tuple[int, ...]:
        sizes = self._sizes(model, vocabulary) | {"1": 1}
        axes_found = re.findall(r"\((.*?)\)|(\w)", axes)  # a group in parentheses, or a letter
        return tuple(math.prod(sizes[x] for x in (group or letter).split()) for group, letter in axes_found)


@dataclass(frozen=True)
class Family:
    """How one architecture of the transformers library maps onto ours."""

    name: str  # model_type
    class_name: str  # with ForCausalLM or ForSequenceClassification behind it
    prefix: str  # of the tensors below the heads; some checkpoints leave it out
    read: Callable[[HfConfig], ModelConfig]
    write: Callable[[ModelConfig], dict[str, Any]]
    tensors: tuple[Tensor, ...]
    output: str  # name of the output matrix, where it is not tied
    buffers: tuple[str, ...]  # endings of tensors that are no parameters: masks and tables


def _gpt2_read(c: HfConfig) -> ModelConfig:
    c.refuse(scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    return ModelConfig(
        width=c.get("n_embd", int, 768),
        layers=c.get("n_layer", int, 12),
        heads=c.get("n_head", int, 12),
        ff=c.get("n_inner", int, 0),
        context=c.get("n_positions", int, 1024),
        norm_epsilon=c.get("layer_norm_epsilon", float, 1e-5),
        activation=c.choose("activation_function", ACTIVATIONS, "gelu_new"),
        tied_head=c.get("tie_word_embeddings", bool, True),
    )


def _gpt2_write(model: ModelConfig) -> dict[str, Any]:
    return {
        "n_embd": model.width,
        "n_layer": model.layers,
        "n_head": model.heads,
        "n_inner": model.ff or None,
        "n_positions": model.context,
        "layer_norm_epsilon": model.norm_epsilon,
        "activation_function": ACTIVATION_NAMES[model.activation],
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
    }


def _neox_read(c: HfConfig) -> ModelConfig:
    return ModelConfig(
        width=c.get("hidden_size", int, 6144),
        layers=c.get("num_hidden_layers", int, 44),
        heads=c.get("num_attention_heads", int, 64),
        ff=c.get("intermediate_size", int, 24576),
        context=c.get("max_position_embeddings", int, 2048),
        norm_epsilon=c.get("layer_norm_eps", float, 1e-5),
        positions="rotary",
        rotary=c.rotary(c.get("rotary_pct", float, 0.25), c.get("rotary_emb_base", float, 10_000.0)),
        activation=c.choose("hidden_act", ACTIVATIONS, "gelu"),
        parallel_residual=c.get("use_parallel_residual", bool, True),
        attention_bias=c.get("attention_bias", bool, True),
        tied_head=c.get("tie_word_embeddings", bool, False),
    )


def _neox_write(model: ModelConfig) -> dict[str, Any]:
    return {
        "hidden_size": model.width,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "intermediate_size": model.hidden_units,
        "max_position_embeddings": model.context,
        "layer_norm_eps": model.norm_epsilon,
        "rotary_pct": model.rotary.fraction,
        "rotary_emb_base": model.rotary.base,
        **rotary_fields(model.rotary),
        "hidden_act": ACTIVATION_NAMES[model.activation],
        "use_parallel_residual": model.parallel_residual,
        "attention_bias": model.attention_bias,
    }


def _llama_read(c: HfConfig) -> ModelConfig:
    c.refuse(pretraining_tp=1)
    heads, rotary = c.get("num_attention_heads", int, 32), c.rotary(base=c.get("rope_theta", float, 10_000.0))
    c.refuse(partial_rotary_factor=1.0)
    return ModelConfig(
        width=c.get("hidden_size", int, 4096),
        layers=c.get("num_hidden_layers", int, 32),
        heads=heads,
        kv_heads=c.get("num_key_value_heads", int, heads),
        head_size=c.get("head_dim", int, 0),
        ff=c.get("intermediate_size", int, 11008),
        context=c.get("max_position_embeddings", int, 2048),
        norm="rms",
        norm_epsilon=c.get("rms_norm_eps", float, 1e-6),
        positions="rotary",
        rotary=dataclasses.replace(rotary, fraction=1.0),
        activation=c.choose("hidden_act", ACTIVATIONS, "silu"),
        gated=True,
        attention_bias=c.get("attention_bias", bool, False),
        mlp_bias=c.get("mlp_bias", bool, False),
        tied_head=c.get("tie_word_embeddings", bool, False),
    )


def _llama_write(model: ModelConfig) -> dict[str, Any]:
    return {
        "hidden_size": model.width,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.key_value_heads,
        "head_dim": model.head_dimension,
        "intermediate_size": model.hidden_units,
        "max_position_embeddings": model.context,
        "rms_norm_eps": model.norm_epsilon,
        "rope_theta": model.rotary.base,
        **rotary_fields(model.rotary),
        "hidden_act": ACTIVATION_NAMES[model.activation],
        "attention_bias": model.attention_bias,
        "mlp_bias": model.mlp_bias,
    }


QKV = ("attention.query", "attention.key", "attention.value")
QKV_BIAS = ("attention.query_bias", "attention.key_bias", "attention.value_bias")

GPT2 = Family(
    name="gpt2",
    class_name="GPT2",
    prefix="transformer.",
    read=_gpt2_read,
    write=_gpt2_write,
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
    read=_neox_read,
    write=_neox_write,
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
LLAMA = Family(
    name="llama",
    class_name="Llama",
    prefix="model.",
    read=_llama_read,
    write=_llama_write,
    output="lm_head.weight",
    buffers=(".rotary_emb.inv_freq",),
    tensors=(
        Tensor("embed_tokens.weight", ("embed.tokens",), "v d -> v d"),
        Tensor("layers.{}.input_layernorm.weight", ("attention_norm.scale",), "d -> d"),
        Tensor("layers.{}.self_attn.q_proj.weight", ("attention.query",), "(h g k) d -> d h g k"),
        Tensor("layers.{}.self_attn.k_proj.weight", ("attention.key",), "(h k) d -> d h k"),
        Tensor("layers.{}.self_attn.v_proj.weight", ("attention.value",), "(h k) d -> d h k"),
        Tensor("layers.{}.self_attn.o_proj.weight", ("attention.out",), "d (h g k) -> h g k d"),
        Tensor("layers.{}.self_attn.q_proj.bias", ("attention.query_bias",), "(h g k) -> h g k"),
        Tensor("layers.{}.self_attn.k_proj.bias", ("attention.key_bias",), "(h k) -> h k"),
        Tensor("layers.{}.self_attn.v_proj.bias", ("attention.value_bias",), "(h k) -> h k"),
        Tensor("layers.{}.self_attn.o_proj.bias", ("attention.out_bias",), "d -> d"),
        Tensor("layers.{}.post_attention_layernorm.weight", ("mlp_norm.scale",), "d -> d"),
        Tensor("layers.{}.mlp.gate_proj.weight", ("mlp.gate",), "f d -> d f"),
        Tensor("layers.{}.mlp.up_proj.weight", ("mlp.up",), "f d -> d f"),
        Tensor("layers.{}.mlp.down_proj.weight", ("mlp.down",), "d f -> f d"),
        Tensor("layers.{}.mlp.gate_proj.bias", ("mlp.gate_bias",), "f -> f"),
        Tensor("layers.{}.mlp.up_proj.bias", ("mlp.up_bias",), "f -> f"),
        Tensor("layers.{}.mlp.down_proj.bias", ("mlp.down_bias",), "d -> d"),
        Tensor("norm.weight", ("norm.scale",), "d -> d"),
    ),
)
FAMILIES = {family.name: family for family in (GPT2, GPT_NEOX, LLAMA)}


def read(fields: dict[str, Any], file: object) -> tuple[Family, ModelConfig]:
    """The family and architecture that a `config.json` describes; `file` names it in errors."""
    c = HfConfig(fields, file)
    family: Family = c.choose("model_type", FAMILIES, "(none)")
    model = family.read(c)
    heads = model.key_value_heads
    if model.heads % heads or (not model.head_size and model.width % model.heads):
        raise ConfigError(
            f"{file}: {model.heads} heads do not fit width {model.width} and {heads} key-value heads"
        )
    return family, model


def family_of(model: ModelConfig) -> Family:
    """The family whose `config.json` can say what `model` is."""
    for family in FAMILIES.values():
        fields = {"model_type": family.name} | config_fields(family, model)
        try:
            described = family.read(HfConfig(fields, family.name))
        except ConfigError:
            continue
        if _shape_of(described) == _shape_of(model):
            return family
    raise ConfigError(
        "model: no Hugging Face family has this combination of positions, norm, gate and biases; "
        "GPT-2 is learned + layer, GPT-NeoX rotary + layer, Llama rotary + rms + gated"
    )


def config_fields(family: Family, model: ModelConfig) -> dict[str, Any]:
    """The fields of `config.json` that describe the architecture."""
    return {"model_type": family.name, "tie_word_embeddings": model.tied_head} | family.write(model)


def _shape_of(model: ModelConfig) -> ModelConfig:
    """`model` with its defaults spelled out and without what a run chooses."""
    plain = {name: getattr(ModelConfig(), name) for name in RUN_FIELDS}
    return dataclasses.replace(
        model,
        **plain,
        kv_heads=model.key_value_heads,
        head_size=model.head_dimension,
        ff=model.hidden_units,
        rotary=model.rotary if model.positions == "rotary" else RotaryConfig(),
    )

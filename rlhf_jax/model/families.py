"""GPT-2, GPT-NeoX and Llama as settings of the one transformer, and where Hugging Face keeps each tensor.

A family is two tables, of the fields of `config.json` and of tensors, each read and written by the same
lines. A line of the second names the tensor, the leaves of our pytree that it holds, and the
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

RUN_FIELDS = (
    "pretrained init_std dtype layer_loop attention rematerialize gather_to_sample".split()
)  # of a run alone
ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh"}
ACTIVATIONS |= {"gelu": "gelu", "silu": "silu", "swish": "silu"}
ACTIVATION_NAMES = {"gelu_tanh": "gelu_new", "gelu": "gelu", "silu": "silu"}
# Of config.json in every family: what only this value of is computed here.
ONLY = {
    "is_causal": True,
    "quantization_config": None,
    "per_layer_config": None,
    "transformers_weights": None,
}
# Fields of ModelConfig whose 0 stands for a value, and the property that gives it.
SPELLED_OUT = {"ff": "hidden_units", "kv_heads": "key_value_heads", "head_size": "head_dimension"}


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


class Field(NamedTuple):
    """A number or flag of `config.json` and the field of ModelConfig that it is."""

    name: str
    ours: str
    kind: type
    default: Any  # of transformers, where the file leaves it out


@dataclass(frozen=True)
class Family:
    """How one architecture of the transformers library maps onto ours."""

    name: str  # model_type
    class_name: str  # with ForCausalLM or ForSequenceClassification behind it
    prefix: str  # of the tensors below the heads; some checkpoints leave it out
    fields: tuple[Field, ...]
    activation: tuple[str, str]  # name of the field, and its default
    tensors: tuple[Tensor, ...]
    output: str  # name of the output matrix, where it is not tied
    buffers: tuple[str, ...]  # endings of tensors that are no parameters: masks and tables
    always: dict[str, Any]  # of ModelConfig, in every model of the family
    only: dict[str, Any]  # of config.json, where another value computes what we do not have
    rotary: Callable[[HfConfig], RotaryConfig] = lambda c: RotaryConfig()
    written: Callable[[RotaryConfig], dict[str, Any]] = lambda rotary: {}  # beside `fields`
    # Second names of `fields`, which go before them.
    aliases: dict[str, str] = dataclasses.field(default_factory=dict)

    def read(self, c: HfConfig) -> ModelConfig:
        c.refuse(**ONLY, **self.only)
        c = c.renamed(self.aliases)
        return ModelConfig(
            **{field.ours: c.get(field.name, field.kind, field.default) for field in self.fields},
            **self.always,
            activation=c.choose(self.activation[0], ACTIVATIONS, self.activation[1]),
            rotary=self.rotary(c),
        )

    def write(self, model: ModelConfig) -> dict[str, Any]:
        """The fields of `config.json` that `read` takes `model` from."""
        fields: dict[str, Any] = {"model_type": self.name}
        for field in self.fields:
            fields[field.name] = getattr(model, SPELLED_OUT.get(field.ours, field.ours))
        fields[self.activation[0]] = ACTIVATION_NAMES[model.activation]
        return fields | self.written(model.rotary)


def _neox_rotary(c: HfConfig) -> RotaryConfig:
    # transformers takes head_dim for the rotary dimensions alone, and not for the heads.
    c.refuse(head_dim=c.get("hidden_size", int, 6144) // c.get("num_attention_heads", int, 64))
    return c.rotary(c.get("rotary_pct", float, 0.25), c.get("rotary_emb_base", float, 10_000.0))


def _neox_rotary_fields(rotary: RotaryConfig) -> dict[str, Any]:
    return {"rotary_pct": rotary.fraction, "rotary_emb_base": rotary.base, **rotary_fields(rotary)}


def _llama_rotary(c: HfConfig) -> RotaryConfig:
    rotary = c.rotary(base=c.get("rope_theta", float, 10_000.0))
    if rotary.fraction != 1:
        raise ConfigError(f"{c.file}: partial_rotary_factor {rotary.fraction} is not supported, only 1.0")
    return rotary


def _llama_rotary_fields(rotary: RotaryConfig) -> dict[str, Any]:
    return {"rope_theta": rotary.base, **rotary_fields(rotary)}


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
    written=lambda rotary: {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},  # as trained here
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
    rotary=_neox_rotary,
    written=_neox_rotary_fields,
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
    fields=(
        Field("hidden_size", "width", int, 4096),
        Field("num_hidden_layers", "layers", int, 32),
        Field("num_attention_heads", "heads", int, 32),
        Field("num_key_value_heads", "kv_heads", int, 0),
        Field("head_dim", "head_size", int, 0),
        Field("intermediate_size", "ff", int, 11008),
        Field("max_position_embeddings", "context", int, 2048),
        Field("rms_norm_eps", "norm_epsilon", float, 1e-6),
        Field("attention_bias", "attention_bias", bool, False),
        Field("mlp_bias", "mlp_bias", bool, False),
        Field("tie_word_embeddings", "tied_head", bool, False),
    ),
    activation=("hidden_act", "silu"),
    always={"norm": "rms", "positions": "rotary", "gated": True},
    only={"pretraining_tp": 1, "partial_rotary_factor": 1.0},
    rotary=_llama_rotary,
    written=_llama_rotary_fields,
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


def family_of(model: ModelConfig) -> Family:
    """The family whose `config.json` can say what `model` is."""
    _check_heads(model, "model")
    for family in FAMILIES.values():
        try:
            described = family.read(HfConfig(family.write(model), family.name))
        except ConfigError:
            continue
        if _shape_of(described) == _shape_of(model):
            return family
    raise ConfigError(
        "model: no Hugging Face family has this combination of positions, norm, gate and biases; "
        "GPT-2 is learned + layer, GPT-NeoX rotary + layer, Llama rotary + rms + gated"
    )


def _shape_of(model: ModelConfig) -> ModelConfig:
    """`model` with its defaults spelled out and without what a run chooses."""
    plain = {name: getattr(ModelConfig(), name) for name in RUN_FIELDS}
    spelled = {name: getattr(model, spelled_out) for name, spelled_out in SPELLED_OUT.items()}
    rotary = model.rotary if model.positions == "rotary" else RotaryConfig()
    return dataclasses.replace(model, **plain, **spelled, rotary=rotary)

"""One decoder-only transformer as pure functions over a pytree of parameters.

The policy, the reference, the reward model and the value network are these functions with other
parameters. GPT-2, GPT-NeoX, Llama, Qwen, Mistral, OLMo 2, SmolLM3, Gemma and Phi are settings of
`ModelConfig`.

The parts come first, then a layer of them, then the whole. Each part is its parameters, then the function
that uses them as `w`. `kind` is what the attention of one layer may have of its own, such as a window.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from rlhf_jax.config import LayerKind, ModelConfig
from rlhf_jax.mesh import ROWS, in_rows_of, layout, reshard
from rlhf_jax.model import attention
from rlhf_jax.model.layer_loop import all_positions, split_layers, through_layers
from rlhf_jax.model.lookup import look_up
from rlhf_jax.model.params import ParamSpec, constant, normal, stack
from rlhf_jax.model.products import multiply
from rlhf_jax.model.quantized import is_quantized
from rlhf_jax.model.rotary import rotate


def specs(config: ModelConfig, vocabulary: int):
    """The parameters of a whole model: embeddings, stacked layers, last norm, output matrix."""
    tree = {
        "embed": embedding_specs(config, vocabulary),
        "layers": stack(layer_specs(config), config.layers),
        "norm": norm_specs(config),
    }
    if not config.tied_head:
        tree["head"] = ParamSpec((config.width, vocabulary), P("fsdp", "tensor"), normal(config.init_std))
    return tree


# Embedding and output ------------------------------------------------------------------------


def embedding_specs(config: ModelConfig, vocabulary: int):
    tree = {"tokens": ParamSpec((vocabulary, config.width), P("tensor", "fsdp"), normal(config.init_std))}
    if config.positions == "learned":
        tree["positions"] = ParamSpec((config.context, config.width), P(None, "fsdp"), normal(0.01))
    return tree


def embed(w, tokens: Int[Array, "B T"], positions: Int[Array, "B T"], config: ModelConfig):
    """What the first layer reads [B, T, D]. Padding ids lie outside the vocabulary and are read as id 0."""
    x = look_up(w["tokens"], jnp.where(tokens < w["tokens"].shape[0], tokens, 0))
    if config.embedding_scale != 1:
        x = x * jnp.asarray(config.embedding_scale, x.dtype)  # rounded itself, as in Gemma's training
    if "positions" in w:
        table = reshard(w["positions"], None, None)
        x = x + table.at[positions].get(out_sharding=layout(ROWS, None, None))
    return x


def output_matrix(params, config: ModelConfig) -> Float[Array, "V D"]:
    """In the type of the computation."""
    matrix = params["embed"]["tokens"] if config.tied_head else params["head"].T
    return jnp.asarray(matrix).astype(config.dtype)


def unembed(hidden: Float[Array, "B T D"], matrix: Float[Array, "V D"], config: ModelConfig):
    """Float32 logits [B, T, V], their vocabulary split over `tensor`."""
    products = multiply("btd,dv->btv", hidden, matrix.T, config, "tensor", jnp.float32)
    return config.logit_cap * jnp.tanh(products / config.logit_cap) if config.logit_cap else products


def logits(params, config: ModelConfig, hidden: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
    """Whole float32 logits. Ask only for the positions you read; `likelihood` has what losses need."""
    return unembed(hidden, output_matrix(params, config), config)


# Normalisation -------------------------------------------------------------------------------


def norm_specs(config: ModelConfig, *shape: int, split: str | None = None):
    """For vectors of the model's width, or of another shape, whose first axis may be split."""
    shape = shape or (config.width,)
    tree = {"scale": ParamSpec(shape, P(split), constant(0.0 if config.norm_plus_one else 1.0))}
    if config.norm == "layer":
        tree["bias"] = ParamSpec(shape, P(split), constant(0.0))
    return tree


def norm(w, x: Float[Array, "B *rest"], config: ModelConfig, axes: tuple[int, ...] = (-1,)):
    """Layer norm or RMS norm of `x` over its `axes`, computed in float32."""
    dtype, x = x.dtype, x.astype(jnp.float32)
    if config.norm == "layer":
        x = x - x.mean(axis=axes, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.square(x).mean(axis=axes, keepdims=True) + config.norm_epsilon)
    scale = w["scale"].astype(jnp.float32)
    x = x * (1 + scale if config.norm_plus_one else scale)
    if config.norm == "layer":
        x = x + w["bias"]
    return x.astype(dtype)


# Attention -----------------------------------------------------------------------------------

# Its products with weights. The softmax between them is in model/attention.py; `layer` gets it as `attend`.


def attention_specs(config: ModelConfig):
    """Projections to H key-value heads and, for each of them, G query heads. Axes of 1 are the tokens'."""
    width, heads = config.width, config.key_value_heads
    group, size = config.heads // heads, config.head_dimension
    out_std = config.init_std * (2 * config.layers) ** -0.5  # GPT-2: residual projections shrink with depth
    tree = {
        "query": ParamSpec((width, heads, group, size), P("fsdp", "tensor"), normal(config.init_std)),
        "key": ParamSpec((width, heads, size), P("fsdp", "tensor"), normal(config.init_std)),
        "value": ParamSpec((width, heads, size), P("fsdp", "tensor"), normal(config.init_std)),
        "out": ParamSpec((heads, group, size, width), P("tensor", None, None, "fsdp"), normal(out_std)),
    }
    if config.attention_bias:
        tree["query_bias"] = ParamSpec((heads, group, 1, size), P("tensor"), constant(0.0))
        tree["key_bias"] = ParamSpec((heads, 1, size), P("tensor"), constant(0.0))
        tree["value_bias"] = ParamSpec((heads, 1, size), P("tensor"), constant(0.0))
    if config.attention_bias and config.attention_out_bias:
        tree["out_bias"] = ParamSpec((width,), P(None), constant(0.0))
    if config.qk_norm == "head":
        tree["query_norm"] = tree["key_norm"] = norm_specs(config, size)
    if config.qk_norm == "all_heads":
        tree["query_norm"] = norm_specs(config, heads, group, 1, size, split="tensor")
        tree["key_norm"] = norm_specs(config, heads, 1, size, split="tensor")
    return tree


def norm_and_rotate(w, x: Float[Array, "B *heads T K"], config: ModelConfig, kind: LayerKind, positions):
    """Queries or keys as they meet: normed where the model does so, rotated where the layer does."""
    heads = tuple(range(1, x.ndim - 2))
    if config.qk_norm != "none":
        x = norm(w, x, config, (-1,) if config.qk_norm == "head" else (*heads, -1))
    return rotate(x, jnp.expand_dims(positions, heads), kind.rotary) if kind.rotary else x


def project_query(w, x, config: ModelConfig, kind: LayerKind, positions) -> Float[Array, "B H G T K"]:
    query = jnp.moveaxis(multiply("btd,dhgk->bthgk", x, w["query"], config, "tensor"), 1, 3)
    if config.attention_bias:
        query = query + w["query_bias"]
    return norm_and_rotate(w.get("query_norm"), query, config, kind, positions)


def project_key_value(w, x, config: ModelConfig, kind: LayerKind, positions):
    """Keys and values, both [B, H, T, K]."""
    both = (multiply("btd,dhk->bthk", x, w[name], config, "tensor") for name in ("key", "value"))
    key, value = (heads.swapaxes(1, 2) for heads in both)
    if config.attention_bias:
        key, value = key + w["key_bias"], value + w["value_bias"]
    return norm_and_rotate(w.get("key_norm"), key, config, kind, positions), value


def project_out(w, heads: Float[Array, "B H G T K"], config: ModelConfig) -> Float[Array, "B T D"]:
    x = multiply("bhgtk,hgkd->btd", heads, w["out"], config, None)
    return x + w["out_bias"] if "out_bias" in w else x


# MLP -----------------------------------------------------------------------------------------


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "silu": jax.nn.silu,
}


def mlp_specs(config: ModelConfig):
    width, hidden = config.width, config.hidden_units
    out_std = config.init_std * (2 * config.layers) ** -0.5
    tree = {
        "up": ParamSpec((width, hidden), P("fsdp", "tensor"), normal(config.init_std)),
        "down": ParamSpec((hidden, width), P("tensor", "fsdp"), normal(out_std)),
    }
    if config.gated:
        tree["gate"] = tree["up"]
    if config.mlp_bias:
        tree["up_bias"] = ParamSpec((hidden,), P("tensor"), constant(0.0))
        tree["down_bias"] = ParamSpec((width,), P(None), constant(0.0))
    if config.mlp_bias and config.gated:
        tree["gate_bias"] = tree["up_bias"]
    return tree


def mlp(w, x: Float[Array, "B T D"], config: ModelConfig) -> Float[Array, "B T D"]:
    activate = ACTIVATIONS[config.activation]

    def units(name):
        hidden = multiply("btd,df->btf", x, w[name], config, "tensor")
        return hidden + w[f"{name}_bias"] if config.mlp_bias else hidden

    up = units("up")
    hidden = activate(units("gate")) * up if config.gated else activate(up)
    out = multiply("btf,fd->btd", hidden, w["down"], config, None)
    return out + w["down_bias"] if config.mlp_bias else out


# A layer -------------------------------------------------------------------------------------


def layer_specs(config: ModelConfig):
    tree = {"attention": attention_specs(config), "mlp": mlp_specs(config)}
    if config.norm_place in ("input", "both"):
        tree["attention_norm"] = tree["mlp_norm"] = norm_specs(config)
    if config.norm_place in ("output", "both"):
        tree["attention_out_norm"] = tree["mlp_out_norm"] = norm_specs(config)
    return tree


def layer(w, x, config: ModelConfig, kind: LayerKind, positions, attend, select=all_positions):
    """One layer: its output and its cache. `attend(query, key, value) -> (heads, cache)`, None for no cache.

    `select` takes the positions whose output is needed out of [B, T, …]. Keys and values are computed
    everywhere, but queries, attention and MLP only there: enough for the last layer.
    """

    def normed(name, x):
        return norm(w[name], x, config) if name in w else x

    inner = normed("attention_norm", x)
    key, value = project_key_value(w["attention"], inner, config, kind, positions)
    query = project_query(w["attention"], select(inner), config, kind, select(positions))
    heads, cache = attend(query, key, value)
    x = select(x)
    attended = x + normed("attention_out_norm", project_out(w["attention"], heads, config))
    mlp_input = x if config.parallel_residual else attended
    out = mlp(w["mlp"], normed("mlp_norm", mlp_input), config)
    return attended + normed("mlp_out_norm", out), cache


# The whole -----------------------------------------------------------------------------------


def cast(params, config: ModelConfig):
    """The parameters in the type of the computation, but for quantized matrices: those are cast in use."""

    def to_type(x):
        return x if is_quantized(x) else jnp.asarray(x).astype(config.dtype)

    return jax.tree.map(to_type, params, is_leaf=is_quantized)


def prepare(params, config: ModelConfig):
    """The parameters as the computation reads them: cast, and layer by layer where no loop goes over them.

    Call it outside of any loop: within one, every step would copy the layers out of their stack again.
    """
    w = cast(params, config)
    return w | {"layers": split_layers(w["layers"], config)}


# What stays of a layer for the backward pass, where its activations are recomputed. Products with weights
# have no batch axis; attention's scores have, and are recomputed.
CHECKPOINT_POLICIES = {
    "nothing": None,
    "products": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def forward(
    params,
    config: ModelConfig,
    tokens: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    attend,
    select=all_positions,
    attend_selected=None,
) -> Float[Array, "B S D"]:
    """Hidden states after the last norm, at the positions that `select` takes out of [B, T, …].

    `attend(query, key, value, kind=kind) -> heads` is attention of all positions. It serves a last layer with
    queries of the selected ones alone, too, unless `attend_selected` is given.
    """
    w = prepare(params, config)
    x = embed(w["embed"], tokens, positions, config)

    def step(w, x, caches, kind, select):
        del caches
        own = attend if select is all_positions else attend_selected or attend
        return layer(w, x, config, kind, positions, lambda *qkv: (own(*qkv, kind=kind), None), select)

    if config.rematerialize:
        policy = CHECKPOINT_POLICIES[config.rematerialize_but]
        step = jax.checkpoint(step, static_argnums=(3, 4), policy=policy)
    x, _ = through_layers(step, x, w["layers"], config, select=select)
    return norm(w["norm"], x, config)


def valid_segments(tokens: Int[Array, "B T"], pad_id: int) -> Int[Array, "B T"]:
    """One sequence a row: segment 1 where there is a token, 0 where there is padding."""
    return (tokens != pad_id).astype(jnp.int32)


def apply(
    params, config: ModelConfig, tokens: Int[Array, "B T"], segments: Int[Array, "B T"], outputs_from: int = 0
) -> Float[Array, "B S D"]:
    """Hidden states after the last norm at positions `outputs_from:` (S of them).

    `segments` is 0 for padding, else which packed sequence a token belongs to (`valid_segments`
    for one sequence a row). Every real token sees the real tokens of its segment up to itself.
    """
    attend = functools.partial(attention.causal_attention, segments=segments, implementation=config.attention)
    positions = attention.positions_of(segments)
    return forward(params, config, tokens, positions, attend, lambda x: in_rows_of(x, x[:, outputs_from:]))

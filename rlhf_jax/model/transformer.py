"""One decoder-only transformer as pure functions over a pytree of parameters.

The policy, the reference, the reward model and the value network are these functions with other
parameters. Each part below is its parameters first, then the function that uses them. GPT-2,
GPT-NeoX and Llama are settings of `ModelConfig`.
"""

import functools

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from rlhf_jax.config import ModelConfig
from rlhf_jax.mesh import ROWS, layout, reshard
from rlhf_jax.model import attention
from rlhf_jax.model.params import ParamSpec, constant, normal, stack
from rlhf_jax.model.rotary import rotate


def specs(config: ModelConfig, vocabulary: int):
    """The parameters of a whole model: embeddings, stacked layers, last norm, output matrix."""
    tree = {
        "embed": embedding_specs(config, vocabulary),
        "layers": stack(layer_specs(config), config.layers),
        "norm": norm_specs(config),
    }
    if not config.tied_head:
        tree["head"] = ParamSpec((config.width, vocabulary), P("fsdp", "tensor"), normal(0.02))
    return tree


# Embedding and output ------------------------------------------------------------------------


def embedding_specs(config: ModelConfig, vocabulary: int):
    tree = {"tokens": ParamSpec((vocabulary, config.width), P("tensor", "fsdp"), normal(0.02))}
    if config.positions == "learned":
        tree["positions"] = ParamSpec((config.context, config.width), P(None, "fsdp"), normal(0.01))
    return tree


def embed(w, tokens: Int[Array, "B T"], positions: Int[Array, "B T"]) -> Float[Array, "B T D"]:
    """Looks tokens up; padding ids lie outside the vocabulary and are read as id 0."""
    x = look_up(w["tokens"], jnp.where(tokens < w["tokens"].shape[0], tokens, 0))
    if "positions" in w:
        table = reshard(w["positions"], None, None)
        x = x + table.at[positions].get(out_sharding=layout(ROWS, None, None))
    return x


def look_up(table: Float[Array, "V D"], tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
    """The tokens' rows of a table whose rows are split over `tensor` and whose columns over `fsdp`.

    Each device looks the tokens of its fsdp group up in its own part, then exchanges columns for rows:
    neither table nor gradient is ever whole on a device. A plain lookup replicates the activations.
    """
    if layout() is None:
        return table[tokens]

    def in_own_part(part, tokens):
        ids = jax.lax.all_gather(tokens, "fsdp", tiled=True) - jax.lax.axis_index("tensor") * part.shape[0]
        own = (ids >= 0) & (ids < part.shape[0])
        x = jnp.where(own[..., None], part[jnp.where(own, ids, 0)], 0)
        x = jax.lax.psum(x, "tensor")
        return jax.lax.all_to_all(x, "fsdp", split_axis=0, concat_axis=2, tiled=True)

    in_specs, rows = (P("tensor", "fsdp"), P(ROWS)), P(ROWS)
    on_each = jax.shard_map(in_own_part, in_specs=in_specs, out_specs=rows, check_vma=False)
    return on_each(reshard(table, "tensor", "fsdp"), reshard(tokens, ROWS))


def output_matrix(params, config: ModelConfig) -> Float[Array, "V D"]:
    """In the type of the computation."""
    matrix = params["embed"]["tokens"] if config.tied_head else params["head"].T
    return matrix.astype(config.dtype)


def project(hidden: Float[Array, "B T D"], matrix: Float[Array, "V D"]) -> Float[Array, "B T V"]:
    """Float32 logits, their vocabulary split over `tensor`."""
    out = layout(ROWS, None, "tensor")
    return jnp.einsum("btd,vd->btv", hidden, matrix, preferred_element_type=jnp.float32, out_sharding=out)


def logits(params, config: ModelConfig, hidden: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
    """Whole float32 logits. Ask only for the positions you read; `likelihood` has what losses need."""
    return project(hidden, output_matrix(params, config))


# Normalisation -------------------------------------------------------------------------------


def norm_specs(config: ModelConfig):
    tree = {"scale": ParamSpec((config.width,), P(None), constant(1.0))}
    if config.norm == "layer":
        tree["bias"] = ParamSpec((config.width,), P(None), constant(0.0))
    return tree


def norm(w, x: Float[Array, "B T D"], config: ModelConfig) -> Float[Array, "B T D"]:
    """Layer norm or RMS norm, computed in float32."""
    wide = x.astype(jnp.float32)
    if config.norm == "layer":
        wide = wide - wide.mean(axis=-1, keepdims=True)
    wide = wide * jax.lax.rsqrt(jnp.square(wide).mean(axis=-1, keepdims=True) + config.norm_epsilon)
    wide = wide * w["scale"]
    return (wide + w["bias"] if config.norm == "layer" else wide).astype(x.dtype)


# Attention -----------------------------------------------------------------------------------


def attention_specs(config: ModelConfig):
    """Projections to H key-value heads and, for each of them, G query heads."""
    width, heads = config.width, config.kv_heads or config.heads
    group, size = config.heads // heads, config.head_size or config.width // config.heads
    out_std = 0.02 * (2 * config.layers) ** -0.5  # GPT-2: residual projections shrink with depth
    tree = {
        "query": ParamSpec((width, heads, group, size), P("fsdp", "tensor"), normal(0.02)),
        "key": ParamSpec((width, heads, size), P("fsdp", "tensor"), normal(0.02)),
        "value": ParamSpec((width, heads, size), P("fsdp", "tensor"), normal(0.02)),
        "out": ParamSpec((heads, group, size, width), P("tensor", None, None, "fsdp"), normal(out_std)),
    }
    if config.attention_bias:
        tree["query_bias"] = ParamSpec((heads, group, 1, size), P("tensor"), constant(0.0))
        tree["key_bias"] = ParamSpec((heads, 1, size), P("tensor"), constant(0.0))
        tree["value_bias"] = ParamSpec((heads, 1, size), P("tensor"), constant(0.0))
        tree["out_bias"] = ParamSpec((width,), P(None), constant(0.0))
    return tree


def project_query(w, x, config: ModelConfig, positions) -> Float[Array, "B H G T K"]:
    query = jnp.einsum("btd,dhgk->bhgtk", x, w["query"], out_sharding=layout(ROWS, "tensor"))
    if config.attention_bias:
        query = query + w["query_bias"]
    return query if config.positions == "learned" else rotate(query, positions[:, None, None], config.rotary)


def project_key_value(w, x, config: ModelConfig, positions):
    """Keys and values, both [B, H, T, K]."""
    key = jnp.einsum("btd,dhk->bhtk", x, w["key"], out_sharding=layout(ROWS, "tensor"))
    value = jnp.einsum("btd,dhk->bhtk", x, w["value"], out_sharding=layout(ROWS, "tensor"))
    if config.attention_bias:
        key, value = key + w["key_bias"], value + w["value_bias"]
    return key if config.positions == "learned" else rotate(key, positions[:, None], config.rotary), value


def project_out(w, heads: Float[Array, "B H G T K"], config: ModelConfig) -> Float[Array, "B T D"]:
    x = jnp.einsum("bhgtk,hgkd->btd", heads, w["out"], out_sharding=layout(ROWS, None, None))
    return x + w["out_bias"] if config.attention_bias else x


# MLP -----------------------------------------------------------------------------------------


def mlp_specs(config: ModelConfig):
    width, hidden = config.width, config.ff or 4 * config.width
    out_std = 0.02 * (2 * config.layers) ** -0.5
    tree = {
        "up": ParamSpec((width, hidden), P("fsdp", "tensor"), normal(0.02)),
        "down": ParamSpec((hidden, width), P("tensor", "fsdp"), normal(out_std)),
    }
    if config.activation == "silu_gated":
        tree["gate"] = ParamSpec((width, hidden), P("fsdp", "tensor"), normal(0.02))
    if config.mlp_bias:
        tree["up_bias"] = ParamSpec((hidden,), P("tensor"), constant(0.0))
        tree["down_bias"] = ParamSpec((width,), P(None), constant(0.0))
    if config.mlp_bias and config.activation == "silu_gated":
        tree["gate_bias"] = ParamSpec((hidden,), P("tensor"), constant(0.0))
    return tree


def mlp(w, x: Float[Array, "B T D"], config: ModelConfig) -> Float[Array, "B T D"]:
    hidden = jnp.einsum("btd,df->btf", x, w["up"], out_sharding=layout(ROWS, None, "tensor"))
    if config.mlp_bias:
        hidden = hidden + w["up_bias"]
    if config.activation == "silu_gated":
        gate = jnp.einsum("btd,df->btf", x, w["gate"], out_sharding=layout(ROWS, None, "tensor"))
        hidden = jax.nn.silu(gate + w["gate_bias"] if config.mlp_bias else gate) * hidden
    else:
        hidden = jax.nn.gelu(hidden, approximate=config.activation == "gelu_tanh")
    x = jnp.einsum("btf,fd->btd", hidden, w["down"], out_sharding=layout(ROWS, None, None))
    return x + w["down_bias"] if config.mlp_bias else x


# Layers --------------------------------------------------------------------------------------


def layer_specs(config: ModelConfig):
    return {
        "attention_norm": norm_specs(config),
        "attention": attention_specs(config),
        "mlp_norm": norm_specs(config),
        "mlp": mlp_specs(config),
    }


def layer(w, x, config: ModelConfig, positions, attend, outputs_from: int = 0):
    """One layer. `attend(query, key, value) -> (heads, cache)` is attention with or without cache.

    With `outputs_from`, keys and values are computed everywhere but queries, attention and MLP
    only from that position on: enough for a last layer of which only the responses are read.
    """
    normed = norm(w["attention_norm"], x, config)
    key, value = project_key_value(w["attention"], normed, config, positions)
    query = project_query(w["attention"], normed[:, outputs_from:], config, positions[:, outputs_from:])
    heads, cache = attend(query, key, value)
    x = x[:, outputs_from:]
    attended = x + project_out(w["attention"], heads, config)
    mlp_input = x if config.parallel_residual else attended
    return attended + mlp(w["mlp"], norm(w["mlp_norm"], mlp_input, config), config), cache


def unrolled(config: ModelConfig) -> bool:
    """Layers one after another in the program (fast on CPU), or one program scanned over them."""
    return config.layer_loop == "unroll" or (config.layer_loop == "auto" and jax.default_backend() == "cpu")


def compute_params(params, config: ModelConfig):
    """The parameters as the computation reads them: cast once, layers unstacked if unrolled.

    Unstacking outside of any loop matters: within, each step would copy the slices again.
    """
    cast = jax.tree.map(lambda x: x.astype(config.dtype), params)
    if unrolled(config):
        stacked, structure = jax.tree.flatten(cast["layers"])
        split = [jnp.unstack(x) for x in stacked]
        cast["layers"] = [jax.tree.unflatten(structure, leaves) for leaves in zip(*split, strict=True)]
    return cast


def through_layers(step, x, layers, caches=None, last_step=None):
    """Folds `step(w, x, cache) -> (x, cache)` over the layers; returns x and all caches."""
    if not isinstance(layers, list):
        return jax.lax.scan(lambda x, layer: step(layer[0], x, layer[1]), x, (layers, caches))
    out = []
    for i, w in enumerate(layers):
        run = last_step if last_step is not None and i == len(layers) - 1 else step
        x, cache = run(w, x, None if caches is None else caches[i])
        out.append(cache)
    return x, out


# Whole passes --------------------------------------------------------------------------------


def apply(
    params,
    config: ModelConfig,
    tokens: Int[Array, "B T"],
    segments: Int[Array, "B T"],
    outputs_from: int = 0,
) -> Float[Array, "B S D"]:
    """Hidden states after the last norm at positions `outputs_from:` (S of them).

    `segments` is 0 for padding, else which packed sequence a token belongs to (`valid_segments`
    for one sequence a row). Every real token sees the real tokens of its segment up to itself.
    """
    w = compute_params(params, config)
    positions = attention.positions_of(segments)
    x = embed(w["embed"], tokens, positions)

    def attend(query, key, value):
        return attention.causal_attention(query, key, value, segments, config.attention), None

    def step(w, x, cache, outputs_from=0):
        del cache
        return layer(w, x, config, positions, attend, outputs_from)

    keep = jax.checkpoint if config.rematerialize else lambda f: f
    last_step = functools.partial(step, outputs_from=outputs_from)
    x, _ = through_layers(keep(step), x, w["layers"], last_step=keep(last_step))
    if not unrolled(config):
        x = x[:, outputs_from:]
    return norm(w["norm"], x, config)


def valid_segments(tokens: Int[Array, "B T"], pad_id: int) -> Int[Array, "B T"]:
    """One sequence a row: segment 1 where there is a token, 0 where there is padding."""
    return (tokens != pad_id).astype(jnp.int32)


class KVCache(struct.PyTreeNode):
    """Keys and values of the tokens read so far, for `decode`."""

    layers: list | tuple  # per layer (or stacked [L, …]) a pair of [B, H, S, K]
    valid: Array  # [B, S] bool, slots that hold a real token
    length: Array  # [] slots in use, the same for all rows
    position: Array  # [B] position of each row's next token


def prefill(params, config: ModelConfig, tokens, segments, slots: int):
    """Reads left-padded queries; returns the hidden state of the last token [B, 1, D] and a cache.

    `params` come from `compute_params`. The cache has room for `slots` more tokens.
    """
    positions = attention.positions_of(segments)
    x = embed(params["embed"], tokens, positions)

    def attend(query, key, value):
        room = ((0, 0), (0, 0), (0, slots), (0, 0))
        heads = attention.causal_attention(query, key, value, segments, config.attention)
        return heads, (jnp.pad(key, room), jnp.pad(value, room))

    def step(w, x, cache, outputs_from=0):
        del cache
        return layer(w, x, config, positions, attend, outputs_from)

    last_step = functools.partial(step, outputs_from=tokens.shape[1] - 1)
    x, layers = through_layers(step, x, params["layers"], last_step=last_step)
    valid = jnp.pad(segments > 0, ((0, 0), (0, slots)))
    cache = KVCache(layers, valid, jnp.int32(tokens.shape[1]), positions[:, -1] + 1)
    return norm(params["norm"], x[:, -1:], config), cache


def decode(params, config: ModelConfig, tokens: Int[Array, "B 1"], cache: KVCache):
    """One more token for every row: its hidden state [B, 1, D] and the longer cache."""
    slot = cache.length
    valid = cache.valid | (jnp.arange(cache.valid.shape[1]) == slot)
    positions = cache.position[:, None]
    x = embed(params["embed"], tokens, positions)

    def step(w, x, kv):
        def attend(query, key, value):
            keys = jax.lax.dynamic_update_slice_in_dim(kv[0], key, slot, axis=2)
            values = jax.lax.dynamic_update_slice_in_dim(kv[1], value, slot, axis=2)
            return attention.attend(query, keys, values, valid[:, None]), (keys, values)

        return layer(w, x, config, positions, attend)

    x, layers = through_layers(step, x, params["layers"], cache.layers)
    cache = KVCache(layers, valid, slot + 1, cache.position + 1)
    return norm(params["norm"], x, config), cache

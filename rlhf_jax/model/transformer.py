"""One decoder-only transformer as pure functions over a pytree of parameters.

The policy, the reference, the reward model and the value network are these functions with other
parameters. Each part below is its parameters first, then the function that uses them. GPT-2,
GPT-NeoX and Llama are settings of `ModelConfig`.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from rlhf_jax.config import ModelConfig
from rlhf_jax.mesh import ROWS, in_rows_of, layout, reshard
from rlhf_jax.model import attention
from rlhf_jax.model.params import ParamSpec, constant, normal, stack
from rlhf_jax.model.products import multiply, unrolled
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
    if jax.sharding.get_abstract_mesh().size <= 1:  # nothing is split
        return table.at[tokens].get(out_sharding=layout(ROWS))

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
    return jnp.asarray(matrix).astype(config.dtype)


def project(hidden: Float[Array, "B T D"], matrix: Float[Array, "V D"], config: ModelConfig):
    """Float32 logits [B, T, V], their vocabulary split over `tensor`."""
    return multiply("btd,dv->btv", hidden, matrix.T, config, "tensor", jnp.float32)


def logits(params, config: ModelConfig, hidden: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
    """Whole float32 logits. Ask only for the positions you read; `likelihood` has what losses need."""
    return project(hidden, output_matrix(params, config), config)


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
        tree["out_bias"] = ParamSpec((width,), P(None), constant(0.0))
    return tree


def project_query(w, x, config: ModelConfig, positions) -> Float[Array, "B H G T K"]:
    query = jnp.moveaxis(multiply("btd,dhgk->bthgk", x, w["query"], config, "tensor"), 1, 3)
    if config.attention_bias:
        query = query + w["query_bias"]
    return query if config.positions == "learned" else rotate(query, positions[:, None, None], config.rotary)


def project_key_value(w, x, config: ModelConfig, positions):
    """Keys and values, both [B, H, T, K]."""
    both = (multiply("btd,dhk->bthk", x, w[name], config, "tensor") for name in ("key", "value"))
    key, value = (heads.swapaxes(1, 2) for heads in both)
    if config.attention_bias:
        key, value = key + w["key_bias"], value + w["value_bias"]
    return key if config.positions == "learned" else rotate(key, positions[:, None], config.rotary), value


def project_out(w, heads: Float[Array, "B H G T K"], config: ModelConfig) -> Float[Array, "B T D"]:
    x = multiply("bhgtk,hgkd->btd", heads, w["out"], config, None)
    return x + w["out_bias"] if config.attention_bias else x


# MLP -----------------------------------------------------------------------------------------


ACTIVATIONS = {"gelu_tanh": jax.nn.gelu, "silu": jax.nn.silu}
ACTIVATIONS["gelu"] = functools.partial(jax.nn.gelu, approximate=False)


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


# Layers --------------------------------------------------------------------------------------


def layer_specs(config: ModelConfig):
    return {
        "attention_norm": norm_specs(config),
        "attention": attention_specs(config),
        "mlp_norm": norm_specs(config),
        "mlp": mlp_specs(config),
    }


def everywhere(x: Array) -> Array:
    return x


def reader(places: Int[Array, "B S"]):
    """What takes these positions out of [B, T, …]; row by row, as JAX knows no layout of a single row."""

    def of_row(x, places):
        return jnp.take_along_axis(x, places.reshape(places.shape + (1,) * (x.ndim - 1)), axis=0)

    return lambda x: jax.vmap(of_row)(x, reshard(places, jax.typeof(x).sharding.spec[0], None))


def layer(w, x, config: ModelConfig, positions, attend, read=everywhere):
    """One layer. `attend(query, key, value) -> (heads, cache)` is attention with or without cache.

    `read` takes the positions whose output is needed out of [B, T, …]. Keys and values are computed
    everywhere, but queries, attention and MLP only there: enough for the last layer.
    """
    normed = norm(w["attention_norm"], x, config)
    key, value = project_key_value(w["attention"], normed, config, positions)
    query = project_query(w["attention"], read(normed), config, read(positions))
    heads, cache = attend(query, key, value)
    x = read(x)
    attended = x + project_out(w["attention"], heads, config)
    mlp_input = x if config.parallel_residual else attended
    return attended + mlp(w["mlp"], norm(w["mlp_norm"], mlp_input, config), config), cache


def cast(params, config: ModelConfig):
    """The parameters in the type of the computation; its bits are the same as if each pass cast them."""
    return jax.tree.map(lambda x: jnp.asarray(x).astype(config.dtype), params)


def compute_params(params, config: ModelConfig):
    """The parameters as the computation reads them: cast once, and a list of layers where it is unrolled.

    Call it outside of any loop: within one, every step would copy the layers out of their stack again.
    """
    w = cast(params, config)
    if unrolled(config):
        stacked, structure = jax.tree.flatten(w["layers"])
        split = [jnp.unstack(x) for x in stacked]
        w["layers"] = [jax.tree.unflatten(structure, leaves) for leaves in zip(*split, strict=True)]
    return w


def through_layers(step, x, layers, caches=None, last_step=None, read=everywhere):
    """Folds `step(w, x, cache) -> (x, cache)` over the layers; returns x where `read` takes it, and caches.

    `caches` are several, each stacked as the layers are, or a list as they are: a step gets its own of each.
    `last_step` computes the last layer there alone; in a loop all layers are alike, and it is not called.
    """
    if not isinstance(layers, list):
        x, caches = jax.lax.scan(lambda x, layer: step(layer[0], x, layer[1]), x, (layers, caches))
        return read(x), caches
    out = []
    for i, w in enumerate(layers):
        run = last_step if last_step is not None and i == len(layers) - 1 else step
        x, cache = run(w, x, caches and tuple(each[i] for each in caches))
        out.append(cache)
    return x, out


# Whole passes --------------------------------------------------------------------------------


def apply(
    params, config: ModelConfig, tokens: Int[Array, "B T"], segments: Int[Array, "B T"], outputs_from: int = 0
) -> Float[Array, "B S D"]:
    """Hidden states after the last norm at positions `outputs_from:` (S of them).

    `segments` is 0 for padding, else which packed sequence a token belongs to (`valid_segments`
    for one sequence a row). Every real token sees the real tokens of its segment up to itself.
    """
    attend = functools.partial(attention.causal_attention, segments=segments, implementation=config.attention)
    positions = attention.positions_of(segments)
    return _fold(
        params, config, tokens, positions, attend, attend, lambda x: in_rows_of(x, x[:, outputs_from:])
    )


def apply_in_parts(
    params, config: ModelConfig, tokens: Int[Array, "B T"], segments: Int[Array, "B T"], parts: int
) -> list[Float[Array, "B T D"]]:
    """Hidden states after each of `parts` runs of layers, each after the last norm; the last is `apply`."""
    attend = functools.partial(attention.causal_attention, segments=segments, implementation=config.attention)
    positions, count = attention.positions_of(segments), config.layers // parts
    w = compute_params(params, config)

    def step(w, x, cache):
        return layer(w, x, config, positions, lambda *qkv: (attend(*qkv), cache))

    x, hidden = embed(w["embed"], tokens, positions), []
    for start in range(0, config.layers, count):
        run = slice(start, start + count)
        layers = w["layers"]
        layers = layers[run] if isinstance(layers, list) else jax.tree.map(lambda x, run=run: x[run], layers)
        x, _ = through_layers(step, x, layers)
        hidden.append(norm(w["norm"], x, config))
    return hidden


def apply_at(
    params,
    config: ModelConfig,
    tokens: Int[Array, "B T"],
    segments: Int[Array, "B T"],
    places: Int[Array, "B S"],
) -> Float[Array, "B S D"]:
    """`apply` at `places` of each row, which differ from row to row."""
    attend = functools.partial(attention.causal_attention, segments=segments, implementation=config.attention)
    seen = places[..., None] >= jnp.arange(tokens.shape[1])
    seen &= reader(places)(segments)[..., None] == segments[:, None]
    attend_there = functools.partial(attention.attend, mask=seen)
    positions = attention.positions_of(segments)
    return _fold(params, config, tokens, positions, attend, attend_there, reader(places))


def apply_to_ends(
    params, config: ModelConfig, query: Int[Array, "B Q"], responses: Int[Array, "B N R"], pad_id: int
) -> Float[Array, "B N D"]:
    """Hidden states at the last token of each of N responses to one query, which is computed once.

    A response sees the query and itself, at the positions that it would have alone. Queries are
    left-padded; responses are right-padded, each of one token at least.
    """
    rows, count, length = responses.shape
    tokens = jnp.concatenate([query, jnp.reshape(responses, (rows, -1), out_sharding=layout(ROWS))], axis=1)
    segments = valid_segments(query, pad_id)
    starts = query.shape[1] + length * jnp.arange(count)
    ends = starts + jnp.sum(responses != pad_id, axis=2) - 1
    own_positions = jnp.sum(segments, axis=1, keepdims=True) + jnp.tile(jnp.arange(length), count)
    positions = jnp.concatenate([attention.positions_of(segments), own_positions], axis=1)
    attend = functools.partial(
        attention.branched_attention, segments=segments, count=count, implementation=config.attention
    )
    place = jnp.arange(tokens.shape[1])
    own = (place >= starts[:, None]) & (place <= ends[:, :, None])
    seen = own | jnp.pad(segments > 0, ((0, 0), (0, count * length)))[:, None]
    attend_at_ends = functools.partial(attention.attend, mask=seen)
    return _fold(params, config, tokens, positions, attend, attend_at_ends, reader(ends))


def _fold(params, config: ModelConfig, tokens, positions, attend, attend_last, read) -> Float[Array, "B S D"]:
    """`tokens` through all layers; the outputs of the last one where `read` takes them, normed.

    `attend_last` is the attention of these positions alone.
    """
    w = compute_params(params, config)
    x = embed(w["embed"], tokens, positions)

    def step(w, x, cache, attend=attend, read=everywhere):
        return layer(w, x, config, positions, lambda *qkv: (attend(*qkv), cache), read)

    last_step = functools.partial(step, attend=attend_last, read=read)
    keep = jax.checkpoint if config.rematerialize else lambda f: f
    x, _ = through_layers(keep(step), x, w["layers"], last_step=keep(last_step), read=read)
    return norm(w["norm"], x, config)


def valid_segments(tokens: Int[Array, "B T"], pad_id: int) -> Int[Array, "B T"]:
    """One sequence a row: segment 1 where there is a token, 0 where there is padding."""
    return (tokens != pad_id).astype(jnp.int32)

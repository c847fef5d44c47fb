"""One decoder-only transformer as pure functions over a pytree of parameters.

The policy, the reference, the reward model and the value network are these functions with other
parameters. Each part below is its parameters first, then the function that uses them. GPT-2,
GPT-NeoX, Llama, Qwen, Mistral, OLMo 2, SmolLM3, Gemma and Phi are settings of `ModelConfig`.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from rlhf_jax.config import LayerKind, ModelConfig
from rlhf_jax.mesh import ROWS, in_rows_of, layout, reshard
from rlhf_jax.model import attention
from rlhf_jax.model.params import ParamSpec, constant, normal, stack
from rlhf_jax.model.products import multiply, unrolled
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
    """Looks tokens up: [B, T, D]. Padding ids lie outside the vocabulary and are read as id 0."""
    x = look_up(w["tokens"], jnp.where(tokens < w["tokens"].shape[0], tokens, 0))
    if config.embedding_scale != 1:
        x = x * jnp.asarray(config.embedding_scale, x.dtype)  # rounded first, as Gemma was trained
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
    logits = multiply("btd,dv->btv", hidden, matrix.T, config, "tensor", jnp.float32)
    return config.logit_cap * jnp.tanh(logits / config.logit_cap) if config.logit_cap else logits


def logits(params, config: ModelConfig, hidden: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
    """Whole float32 logits. Ask only for the positions you read; `likelihood` has what losses need."""
    return project(hidden, output_matrix(params, config), config)


# Normalisation -------------------------------------------------------------------------------


def norm_specs(config: ModelConfig, *shape: int, split: str | None = None):
    """Of vectors of the width, or of another shape whose first axis is split."""
    shape = shape or (config.width,)
    tree = {"scale": ParamSpec(shape, P(split), constant(0.0 if config.norm_plus_one else 1.0))}
    if config.norm == "layer":
        tree["bias"] = ParamSpec(shape, P(split), constant(0.0))
    return tree


def norm(w, x: Float[Array, "B *rest"], config: ModelConfig, axes: tuple[int, ...] = (-1,)):
    """Layer norm or RMS norm of `x` over its `axes`, computed in float32."""
    wide = x.astype(jnp.float32)
    if config.norm == "layer":
        wide = wide - wide.mean(axis=axes, keepdims=True)
    wide = wide * jax.lax.rsqrt(jnp.square(wide).mean(axis=axes, keepdims=True) + config.norm_epsilon)
    wide = wide * (1 + w["scale"].astype(jnp.float32) if config.norm_plus_one else w["scale"])
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
    if config.attention_bias and config.attention_out_bias:
        tree["out_bias"] = ParamSpec((width,), P(None), constant(0.0))
    if config.qk_norm == "head":
        tree["query_norm"] = tree["key_norm"] = norm_specs(config, size)
    if config.qk_norm == "all_heads":
        tree["query_norm"] = norm_specs(config, heads, group, 1, size, split="tensor")
        tree["key_norm"] = norm_specs(config, heads, 1, size, split="tensor")
    return tree


def project_query(w, x, config: ModelConfig, kind: LayerKind, positions) -> Float[Array, "B H G T K"]:
    query = jnp.moveaxis(multiply("btd,dhgk->bthgk", x, w["query"], config, "tensor"), 1, 3)
    if config.attention_bias:
        query = query + w["query_bias"]
    if config.qk_norm != "none":
        query = norm(w["query_norm"], query, config, (-1,) if config.qk_norm == "head" else (1, 2, -1))
    return rotate(query, positions[:, None, None], kind.rotary) if kind.rotary else query


def project_key_value(w, x, config: ModelConfig, kind: LayerKind, positions):
    """Keys and values, both [B, H, T, K]."""
    both = (multiply("btd,dhk->bthk", x, w[name], config, "tensor") for name in ("key", "value"))
    key, value = (heads.swapaxes(1, 2) for heads in both)
    if config.attention_bias:
        key, value = key + w["key_bias"], value + w["value_bias"]
    if config.qk_norm != "none":
        key = norm(w["key_norm"], key, config, (-1,) if config.qk_norm == "head" else (1, -1))
    return rotate(key, positions[:, None], kind.rotary) if kind.rotary else key, value


def project_out(w, heads: Float[Array, "B H G T K"], config: ModelConfig) -> Float[Array, "B T D"]:
    x = multiply("bhgtk,hgkd->btd", heads, w["out"], config, None)
    return x + w["out_bias"] if "out_bias" in w else x


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
    tree = {"attention": attention_specs(config), "mlp": mlp_specs(config)}
    if config.norm_place in ("input", "both"):
        tree["attention_norm"] = tree["mlp_norm"] = norm_specs(config)
    if config.norm_place in ("output", "both"):
        tree["attention_out_norm"] = tree["mlp_out_norm"] = norm_specs(config)
    return tree


def everywhere(x: Array) -> Array:
    """`read` of a layer whose whole output is needed; `_fold` knows it by identity."""
    return x


def reader(places: Int[Array, "B S"]):
    """What takes these positions out of [B, T, …]: row by row, as an indexed axis loses its layout."""

    def of_row(x, places):
        return jnp.take_along_axis(x, places.reshape(places.shape + (1,) * (x.ndim - 1)), axis=0)

    return lambda x: jax.vmap(of_row)(x, reshard(places, jax.typeof(x).sharding.spec[0], None))


def layer(w, x, config: ModelConfig, kind: LayerKind, positions, attend, read=everywhere):
    """One layer. `attend(query, key, value) -> (heads, cache)` is attention with or without cache.

    `read` takes the positions whose output is needed out of [B, T, …]. Keys and values are computed
    everywhere, but queries, attention and MLP only there: enough for the last layer.
    """

    def normed(name, x):
        return norm(w[name], x, config) if name in w else x

    inner = normed("attention_norm", x)
    key, value = project_key_value(w["attention"], inner, config, kind, positions)
    query = project_query(w["attention"], read(inner), config, kind, read(positions))
    heads, cache = attend(query, key, value)
    x = read(x)
    attended = x + normed("attention_out_norm", project_out(w["attention"], heads, config))
    mlp_input = x if config.parallel_residual else attended
    out = mlp(w["mlp"], normed("mlp_norm", mlp_input), config)
    return attended + normed("mlp_out_norm", out), cache


def cast(params, config: ModelConfig):
    """The parameters in the type of the computation; its bits are the same as if each pass cast them.

    Quantized matrices stay as they are, until something is multiplied by them.
    """

    def to_type(x):
        return x if is_quantized(x) else jnp.asarray(x).astype(config.dtype)

    return jax.tree.map(to_type, params, is_leaf=is_quantized)


class Layers(NamedTuple):
    """What belongs to each layer, weights or cache, in the order in which `through_layers` comes to it.

    Kinds of layers repeat by periods. Whole periods are a loop, whose step computes one layer of each kind;
    what is left over, or everything on a CPU, is computed layer by layer.
    """

    looped: tuple  # for each layer of a period, stacked over all whole periods
    single: list


def compute_params(params, config: ModelConfig):
    """The parameters as the computation reads them: cast once, their layers as `Layers`.

    Call it outside of any loop: within one, every step would copy the layers out of their stack again.
    """
    w = cast(params, config)
    w["layers"] = in_order(w["layers"], config)
    return w


def in_order(stacked, config: ModelConfig) -> Layers:
    """The layers of a tree in which they are stacked."""
    period = len(config.kinds)
    looped = 0 if unrolled(config) else config.layers // period * period
    if looped and period == 1:  # the stack as it is
        return Layers((stacked,), [])
    every = tuple(jax.tree.map(lambda x, i=i: x[i:looped:period], stacked) for i in range(period))
    leaves, structure = jax.tree.flatten(stacked)
    rest = zip(*(jnp.unstack(x[looped:]) for x in leaves), strict=True)
    return Layers(every if looped else (), [jax.tree.unflatten(structure, layer) for layer in rest])


def through_layers(step, x, layers: Layers, config: ModelConfig, caches=(), read=everywhere):
    """Folds `step(w, x, caches, kind, read) -> (x, cache)` over the layers.

    Returns x where `read` takes it, and the caches that the steps return, as `Layers`. `caches` are
    several, each `Layers`, of which a step gets its own. Of a last layer outside of the loop nothing is
    computed but what `read` takes.
    """

    def period(x, of_layers):
        made = []
        for kind, (w, *own) in zip(config.kinds, zip(*of_layers, strict=True), strict=True):
            x, cache = step(w, x, own, kind, everywhere)
            made.append(cache)
        return x, tuple(made)

    every, looped, single = (layers, *caches), (), []
    if layers.looped:
        x, looped = jax.lax.scan(period, x, tuple(each.looped for each in every))
    for i, (w, *own) in enumerate(zip(*(each.single for each in every), strict=True)):
        kind, is_last = config.kinds[i % len(config.kinds)], i == len(layers.single) - 1
        x, cache = step(w, x, own, kind, read if is_last else everywhere)
        single.append(cache)
    return x if single else read(x), Layers(looped, single)


# Whole passes --------------------------------------------------------------------------------


# What stays of a layer for the backward pass where its activations are recomputed. Products with weights have
# no batch axis; attention's scores have, and are recomputed.
KEPT = {"nothing": None, "products": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}


def apply(
    params, config: ModelConfig, tokens: Int[Array, "B T"], segments: Int[Array, "B T"], outputs_from: int = 0
) -> Float[Array, "B S D"]:
    """Hidden states after the last norm at positions `outputs_from:` (S of them).

    `segments` is 0 for padding, else which packed sequence a token belongs to (`valid_segments`
    for one sequence a row). Every real token sees the real tokens of its segment up to itself.
    """
    attend = functools.partial(attention.causal_attention, segments=segments, implementation=config.attention)
    positions = attention.positions_of(segments)
    return _fold(params, config, tokens, positions, attend, lambda x: in_rows_of(x, x[:, outputs_from:]))


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
    positions = attention.positions_of(segments)
    return _fold(params, config, tokens, positions, attend, reader(places), seen)


def apply_to_ends(
    params, config: ModelConfig, query: Int[Array, "B Q"], responses: Int[Array, "B N R"], pad_id: int
) -> Float[Array, "B N D"]:
    """Hidden states at the last token of each of N responses to one query, which is computed once.

    A response sees the query and itself, at the positions that it would have alone. Queries are
    left-padded; responses are right-padded, each of one token at least.
    """
    _, count, length = responses.shape
    tokens, positions, attend = _branches(config, query, responses, pad_id)
    starts = query.shape[1] + length * jnp.arange(count)
    ends = starts + jnp.sum(responses != pad_id, axis=2) - 1
    place = jnp.arange(tokens.shape[1])
    own = (place >= starts[:, None]) & (place <= ends[:, :, None])
    seen = own | jnp.pad(query != pad_id, ((0, 0), (0, count * length)))[:, None]
    return _fold(params, config, tokens, positions, attend, reader(ends), seen)


def apply_to_responses(
    params, config: ModelConfig, query: Int[Array, "B Q"], response: Int[Array, "B*N R"], pad_id: int
) -> Float[Array, "B*N R D"]:
    """Hidden states from which each token of N responses to a query is predicted.

    Entry t of a response has seen the query and t of its tokens: entry 0 is that of the query's last token.
    The responses to one query are consecutive rows and do not see each other; the query is computed once,
    forward and backward.
    """
    (rows, stem), length = query.shape, response.shape[1]
    count = response.shape[0] // rows
    inputs = in_rows_of(response, response[:, :-1])
    inputs = jnp.reshape(inputs, (rows, count, length - 1), out_sharding=layout(ROWS))
    tokens, positions, attend = _branches(config, query, inputs, pad_id)
    hidden = _fold(params, config, tokens, positions, attend, lambda x: in_rows_of(x, x[:, stem - 1 :]))
    if count == 1:
        return hidden
    own = hidden[:, 1:].reshape(rows, count, length - 1, config.width, out_sharding=layout(ROWS))
    first = jnp.repeat(hidden[:, None, :1], count, axis=1, out_sharding=layout(ROWS))
    both = jnp.concatenate([first, own], axis=2)
    return both.reshape(rows * count, length, config.width, out_sharding=layout(ROWS))


def _branches(config: ModelConfig, query: Int[Array, "B Q"], responses: Int[Array, "B N R"], pad_id: int):
    """Tokens [B, Q + N · R], their positions and attention: responses see the query and not each other."""
    rows, count, length = responses.shape
    tokens = jnp.concatenate([query, jnp.reshape(responses, (rows, -1), out_sharding=layout(ROWS))], axis=1)
    segments = valid_segments(query, pad_id)
    own_positions = jnp.sum(segments, axis=1, keepdims=True) + jnp.tile(jnp.arange(length), count)
    positions = jnp.concatenate([attention.positions_of(segments), own_positions], axis=1)
    attend = functools.partial(
        attention.branched_attention, segments=segments, count=count, implementation=config.attention
    )
    return tokens, positions, attend


def _fold(
    params, config: ModelConfig, tokens, positions, attend, read_last, seen=None
) -> Float[Array, "B S D"]:
    """`tokens` through all layers; the outputs of the last one where `read_last` takes them, normed.

    `attend(query, key, value, kind=kind)` is attention of all positions. It serves the last layer too, unless
    `seen` [B, S, T] is given: then its positions attend to the tokens that this and `kind.window` allow.
    """
    w = compute_params(params, config)
    x = embed(w["embed"], tokens, positions, config)

    def step(w, x, caches, kind, read):
        del caches

        def attend_or_read(query, key, value):
            if seen is None or read is everywhere:
                return attend(query, key, value, kind=kind), None
            near = True
            if kind.window:
                near = read(positions)[..., None] - positions[:, None] < kind.window
            return attention.attend(query, key, value, seen & near, kind), None

        return layer(w, x, config, kind, positions, attend_or_read, read)

    if config.rematerialize:
        step = jax.checkpoint(step, static_argnums=(3, 4), policy=KEPT[config.rematerialize_but])
    x, _ = through_layers(step, x, w["layers"], config, read=read_last)
    return norm(w["norm"], x, config)


def valid_segments(tokens: Int[Array, "B T"], pad_id: int) -> Int[Array, "B T"]:
    """One sequence a row: segment 1 where there is a token, 0 where there is padding."""
    return (tokens != pad_id).astype(jnp.int32)

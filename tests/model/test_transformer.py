import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash_kernel
from tiny import EOS, FAMILIES, PAD, VOCABULARY

from rlhf_jax.config import RotaryConfig
from rlhf_jax.model import kv_cache, layer_loop, passes, transformer

Q, R = 8, 6
T = Q + R


# The same model written from its equations, float64, one token at a time.


def np_norm(w, x, config):
    if config.norm == "layer":
        x = x - x.mean()
    scale = w["scale"] + config.norm_plus_one
    x = x / math.sqrt((x * x).mean() + config.norm_epsilon) * scale
    return x + w["bias"] if config.norm == "layer" else x


def np_rotate(x, position, config, local):
    """Pairs (i, i + n/2) of the first n dimensions turn by position · base^(−2i/n)."""
    out, n = x.copy(), int(config.rotary.fraction * len(x))
    base = config.rotary.local_base if local and config.rotary.local_base else config.rotary.base
    for i in range(n // 2):
        angle = position * base ** (-2 * i / n)
        a, b = x[i], x[i + n // 2]
        out[i] = a * math.cos(angle) - b * math.sin(angle)
        out[i + n // 2] = b * math.cos(angle) + a * math.sin(angle)
    return out


def np_activation(x, config):
    if config.activation == "gelu":
        return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    if config.activation == "gelu_tanh":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return x / (1 + np.exp(-x))


def np_mlp(w, x, config):
    hidden = x @ w["up"] + w.get("up_bias", 0)
    if config.gated:
        hidden = np_activation(x @ w["gate"] + w.get("gate_bias", 0), config) * hidden
    else:
        hidden = np_activation(hidden, config)
    return hidden @ w["down"] + w.get("down_bias", 0)


def np_attention(w, x, config, kind):
    """Causal self-attention over the whole of `x` [T, D]; query head h reads key head h // group."""
    heads, group, size = w["query"].shape[1:]
    query = np.einsum("td,dhgk->thgk", x, w["query"]) + w.get("query_bias", np.zeros((1, 1)))[..., 0, :]
    key = np.einsum("td,dhk->thk", x, w["key"]) + w.get("key_bias", np.zeros((1, 1)))[..., 0, :]
    value = np.einsum("td,dhk->thk", x, w["value"]) + w.get("value_bias", np.zeros((1, 1)))[..., 0, :]
    if config.qk_norm == "head":
        query = np.apply_along_axis(lambda v: np_norm(w["query_norm"], v, config), -1, query)
        key = np.apply_along_axis(lambda v: np_norm(w["key_norm"], v, config), -1, key)
    if config.qk_norm == "all_heads":
        flat = {name: jax.tree.map(np.ravel, w[name]) for name in ("query_norm", "key_norm")}
        query = np.stack([np_norm(flat["query_norm"], v.ravel(), config).reshape(v.shape) for v in query])
        key = np.stack([np_norm(flat["key_norm"], v.ravel(), config).reshape(v.shape) for v in key])
    if config.positions == "rotary" and kind != "nope":
        turn = functools.partial(np_rotate, config=config, local=kind == "local")
        query = np.stack([np.apply_along_axis(turn, -1, v, t) for t, v in enumerate(query)])
        key = np.stack([np.apply_along_axis(turn, -1, v, t) for t, v in enumerate(key)])
    out, scale, cap = np.zeros_like(x), config.attention_scale or size**-0.5, config.attention_cap
    for h, g, t in np.ndindex(heads, group, len(x)):
        seen = slice(max(t + 1 - config.window, 0) if kind == "local" else 0, t + 1)
        scores = scale * key[seen, h] @ query[t, h, g]
        weights = np.exp(cap * np.tanh(scores / cap) if cap else scores)
        out[t] += weights / weights.sum() @ value[seen, h] @ w["out"][h, g]
    return out + w.get("out_bias", 0)


def np_logits(params, tokens, config):
    """Logits [T, V] of one sequence without padding."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    x = params["embed"]["tokens"][tokens] * config.embedding_scale
    if config.positions == "learned":
        x = x + params["embed"]["positions"][: len(tokens)]
    for i in range(config.layers):
        w = jax.tree.map(lambda stacked, i=i: stacked[i], params["layers"])

        def normed(name, x, w=w):
            return np.stack([np_norm(w[name], v, config) for v in x]) if name in w else x

        kind = config.layer_pattern[i % len(config.layer_pattern)]
        out = np_attention(w["attention"], normed("attention_norm", x), config, kind)
        attended = x + normed("attention_out_norm", out)
        before = x if config.parallel_residual else attended
        x = attended + normed("mlp_out_norm", np_mlp(w["mlp"], normed("mlp_norm", before), config))
    x = np.stack([np_norm(params["norm"], v, config) for v in x])
    logits = x @ (params["embed"]["tokens"].T if config.tied_head else params["head"])
    return config.logit_cap * np.tanh(logits / config.logit_cap) if config.logit_cap else logits


# What jax computes, compiled once a setting.


@functools.cache
def weights_of(config):
    return tiny.parameters(transformer.specs(config, VOCABULARY))


@functools.partial(jax.jit, static_argnames="config")
def logits_of(params, tokens, segments, config):
    return transformer.logits(params, config, transformer.apply(params, config, tokens, segments))


def full_logits(config, tokens, segments=None):
    segments = transformer.valid_segments(tokens, PAD) if segments is None else segments
    return np.asarray(logits_of(weights_of(config), tokens, segments, config))


@functools.partial(jax.jit, static_argnames="config")
def cached_logits(params, query, response, config):
    """Logits that predict each token of `response`, read one token at a time."""
    params = transformer.prepare(params, config)
    segments = transformer.valid_segments(query, PAD)
    hidden, cache = kv_cache.prefill(params, config, query, segments, R - 1)

    def step(cache, token):
        hidden, cache = kv_cache.decode(params, config, token[:, None], cache)
        return cache, hidden[:, 0]

    _, later = jax.lax.scan(step, cache, response.T[:-1])
    hidden = jnp.concatenate([hidden, later.swapaxes(0, 1)], axis=1)
    return transformer.logits(params, config, hidden)


@pytest.fixture(params=FAMILIES)
def config(request):
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def query():
    return tiny.random_queries(3, Q)  # of 2, 3 and 4 tokens


@pytest.fixture(scope="module")
def tokens(query):
    return np.concatenate([query, tiny.random_tokens(3, R, seed=1)], axis=1)


def assert_close(ours, theirs, config, tokens=T, rows=0):
    """Logits or hidden states, or, of `rows` rows, gradients: of these, the largest of all is the measure."""
    scale = tiny.largest(theirs) if rows else 0
    tiny.assert_close(ours, theirs, tiny.additions(config, tokens, rows), scale)


MLPS = {  # of which no family above makes use
    "gated gelu_tanh": dataclasses.replace(FAMILIES["llama"], activation="gelu_tanh"),
    "gated gelu with biases": dataclasses.replace(FAMILIES["neox"], gated=True),
    "silu": dataclasses.replace(FAMILIES["gpt2"], activation="silu"),
}


KINDS = {  # two periods and two layers; windows shorter than query and response; one period cut short
    "period": dataclasses.replace(
        FAMILIES["llama"],
        layers=8,
        layer_pattern=("local", "nope", "global"),
        window=4,
        rotary=RotaryConfig(base=100.0, local_base=7.0),
        norm_plus_one=True,
        norm_place="both",
        qk_norm="head",
        attention_scale=0.3,
        attention_cap=2.0,
        attention_bias=True,
        attention_out_bias=False,
        embedding_scale=3.0,
        logit_cap=20.0,
    ),
    "window": dataclasses.replace(
        FAMILIES["neox"],
        kv_heads=4,
        layer_pattern=("local", "local", "global"),
        window=3,
        norm_place="output",
        qk_norm="all_heads",
    ),
}
SETTINGS = FAMILIES | MLPS | KINDS


@pytest.mark.parametrize("config", SETTINGS.values(), ids=SETTINGS)
def test_agrees_with_the_equations(config, tokens):
    ours = full_logits(config, tokens)
    for row, ids in zip(ours, tokens, strict=True):
        expected = np_logits(weights_of(config), ids[ids != PAD], config)
        assert np.ptp(expected) > 1  # the weights make a difference
        assert_close(row[ids != PAD], expected, config)


@pytest.mark.parametrize("loop", ["scan", "unroll"])
@pytest.mark.parametrize("layers", [2, 3, 7, 9])  # less than a period, one, two and a layer, three
def test_every_layer_is_of_its_kind_and_keeps_its_cache(layers, loop):
    pattern = ("global", "local", "local")
    config = dataclasses.replace(
        FAMILIES["gpt2"], layers=layers, layer_pattern=pattern, window=5, layer_loop=loop
    )

    def step(w, x, caches, kind, select):
        (own,) = caches or (0,)
        return x.at[w].set(kind.window + 1), own + 100 * w

    ordered = layer_loop.split_layers(jnp.arange(layers), config)
    visited, caches = layer_loop.through_layers(step, jnp.zeros(layers, int), ordered, config)
    assert visited.tolist() == [(1, 6, 6)[i % 3] for i in range(layers)]
    _, caches = layer_loop.through_layers(step, visited, ordered, config, (caches,))
    assert len(caches.looped) == (0 if loop == "unroll" or layers < 3 else 3)
    by_layer = [int(x) for row in zip(*caches.looped, strict=True) for x in row] + caches.single
    assert by_layer == [200 * i for i in range(layers)]


@pytest.mark.parametrize("loop", ["scan", "unroll"])
@pytest.mark.parametrize("config", (FAMILIES | KINDS).values(), ids=FAMILIES | KINDS)
def test_cache_changes_nothing(config, loop, tokens):
    config = dataclasses.replace(config, layer_loop=loop)
    cached = cached_logits(weights_of(config), tokens[:, :Q], tokens[:, Q:], config)
    assert_close(cached, full_logits(config, tokens)[:, Q - 1 : -1], config)


@pytest.mark.parametrize("config", (FAMILIES | KINDS).values(), ids=FAMILIES | KINDS)
def test_scan_equals_unroll(config, tokens):
    scanned, unrolled = (
        full_logits(dataclasses.replace(config, layer_loop=loop), tokens) for loop in ("scan", "unroll")
    )
    real = tokens != PAD  # what stands at padding is nobody's
    assert_close(scanned[real], unrolled[real], config)


def test_side_of_the_padding_does_not_matter(config, tokens):
    right = np.stack([np.roll(row, -np.sum(row == PAD)) for row in tokens])
    ours, theirs = full_logits(config, tokens), full_logits(config, right)
    for left_row, right_row, ids in zip(ours, theirs, tokens, strict=True):
        length = np.sum(ids != PAD)
        assert_close(left_row[-length:], right_row[:length], config)


def test_packed_examples_do_not_see_each_other(config):
    examples = [tiny.random_tokens(1, length, seed=length)[0] for length in (5, 3, 4)]
    packed, segments, apart = np.full((1, T), PAD, np.int32), np.zeros((1, T), np.int32), []
    packed[0, :12], segments[0, :12] = np.concatenate(examples), np.repeat([1, 2, 3], [5, 3, 4])
    for ids in examples:
        row = np.full((1, T), PAD, np.int32)
        row[0, : len(ids)] = ids
        apart.append(full_logits(config, row)[0, : len(ids)])
    assert_close(full_logits(config, packed, segments)[0, :12], np.concatenate(apart), config)


def test_later_tokens_change_nothing_before_them(config, tokens):
    changed = tokens.copy()
    changed[:, 10] = np.where(tokens[:, 10] == 2, 3, 2)
    before, after = full_logits(config, tokens), full_logits(config, changed)
    earlier = (np.arange(T) < 10) & (tokens != PAD)
    np.testing.assert_array_equal(before[earlier], after[earlier])
    moved = np.abs(before[:, 10:] - after[:, 10:]).max(axis=2)
    assert (moved > 10 * tiny.rounding(tiny.additions(config, T)) * tiny.largest(before)).all()


def test_padding_is_not_a_token(tokens):
    """No embedding row stands for padding: it gets no gradient, and any id outside the vocabulary will do."""
    config, segments = FAMILIES["neox"], transformer.valid_segments(tokens, PAD)

    @jax.jit
    def summed(params, tokens):
        logits = transformer.logits(params, config, transformer.apply(params, config, tokens, segments))
        return jnp.sum(jnp.where(segments[..., None] > 0, jnp.sin(logits), 0))

    gradient = jax.grad(summed)(weights_of(config), tokens)["embed"]["tokens"]
    absent = np.setdiff1d(np.arange(VOCABULARY), tokens)
    assert 0 in absent and EOS in absent
    np.testing.assert_array_equal(gradient[absent], 0)
    assert (np.abs(np.delete(gradient, absent, axis=0)).max(axis=1) > 0).all()
    other = np.where(tokens == PAD, PAD + 7, tokens)
    np.testing.assert_array_equal(summed(weights_of(config), tokens), summed(weights_of(config), other))


@pytest.mark.parametrize("loop", ["scan", "unroll"])
def test_outputs_from_is_a_slice_of_the_full_pass(loop, tokens):
    config = dataclasses.replace(FAMILIES["gpt2"], layer_loop=loop)
    segments = transformer.valid_segments(tokens, PAD)

    def summed(params, outputs_from):
        hidden = transformer.apply(params, config, tokens, segments, outputs_from)[:, Q - 1 - outputs_from :]
        return jnp.sum(jnp.sin(hidden)), hidden

    both = jax.jit(jax.value_and_grad(summed, has_aux=True), static_argnums=1)
    (_, sliced), sliced_gradient = both(weights_of(config), 0)
    (_, ours), gradient = both(weights_of(config), Q - 1)
    assert ours.shape == (3, R + 1, config.width)
    assert_close(ours, sliced, config)
    assert_close(gradient, sliced_gradient, config, rows=3)


@pytest.mark.parametrize("name", ["gpt2", "window"])
@pytest.mark.parametrize("loop", ["scan", "unroll"])
def test_outputs_at_places_are_those_of_the_full_pass(loop, name):
    config = dataclasses.replace(SETTINGS[name], layer_loop=loop)
    tokens = tiny.random_tokens(2, T, seed=1)
    segments = np.repeat([[1, 2, 0], [3, 0, 1]], [5, 6, 3], axis=1)
    places = np.array([[0, 4, 5, 10], [13, 2, 11, 2]])

    def summed(params, at_places):
        if at_places:
            hidden = passes.apply_at(params, config, tokens, segments, places)
        else:
            hidden = transformer.apply(params, config, tokens, segments)[np.arange(2)[:, None], places]
        return jnp.sum(jnp.sin(hidden)), hidden

    both = jax.jit(jax.value_and_grad(summed, has_aux=True), static_argnums=1)
    (_, expected), expected_gradient = both(weights_of(config), False)
    (_, ours), gradient = both(weights_of(config), True)
    assert ours.shape == (2, 4, config.width)
    assert_close(ours, expected, config)
    assert_close(gradient, expected_gradient, config, rows=2)


@pytest.mark.parametrize("kept", ["nothing", "products"])
@pytest.mark.parametrize("loop", ["scan", "unroll"])
def test_rematerializing_changes_no_gradient(loop, kept, tokens):
    segments = transformer.valid_segments(tokens, PAD)

    @functools.partial(jax.jit, static_argnames="config")
    def gradient(params, config):
        hidden = functools.partial(transformer.apply, config=config, tokens=tokens, segments=segments)
        return jax.grad(lambda params: jnp.sum(jnp.sin(hidden(params))))(params)

    config = dataclasses.replace(FAMILIES["gpt2"], layer_loop=loop)
    expected = gradient(weights_of(config), config)
    saving = dataclasses.replace(config, rematerialize=True, rematerialize_but=kept)
    assert_close(gradient(weights_of(config), saving), expected, config, rows=3)


def test_with_products_kept_attention_alone_is_computed_again(tokens):
    """Of the eight products of a layer forward, six are with weights; backward each is two more.

    All are made again where nothing is kept, and the two of attention where products are: its scores, and
    not the mean of values, which nothing in the backward pass reads.
    """
    segments = transformer.valid_segments(tokens, PAD)

    def gradient(params, config):
        return jax.grad(lambda params: jnp.sum(transformer.apply(params, config, tokens, segments)))(params)

    config = dataclasses.replace(FAMILIES["gpt2"], layer_loop="scan")
    plain, products, nothing = (
        str(jax.make_jaxpr(gradient, static_argnums=1)(weights_of(config), each)).count("dot_general")
        for each in (
            config,
            dataclasses.replace(config, rematerialize=True, rematerialize_but="products"),
            dataclasses.replace(config, rematerialize=True),
        )
    )
    assert plain <= products < nothing


def test_the_splash_kernel_changes_nothing(monkeypatch, tokens):
    """Interpreted, inside of a loop over rematerialized layers, with grouped queries."""
    make = functools.partial(splash_kernel.make_splash_mha, interpret=True)
    monkeypatch.setattr(splash_kernel, "make_splash_mha", make)
    segments = transformer.valid_segments(tokens, PAD)

    @functools.partial(jax.jit, static_argnames="config")
    def loss_and_gradient(params, config):
        def loss(params):
            return jnp.sum(jnp.sin(transformer.apply(params, config, tokens, segments, Q - 1)))

        return jax.value_and_grad(loss)(params)

    config = dataclasses.replace(FAMILIES["llama"], layer_loop="scan", rematerialize=True)
    expected = loss_and_gradient(weights_of(FAMILIES["llama"]), config)
    config = dataclasses.replace(config, attention="splash")
    ours = loss_and_gradient(weights_of(FAMILIES["llama"]), config)
    for one, other in zip(ours, expected, strict=True):  # the loss; the gradients
        assert_close(one, other, config, rows=3)


def test_bfloat16_stays_within_five_percent(config, tokens):
    """8 bits of mantissa, two layers: an error of 5% of the logits' spread; logits themselves are float32."""
    low = full_logits(dataclasses.replace(config, dtype="bfloat16"), tokens)
    exact = full_logits(config, tokens)
    assert low.dtype == np.float32
    real = tokens != PAD
    assert np.sqrt(np.mean((low - exact)[real] ** 2)) < 0.05 * np.std(exact[real])
    # It did compute in bfloat16: float32 would be a hundred times closer.
    assert np.abs(low - exact)[real].max() > 10 * tiny.rounding(tiny.additions(config, T)) * np.std(
        exact[real]
    )
    assert (low.astype(jnp.bfloat16).astype(np.float32) != low).any()  # and did not round the logits


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_may_be_numpy_s(name):
    config = FAMILIES[name]
    weights = tiny.parameters(transformer.specs(config, VOCABULARY))
    tokens = tiny.random_tokens(2, Q)
    segments = np.ones_like(tokens)
    ours = transformer.apply(weights, config, jnp.asarray(tokens), jnp.asarray(segments))
    plain = jax.device_get(weights)
    hidden = transformer.apply(plain, config, tokens, segments)
    np.testing.assert_array_equal(hidden, ours)
    logits = transformer.logits(weights, config, ours)
    np.testing.assert_array_equal(transformer.logits(plain, config, hidden), logits)

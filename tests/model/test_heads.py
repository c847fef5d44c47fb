import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash_kernel
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from scipy.stats import chi2
from tiny import EOS, FAMILIES, PAD, VOCABULARY

from rlhf_jax.config import MeshConfig, ModelConfig
from rlhf_jax.data.batches import left_pad, right_pad
from rlhf_jax.mesh import make_mesh, to_devices
from rlhf_jax.model import attention, heads, params, transformer

CONFIG = FAMILIES["neox"]
QUERIES = [tiny.random_tokens(1, length, seed=length)[0] for length in (3, 5, 4, 2)]
RESPONSES = [[7, 5, 9, EOS], [EOS], [8, 6, 4, 3, 2], [7, EOS]]  # the third has no EOS
SUMS = tiny.additions(CONFIG, 10)  # behind a score of query and response


@pytest.fixture(scope="module")
def weights():
    return tiny.parameters(heads.specs(CONFIG, VOCABULARY))


score = functools.partial(
    jax.jit(heads.score, static_argnames=("config", "pad_id")), config=CONFIG, pad_id=PAD
)
values = functools.partial(
    jax.jit(heads.values, static_argnames=("config", "pad_id")), config=CONFIG, pad_id=PAD
)


def test_head_weights_have_variance_one_over_width_plus_one():
    width = 9_999
    specs = heads.specs(ModelConfig(width=width, heads=1, layers=1), VOCABULARY)["head"]
    head = params.init({"head": specs}, jax.random.key(0))["head"]
    squares = (width + 1) * np.sum(np.square(head["weight"], dtype=np.float64))
    low, high = chi2.ppf([0.0005, 0.9995], width)
    assert low < squares < high
    assert head["bias"] == 0


def test_score_is_read_at_the_last_real_token(weights):
    """Independently: one sequence at a time, without any padding, its last hidden state."""
    padded = score(weights, query=left_pad(QUERIES, 5, PAD), response=right_pad(RESPONSES, 5, PAD))
    apply = jax.jit(transformer.apply, static_argnames="config")
    for query, response, ours in zip(QUERIES, RESPONSES, np.asarray(padded), strict=True):
        tokens = np.concatenate([query, response])[None].astype(np.int32)
        hidden = apply(weights["transformer"], CONFIG, tokens, np.ones_like(tokens))[0, -1]
        expected = hidden @ weights["head"]["weight"] + weights["head"]["bias"]
        tiny.assert_close(ours, expected, SUMS, scale=tiny.largest(padded))
    assert np.ptp(padded) > 1


def test_more_padding_on_either_side_changes_no_score(weights):
    tight = score(weights, query=left_pad(QUERIES, 5, PAD), response=right_pad(RESPONSES, 5, PAD))
    wide = score(weights, query=left_pad(QUERIES, 9, PAD), response=right_pad(RESPONSES, 8, PAD))
    tiny.assert_close(wide, tight, SUMS)


def test_a_single_row_is_scored_on_a_mesh_as_among_others(weights):
    query, response = left_pad(QUERIES, 5, PAD), right_pad(RESPONSES, 5, PAD)
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    with jax.set_mesh(mesh):
        placed = jax.device_put(weights, NamedSharding(mesh, P()))
        alone = score(placed, query=to_devices(query[:1], mesh), response=to_devices(response[:1], mesh))
    np.testing.assert_allclose(alone, score(weights, query=query, response=response)[:1], atol=1e-5)


def test_a_value_is_read_before_its_token(weights):
    """Entry t has seen t response tokens: changing token 2 changes entries 3, 4, … alone."""
    query, response = left_pad(QUERIES[:1], 5, PAD), np.array([[7, 5, 9, 6, EOS]], np.int32)
    before = np.asarray(values(weights, query=query, response=response))[0]
    changed = response.copy()
    changed[0, 2] = 10
    after = np.asarray(values(weights, query=query, response=changed))[0]
    assert before.shape == (5,)
    np.testing.assert_array_equal(before[:3], after[:3])
    assert (np.abs(before[3:] - after[3:]) > 10 * tiny.rounding(SUMS) * tiny.largest(before)).all()


def test_bias_shifts_every_score(weights):
    batch = {"query": left_pad(QUERIES, 5, PAD), "response": right_pad(RESPONSES, 5, PAD)}
    shifted = weights | {"head": weights["head"] | {"bias": weights["head"]["bias"] - 2.5}}
    tiny.assert_close(score(shifted, **batch), score(weights, **batch) - 2.5, SUMS)


# Several responses to one query.


def alone_and_together(model, wanted, query, responses):
    """What the head reads before every token and at the last one [B · N, R + 1], 0 behind it.

    With the gradients of a weighted sum: of a row a response, and of a row a query.
    """
    weights = tiny.parameters(heads.specs(model, VOCABULARY))
    rows, longest = responses.reshape(-1, responses.shape[2]), responses.shape[2] + 1
    lengths = np.sum(rows != PAD, axis=1)
    before, last = (compare(np.arange(longest), lengths[:, None]) for compare in (np.less, np.equal))
    factors = jnp.asarray(np.random.default_rng(5).standard_normal(before.shape), jnp.float32)

    def apart(weights):
        """Through the pass that all other losses take: with one more slot, a score is the value there."""
        tokens = jnp.concatenate([np.repeat(query, responses.shape[1], axis=0), rows], axis=1)
        segments = transformer.valid_segments(tokens, PAD)
        hidden = transformer.apply(weights["transformer"], model, tokens, segments, query.shape[1] - 1)
        return heads.read(weights["head"], hidden)

    def together(weights):
        scores = heads.scores(weights, wanted, query, responses, PAD).reshape(-1, 1)
        found = heads.values(weights, wanted, query, rows, PAD)
        return jnp.where(last, scores, jnp.pad(found, ((0, 0), (0, 1))))

    def run(read):
        def weighted(weights):
            found = jnp.where(before | last, read(weights), 0.0)
            return jnp.sum(found * factors), found

        return jax.device_get(jax.jit(jax.grad(weighted, has_aux=True))(weights))

    return run(apart), run(together)


KINDS = {  # of model and of computation
    "gpt2 unrolled": ("gpt2", {"layer_loop": "unroll"}),
    "neox scanned": ("neox", {"layer_loop": "scan"}),
    "llama unrolled, recomputed": ("llama", {"layer_loop": "unroll", "rematerialize": True}),
    "llama scanned, recomputed": ("llama", {"layer_loop": "scan", "rematerialize": True}),
    "gpt2 by splash": ("gpt2", {"layer_loop": "unroll", "attention": "splash"}),
    "llama by cudnn": ("llama", {"layer_loop": "unroll", "attention": "cudnn"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_query_is_computed_once_for_all_responses_and_nothing_changes(monkeypatch, kind):
    make = functools.partial(splash_kernel.make_splash_mha, interpret=True)
    monkeypatch.setattr(splash_kernel, "make_splash_mha", make)
    plain = jax.nn.dot_product_attention
    by_xla = lambda *qkv, implementation, **options: plain(*qkv, **options, implementation="xla")  # noqa: E731
    monkeypatch.setattr(jax.nn, "dot_product_attention", by_xla)
    monkeypatch.setattr(attention, "choose", lambda name, *_: "blocked" if name == "auto" else name)
    family, computed = KINDS[kind]
    responses = np.stack([right_pad(RESPONSES[i:] + RESPONSES[:i], 5, PAD) for i in range(3)], axis=1)
    model = FAMILIES[family]
    (expected_gradient, expected), (gradient, found) = alone_and_together(
        model, dataclasses.replace(model, **computed), left_pad(QUERIES, 5, PAD), responses
    )
    assert np.ptp(expected, axis=0).min() > 0.1
    tiny.assert_close(found, expected, tiny.additions(model, 10))
    sums = tiny.additions(model, 10, rows=len(QUERIES) * len(RESPONSES))
    tiny.assert_close(gradient, expected_gradient, sums, scale=tiny.largest(expected_gradient))


def test_a_longer_text_than_a_block_of_queries(monkeypatch):
    monkeypatch.setattr(attention, "QUERY_BLOCK", 4)
    model = dataclasses.replace(FAMILIES["llama"], layer_loop="unroll")
    query = tiny.random_queries(3, 11)
    responses = np.stack([right_pad(tiny.random_tokens(3, 6, seed).tolist(), 7, PAD) for seed in (1, 2)], 1)
    (_, expected), (_, found) = alone_and_together(model, model, query, responses)
    tiny.assert_close(found, expected, tiny.additions(model, 18))

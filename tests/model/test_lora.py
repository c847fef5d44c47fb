"""Adapters beside a frozen model, held against the model whose matrices hold the change."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny import PAD, VOCABULARY

from rlhf_jax.config import LoraConfig
from rlhf_jax.model import heads, lora, params, transformer
from rlhf_jax.model.generate import generate

LORA = LoraConfig(rank=3, alpha=6.0)
Q, R, ROWS = 6, 4, 4
QUERY = tiny.random_queries(ROWS, Q)
TOKENS = np.concatenate([QUERY, tiny.random_tokens(ROWS, R, 1)], axis=1)
SEGMENTS = (TOKENS != PAD).astype(np.int32)


def model_of(name, layer_loop="unroll", **fields):
    return dataclasses.replace(tiny.FAMILIES[name], lora=LoraConfig(3, 6.0, **fields), layer_loop=layer_loop)


def of_tiny(model, part=transformer):
    """Frozen weights of a transformer, and what is trained beside it, in which nothing is 0."""
    base = tiny.parameters(transformer.specs(model, VOCABULARY))
    specs = lora.trained(part.specs(model, VOCABULARY), model.lora)
    return base, jax.tree.map(lambda x: 0.3 * x, tiny.parameters(specs, seed=1))


def logits(network, model):
    hidden = transformer.apply(network, model, TOKENS, SEGMENTS)
    return transformer.logits(network, model, hidden)


def loss(network, model):
    logp = jax.nn.log_softmax(logits(network, model)[:, :-1])
    return -jnp.mean(jnp.take_along_axis(logp, TOKENS[:, 1:, None] % VOCABULARY, axis=-1))


SUMS = tiny.additions(tiny.LLAMA, Q + R)


@pytest.mark.parametrize(
    ("name", "layer_loop"), [("gpt2", "unroll"), ("neox", "scan"), ("llama", "unroll"), ("llama", "scan")]
)
def test_beside_the_matrices_is_the_same_as_within_them(name, layer_loop):
    model = model_of(name, layer_loop)
    network = lora.attach(*of_tiny(model))
    ours, within = (
        jax.jit(logits, static_argnums=1)(x, model) for x in (network, lora.merged(network, LORA))
    )
    tiny.assert_close(ours, within, SUMS)


def test_the_change_of_a_matrix_is_alpha_over_rank_times_a_b():
    """By hand: W + 6 / 3 · A · B, and α / √rank where it is stabilized."""
    w, a, b = np.eye(2, 3), np.array([[1.0, 0, 2], [0, 1, 0]]), np.arange(9.0).reshape(3, 3)
    adapted = {"up": lora.Adapted(w, lora.Adapter(jnp.array(a), jnp.array(b)))}
    expected = [[1 + 2 * 12, 2 * 15, 2 * 18], [2 * 3, 1 + 2 * 4, 2 * 5]]
    np.testing.assert_allclose(lora.merged(adapted, LORA)["up"], expected, rtol=1e-6)
    stabilized = dataclasses.replace(LORA, rank_stabilized=True)
    change = lora.merged(adapted, stabilized)["up"] - w
    np.testing.assert_allclose(change, 6 / 3**0.5 * (a @ b), rtol=1e-6)


def test_gradients_are_those_through_merged_matrices():
    model = model_of("llama")
    base, trained = of_tiny(model)
    ours = jax.jit(jax.grad(lambda own: loss(lora.attach(base, own), model)))(trained)
    expected = jax.jit(jax.grad(lambda own: loss(lora.merged(lora.attach(base, own), LORA), model)))(trained)
    scale = tiny.largest(expected)
    tiny.assert_close(ours, expected, tiny.additions(model, Q + R, ROWS), scale)
    assert scale > 0.01 and jax.tree.structure(ours) == jax.tree.structure(trained)


def test_the_beginning_is_the_base_bit_for_bit():
    model = model_of("gpt2")
    base, _ = of_tiny(model)
    fresh = params.init(lora.trained(transformer.specs(model, VOCABULARY), model.lora), jax.random.key(0))
    tiny.assert_same(logits(lora.attach(base, fresh), model), logits(base, model))
    a = fresh["layers"]["mlp"]["down"].a
    assert a.shape == (2, 64, 3) and np.std(a) == pytest.approx((3 * 64) ** -0.5, rel=0.2)


def test_greedy_responses_from_the_cache_are_those_computed_anew():
    model = model_of("llama")
    network = lora.attach(*of_tiny(model))
    written = jax.jit(
        lambda: generate(
            network,
            model,
            QUERY,
            jax.random.key(0),
            response_tokens=R,
            eos_ids=(VOCABULARY + 1,),
            pad_id=PAD,
            temperature=0.0,
        )
    )()
    tokens = np.array(QUERY)
    for _ in range(R):
        hidden = transformer.apply(network, model, tokens, (tokens != PAD).astype(np.int32))
        token = transformer.logits(network, model, hidden)[:, -1].argmax(axis=-1)
        tokens = np.concatenate([tokens, token[:, None].astype(np.int32)], axis=1)
    np.testing.assert_array_equal(written, tokens[:, Q:])


def test_a_scalar_network_has_its_head_beside_adapters():
    model = model_of("neox")
    base, trained = of_tiny(model, heads)
    assert set(trained) == {"transformer", "head"} and set(trained["transformer"]) == {"layers"}
    network = lora.attach(base, trained)
    score = jax.jit(lambda net: heads.score(net, model, QUERY, jnp.asarray(TOKENS[:, Q:]), PAD))
    tiny.assert_close(score(network), score(lora.merged(network, LORA)), SUMS)


def test_targets_are_groups_and_names():
    def targets(*names):
        model = model_of("llama", targets=names)
        found = lora.trained(transformer.specs(model, VOCABULARY), model.lora)["layers"]
        return {name for part in found.values() for name in part}

    assert targets("attention") == {"query", "key", "value", "out"}
    assert targets("mlp", "query") == {"up", "gate", "down", "query"}


def test_without_a_rank_all_is_trained():
    specs = transformer.specs(tiny.GPT2, VOCABULARY)
    assert lora.trained(specs, LoraConfig()) is specs
    weights = tiny.parameters(specs)
    assert lora.attach({}, None) is None
    tiny.assert_same(lora.attach({}, weights), weights)


def test_an_adapter_is_as_small_as_its_rank():
    """In each layer rank × (inputs + outputs) of seven matrices."""
    model = model_of("llama")
    sizes = [(32, 32), (32, 8), (32, 8), (32, 32), (32, 64), (32, 64), (64, 32)]
    expected = model.layers * 3 * sum(a + b for a, b in sizes)
    assert params.count(lora.trained(transformer.specs(model, VOCABULARY), model.lora)) == expected

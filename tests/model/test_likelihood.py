"""Log-probabilities made for some positions at a time are those of whole logits."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import PartitionSpec as P

from rlhf_jax.config import MeshConfig
from rlhf_jax.functional import logprobs
from rlhf_jax.mesh import ROWS, make_mesh
from rlhf_jax.model import likelihood, transformer

B, T, V, D = 8, 7, 48, 32
CONFIGS = {"tied": tiny.GPT2, "untied": tiny.NEOX}
MESHES = [(1, 1, 8), (2, 2, 2)]
SUMS = 2 * (D + V) + B * T  # a logit and a softmax, back through both, over all tokens


@pytest.fixture(params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


@pytest.fixture
def three_at_once(monkeypatch):
    """Chunks of 3, 3 and 1 positions, on as many devices as the mesh has."""
    monkeypatch.setattr(likelihood, "positions_at_once", lambda rows, vocabulary: 3)


def case(config, dtype="float32"):
    rng = np.random.default_rng(0)
    weights = tiny.parameters(transformer.specs(config, V))
    return weights, jnp.asarray(rng.standard_normal((B, T, D)), dtype), rng.integers(0, V, (B, T), np.int32)


def whole(weights, config, hidden, tokens, temperature):
    logits = transformer.logits(weights, config, hidden)
    return logprobs.token_logprobs(logits, tokens, temperature), logprobs.entropy(logits, temperature)


def value_and_gradients(compute, config, weights, hidden, tokens):
    """Log-probabilities, entropies, and gradients of a weighted sum of the former."""
    factors = np.random.default_rng(1).standard_normal((B, T)).astype(np.float32)

    def weighted(weights, hidden):
        logp, entropy = compute(weights, config, hidden, tokens, 0.7)
        return jnp.sum(logp * factors), (logp, entropy)

    return jax.jit(jax.grad(weighted, (0, 1), has_aux=True)), (weights, hidden)


def test_chunks_change_no_value_and_no_gradient(three_at_once, config):
    arrays = case(config)
    ours, expected = (
        run(*inputs)
        for run, inputs in (
            value_and_gradients(compute, config, *arrays) for compute in (likelihood.token_logprobs, whole)
        )
    )
    tiny.assert_close(ours, expected, SUMS)


@pytest.mark.parametrize("shape", MESHES, ids=lambda shape: "x".join(map(str, shape)))
def test_nor_does_a_vocabulary_split_over_devices(three_at_once, config, shape):
    weights, hidden, tokens = case(config)
    run, inputs = value_and_gradients(whole, config, weights, hidden, tokens)
    expected = run(*inputs)
    mesh = make_mesh(MeshConfig(*shape))
    with jax.set_mesh(mesh):
        weights = tiny.placed(weights, transformer.specs(config, V), mesh)
        hidden, tokens = (jax.device_put(x, jax.NamedSharding(mesh, P(ROWS))) for x in (hidden, tokens))
        run, inputs = value_and_gradients(likelihood.token_logprobs, config, weights, hidden, tokens)
        tiny.assert_close(run(*inputs), expected, SUMS)
        program = run.lower(*inputs).compile().as_text()
    if shape == (2, 2, 2):
        bodies, entry = program.split("ENTRY ")
        assert not re.findall(rf"\[(?:{V // 2},{D}|{D},{V // 2})\]\S* all-reduce", bodies)
        assert re.findall(rf"\[(?:{V // 2},{D}|{D},{V // 2})\]\S* all-reduce", entry)  # once, after the loop
        assert not re.search(rf"\[{B // 4},3,{V}\]", program)  # no device has logits of all tokens


def test_bfloat16_hidden_states_give_float32_logprobs(three_at_once):
    config = dataclasses.replace(tiny.GPT2, dtype="bfloat16")
    weights, hidden, tokens = case(config, "bfloat16")
    ours = likelihood.token_logprobs(weights, config, hidden, tokens)
    assert ours[0].dtype == ours[1].dtype == jnp.float32
    tiny.assert_close(ours, whole(weights, config, hidden, tokens, 1.0), SUMS)


@pytest.mark.parametrize("devices", [1, 8])
def test_a_device_never_holds_more_than_the_limit(monkeypatch, devices):
    """64 logits a device: 8 rows of 2 tokens leave 4 positions to one device, 32 to eight."""
    monkeypatch.setattr(likelihood, "MOST_LOGITS", 64)
    with jax.set_mesh(make_mesh(MeshConfig(1, devices, 1))):
        assert likelihood.positions_at_once(8, 2) == 4 * devices
        assert likelihood.positions_at_once(1000, 1000) == 1
    assert likelihood.positions_at_once(8, 2) == 4


def test_chunks_save_memory(monkeypatch):
    """Temporaries of loss and gradient: whole logits are 20 times those of a chunk."""
    config, vocabulary, length = tiny.GPT2, 4096, 60
    weights = jax.eval_shape(functools.partial(tiny.parameters, transformer.specs(config, vocabulary)))
    hidden = jax.ShapeDtypeStruct((B, length, D), jnp.float32)

    def temporaries():
        def loss(weights, hidden):
            return likelihood.token_logprobs(weights, config, hidden, jnp.zeros((B, length), jnp.int32))[
                0
            ].sum()

        compiled = jax.jit(jax.grad(loss, (0, 1))).lower(weights, hidden).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    at_once = temporaries()
    monkeypatch.setattr(likelihood, "MOST_LOGITS", 3 * B * vocabulary)
    assert at_once >= 2 * B * length * vocabulary * 4
    assert temporaries() < at_once / 4


@pytest.mark.parametrize("length", [1, 3])
def test_responses_to_a_query_have_the_logprobs_of_rows_of_their_own(config, length):
    """Of one token, too, which the query's last one predicts."""
    weights, query = tiny.parameters(transformer.specs(config, V)), tiny.random_queries(2, 5)
    response = tiny.random_tokens(6, length, seed=1)
    read = jax.jit(likelihood.response_logprobs, static_argnums=(1, 4, 5))
    together = read(weights, config, query, response, tiny.PAD, 0.7)
    alone = read(weights, config, np.repeat(query, 3, axis=0), response, tiny.PAD, 0.7)
    tiny.assert_close(together, alone, tiny.additions(config, 5 + length))

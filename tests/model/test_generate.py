import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from scipy.stats import chisquare
from tiny import PAD, VOCABULARY

from rlhf_jax.config import MeshConfig
from rlhf_jax.mesh import abstract_rows, make_mesh, to_devices
from rlhf_jax.model import kv_cache, params, transformer
from rlhf_jax.model.generate import generate, sample
from rlhf_jax.plan.collectives import received_bytes

CONFIG = tiny.NEOX
B, Q, R = 6, 8, 7


@pytest.fixture(scope="module")
def weights():
    return tiny.parameters(transformer.specs(CONFIG, VOCABULARY))


@pytest.fixture(scope="module")
def query():
    return tiny.random_queries(B, Q)


@pytest.fixture(scope="module")
def greedy(weights, query):
    """What the model without a cache writes, one argmax at a time, never stopping [B, R]."""
    tokens = np.concatenate([query, np.full((B, R), PAD, np.int32)], axis=1)

    @jax.jit
    def all_logits(tokens):
        hidden = transformer.apply(weights, CONFIG, tokens, transformer.valid_segments(tokens, PAD))
        return transformer.logits(weights, CONFIG, hidden)

    for t in range(Q, Q + R):
        tokens[:, t] = np.argmax(all_logits(tokens)[:, t - 1], axis=-1)
    return tokens[:, Q:]


@pytest.fixture(scope="module")
def counting():
    """`write(query, eos_id, key, temperature)` and the list that grows with every decode step it makes."""
    steps = []
    decode = kv_cache.decode

    def counted(*arguments):
        jax.debug.callback(lambda: steps.append(1))
        return decode(*arguments)

    @functools.partial(jax.jit, static_argnames="temperature")
    def write(weights, query, eos_id, key, temperature):
        return generate(
            weights,
            CONFIG,
            query,
            key,
            response_tokens=R,
            eos_ids=(eos_id,),
            pad_id=PAD,
            temperature=temperature,
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kv_cache, "decode", counted)
        yield write, steps


@pytest.fixture(scope="module")
def write(counting, weights, query):
    def run(eos_id, temperature=0.0, seed=0):
        return np.asarray(counting[0](weights, query, eos_id, jax.random.key(seed), temperature))

    return run


def test_greedy_is_the_argmax_of_the_uncached_model(write, greedy):
    never = VOCABULARY + 5
    assert len({tuple(row) for row in greedy}) == B
    np.testing.assert_array_equal(write(never), greedy)


def test_after_eos_there_is_padding(write, greedy):
    eos = greedy[-1, 2]
    expected = greedy.copy()
    for row in expected:
        ends = np.flatnonzero(row == eos)
        if len(ends):
            row[ends[0] + 1 :] = PAD
    assert 0 < np.sum(expected[:, -1] == PAD) < B  # some end, some do not
    np.testing.assert_array_equal(write(eos), expected)


@pytest.mark.parametrize("last", [0, 3])
def test_decoding_stops_with_the_last_row(counting, weights, query, greedy, last):
    """All rows are alike and end at token `last`: the prefill gives the first, each step one more."""
    write, steps = counting
    eos = greedy[-1, last]
    assert eos not in greedy[-1, :last]
    steps.clear()
    alike = np.repeat(query[-1:], B, axis=0)
    jax.block_until_ready(write(weights, alike, eos, jax.random.key(0), 0.0))
    jax.effects_barrier()
    assert len(steps) == last


def test_a_key_decides_the_sample(write):
    never = VOCABULARY + 5
    np.testing.assert_array_equal(write(never, 1.0, seed=1), write(never, 1.0, seed=1))
    assert (write(never, 1.0, seed=1) != write(never, 1.0, seed=2)).any()


@pytest.mark.parametrize(
    ("family", "loop", "shape"),
    [
        ("gpt2", "unroll", None),
        ("llama", "scan", None),
        ("neox", "scan", (2, 2, 2)),
        ("llama", "unroll", (2, 2, 2)),
    ],
)
def test_a_query_is_read_once_for_all_of_its_samples(monkeypatch, family, loop, shape, query):
    """The same tokens from the same draws as with every query repeated."""
    config = dataclasses.replace(tiny.FAMILIES[family], layer_loop=loop)
    weights = tiny.parameters(transformer.specs(config, VOCABULARY))
    four, samples, read = query[:4], 3, []
    prefill = kv_cache.prefill
    monkeypatch.setattr(
        kv_cache, "prefill", lambda *arguments: read.append(arguments[2].shape[0]) or prefill(*arguments)
    )
    static = ("config", "response_tokens", "eos_ids", "pad_id", "samples")
    write = jax.jit(
        lambda *arguments, **options: generate(*arguments, **options),
        static_argnums=1,
        static_argnames=static,
    )
    options = {"response_tokens": R, "eos_ids": (tiny.EOS,), "pad_id": PAD}
    apart = write(weights, config, np.repeat(four, samples, axis=0), jax.random.key(1), **options)
    if shape is None:
        ours = write(weights, config, four, jax.random.key(1), samples=samples, **options)
    else:
        mesh = make_mesh(MeshConfig(*shape))
        with jax.set_mesh(mesh):
            weights = tiny.placed(weights, transformer.specs(config, VOCABULARY), mesh)
            ours = write(
                weights, config, to_devices(four, mesh), jax.random.key(1), samples=samples, **options
            )
    np.testing.assert_array_equal(ours, apart)
    assert len({tuple(row) for row in np.asarray(ours)}) > 8
    assert read == [12, 4]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_are_those_of_the_softmax(temperature):
    logits = np.log([0.4, 0.3, 0.15, 0.1, 0.05])
    rows = 20_000
    repeated = jnp.broadcast_to(jnp.float32(logits), (rows, len(logits)))
    drawn = np.bincount(sample(jax.random.key(0), repeated, temperature), minlength=len(logits))

    def p_value(temperature):
        weights = np.exp(logits / temperature)
        return chisquare(drawn, rows * weights / weights.sum()).pvalue

    assert p_value(temperature) > 1e-3
    assert p_value(1.2 * temperature) < 1e-6  # the test would notice


def test_rows_are_drawn_apart():
    first, second = np.asarray(sample(jax.random.key(0), jnp.zeros((2000, 2)), 1.0)).reshape(2, 1000)
    assert 400 < np.sum(first != second) < 600


def test_weights_cross_the_links_once_a_batch_and_not_once_a_token():
    """Eight devices with an eighth of every matrix each: what more tokens cost on the links."""
    mesh = make_mesh(MeshConfig(1, 8, 1))
    layers = jax.tree.leaves(
        transformer.specs(CONFIG, VOCABULARY)["layers"], is_leaf=lambda x: isinstance(x, params.ParamSpec)
    )
    size = 4 * sum(math.prod(spec.shape) for spec in layers if "fsdp" in spec.partition)

    def received(tokens: int, gather: bool) -> float:
        config = dataclasses.replace(CONFIG, layer_loop="scan", gather_to_sample=gather)
        write = jax.jit(
            functools.partial(generate, config=config, response_tokens=tokens, eos_ids=(1,), pad_id=PAD)
        )
        like = params.abstract(transformer.specs(CONFIG, VOCABULARY), mesh)
        with jax.set_mesh(mesh):
            lowered = write.lower(like, query=abstract_rows(mesh, (8, Q)), key=jax.random.key(0))
            return sum(received_bytes(lowered.compile().as_text()).values())

    each_token = received(9, gather=False) - received(5, gather=False)
    once = received(9, gather=True) - received(5, gather=True)
    assert each_token > 4 * 7 / 8 * size > 10 * once

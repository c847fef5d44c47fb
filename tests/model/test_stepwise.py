"""Responses written a few tokens at a time are those of a whole call, and rows do not see each other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from scipy.stats import chisquare
from tiny import EOS, PAD, VOCABULARY

from rlhf_jax.config import MeshConfig
from rlhf_jax.mesh import make_mesh, to_devices
from rlhf_jax.model import stepwise, transformer
from rlhf_jax.model.generate import generate
from rlhf_jax.model.likelihood import response_logprobs

CONFIG = tiny.NEOX
B, Q, R = 4, 8, 7

prepare = jax.jit(stepwise.prepare, static_argnames="config")
begin = jax.jit(stepwise.begin, static_argnames=("config", "pad_id", "slots"))
advance = jax.jit(stepwise.advance, static_argnames=("config", "tokens", "ends", "pad_id"))


@pytest.fixture(scope="module")
def weights():
    return tiny.parameters(transformer.specs(CONFIG, VOCABULARY))


@pytest.fixture(scope="module")
def query():
    return tiny.random_queries(B, Q)


def written(weights, query, temperature, seed, piece, ends=(EOS,), put=jnp.asarray):
    """(tokens [B, R'], log-probabilities) of calls of `piece` tokens, until R are there or all have ended."""
    ready, running = prepare(weights, CONFIG), np.ones(len(query), bool)
    draft = begin(ready, CONFIG, put(query), PAD, -(-R // piece) * piece)
    found = []
    while running.any() and sum(part[0].shape[1] for part in found) < R:
        settings = (put(np.float32(temperature)), put(np.uint32(seed)))
        draft, *part = advance(
            ready, CONFIG, draft, put(running), *settings, tokens=piece, ends=ends, pad_id=PAD
        )
        found.append(jax.device_get(part))
        running &= ~np.isin(found[-1][0], ends).any(axis=1)
    return tuple(np.concatenate(parts, axis=1)[:, :R] for parts in zip(*found, strict=True))


@functools.partial(jax.jit, static_argnames="config")
def whole(weights, query, config):
    return generate(
        weights,
        config,
        query,
        jax.random.key(0),
        response_tokens=R,
        eos_ids=(EOS,),
        pad_id=PAD,
        temperature=0.0,
    )


@pytest.mark.parametrize("piece", [1, 3, 7])
def test_greedy_pieces_are_the_response_of_one_call(weights, query, piece):
    tokens, _ = written(weights, query, np.zeros(B), np.arange(B), piece)
    expected = np.asarray(whole(weights, query, CONFIG))
    np.testing.assert_array_equal(tokens, expected[:, : tokens.shape[1]])
    assert (expected[:, tokens.shape[1] :] == PAD).all()


def test_a_row_s_text_does_not_depend_on_the_rows_beside_it(weights, query):
    temperature, seed = np.array([0.7, 0.0, 1.0, 1.5]), np.arange(B)
    tokens, _ = written(weights, query, temperature, seed, 3)
    order = np.array([2, 0, 3, 1])
    shuffled, _ = written(weights, query[order], temperature[order], seed[order], 7)
    width = min(tokens.shape[1], shuffled.shape[1])
    np.testing.assert_array_equal(shuffled[:, :width], tokens[order][:, :width])


def test_seeds_differ(weights, query):
    same = np.repeat(query[:1], B, axis=0)
    tokens, _ = written(weights, same, np.full(B, 2.0), np.array([5, 6, 5, 7]), 7, ends=())
    assert (tokens[0] == tokens[2]).all() and len({tuple(row) for row in tokens}) == 3


def test_log_probabilities_are_those_of_reading_the_response(weights, query):
    tokens, logp = written(weights, query, np.full(B, 0.9), np.arange(B), 7, ends=())
    read, _ = jax.jit(response_logprobs, static_argnums=(1, 4, 5))(weights, CONFIG, query, tokens, PAD, 1.0)
    tiny.assert_close(logp, read, tiny.additions(CONFIG, Q + R))


def test_a_response_ends_with_any_of_several_ids_and_its_neighbours_go_on(weights, query):
    free, _ = written(weights, query, np.ones(B), np.arange(B), 7, ends=())
    ends = (int(free[0, 2]), int(free[1, 4]))
    tokens, _ = written(weights, query, np.ones(B), np.arange(B), 7, ends=ends)
    for row, of_free in zip(tokens, free, strict=True):
        stops = np.flatnonzero(np.isin(of_free, ends))
        length = stops[0] + 1 if len(stops) else R
        np.testing.assert_array_equal(row[:length], of_free[:length])
        assert (row[length:] == PAD).all()


def test_a_row_that_does_not_run_writes_nothing(weights, query):
    ready = prepare(weights, CONFIG)
    draft = begin(ready, CONFIG, query, PAD, 4)
    running = np.array([True, False, True, False])
    zeros = np.zeros(B, np.float32), np.zeros(B, np.uint32)
    _, tokens, _ = advance(ready, CONFIG, draft, running, *zeros, tokens=4, ends=(), pad_id=PAD)
    assert (np.asarray(tokens)[~running] == PAD).all() and (np.asarray(tokens)[running] != PAD).all()


def test_samples_follow_the_softmax_at_the_temperature():
    logits, rows, temperature = np.array([0.0, 1.0, 2.0, -1.0], np.float32), 4000, 1.7
    drawn = stepwise._sample(
        jnp.tile(logits, (rows, 1)), jnp.full(rows, temperature), jnp.arange(rows, dtype=jnp.uint32), 3
    )
    odds = np.exp(logits.astype(np.float64) / temperature)
    assert chisquare(np.bincount(drawn, minlength=4), rows * odds / odds.sum()).pvalue > 1e-3


def test_rows_on_several_devices_write_the_same(weights, query):
    """Those of a mesh of 2 × 2 × 2, whose rows, weights and vocabulary are split."""
    expected, _ = written(weights, query, np.array([0.0, 1.0, 0.5, 0.0]), np.arange(B), 3)
    mesh = make_mesh(MeshConfig(2, 2, 2))
    with jax.set_mesh(mesh):
        split = tiny.placed(weights, transformer.specs(CONFIG, VOCABULARY), mesh)
        tokens, _ = written(
            split,
            query,
            np.array([0.0, 1.0, 0.5, 0.0]),
            np.arange(B),
            3,
            put=lambda x: to_devices(np.asarray(x), mesh),
        )
    np.testing.assert_array_equal(tokens, expected)

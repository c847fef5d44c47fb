import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference
import optax
import pytest
import tiny
from tiny import EOS, PAD, VOCABULARY

from rlhf_jax.config import DpoConfig
from rlhf_jax.data.batches import right_pad
from rlhf_jax.functional.losses import implicit_rewards
from rlhf_jax.model import transformer
from rlhf_jax.model.likelihood import response_logprobs
from rlhf_jax.pipeline import dpo
from rlhf_jax.training.state import TrainState

CONFIG = dataclasses.replace(tiny.NEOX, layers=1)
PAIRS, Q, R, RATE = 8, 6, 5, 0.03
SUMS = tiny.additions(CONFIG, Q + R) + R  # behind the log-probability of a response
STEP = tiny.additions(CONFIG, Q + R, rows=2 * PAIRS)  # behind a gradient
ALGORITHMS = {
    "dpo": DpoConfig(beta=0.5, label_smoothing=0.1),
    "ipo": DpoConfig("ipo", beta=0.5),
    "simpo": DpoConfig("simpo", beta=2.0, margin=0.5),
}


@pytest.fixture(scope="module")
def weights():
    return jax.tree.map(lambda x: 0.4 * x, tiny.parameters(transformer.specs(CONFIG, VOCABULARY)))


@pytest.fixture(scope="module")
def batch(weights):
    """Pairs of responses of 2 to R tokens, with what the network itself says of them."""

    def summaries(seed):
        words = tiny.random_tokens(PAIRS, R - 1, seed)
        return right_pad([[*row[: 1 + (i + seed) % (R - 1)], EOS] for i, row in enumerate(words)], R, PAD)

    made = {"query": tiny.random_queries(PAIRS, Q), "chosen": summaries(1), "rejected": summaries(2)}
    return made | {"ref_logp": np.asarray(read(weights, made)[0])}


@pytest.fixture(scope="module")
def apart(batch):
    """The same with a reference that says something else, so that no pair is near a tie."""
    return batch | {"ref_logp": batch["ref_logp"] + np.random.default_rng(0).normal(size=(PAIRS, 2))}


@jax.jit
def read(weights, batch):
    return dpo.response_likelihoods(weights, CONFIG, batch, PAD)


@functools.cache
def make_step(algorithm, microbatches=1):
    options = dataclasses.replace(ALGORITHMS[algorithm], microbatches=microbatches)
    return jax.jit(functools.partial(dpo.step, model=CONFIG, options=options, pad_id=PAD))


def fresh_state(weights):
    return TrainState.create(weights, optax.sgd(RATE))  # AdamW would hide a factor


def test_a_response_is_as_likely_as_the_product_of_its_tokens(weights, batch):
    """Each of a pair by itself, EOS included and padding not."""
    logp, tokens = read(weights, batch)
    for k, side in enumerate(("chosen", "rejected")):
        each, _ = jax.jit(response_logprobs, static_argnums=(1, 4, 5))(
            weights, CONFIG, batch["query"], batch[side], PAD, 1.0
        )
        mask = batch[side] != PAD
        tiny.assert_close(logp[:, k], np.sum(np.where(mask, each, 0), axis=1), SUMS)
        np.testing.assert_array_equal(tokens[:, k], mask.sum(axis=1))
    assert len(np.unique(tokens)) == R - 1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_loss_is_the_formula_of_the_log_probabilities(algorithm, weights, apart):
    options = ALGORITHMS[algorithm]
    _, metrics = make_step(algorithm)(fresh_state(weights), apart)
    logp, tokens = map(np.asarray, read(weights, apart))
    smoothing = options.label_smoothing, options.margin
    expected = numpy_reference.preference_losses(logp, tokens, apart["ref_logp"], options.beta, *smoothing)
    scale = tiny.largest(logp) / options.beta  # of IPO, the only one that divides by it
    tiny.assert_close(metrics["loss"], expected[list(ALGORITHMS).index(algorithm)], SUMS, scale**2)
    tiny.assert_close(metrics["margin"], metrics["chosen"] - metrics["rejected"], SUMS, scale)
    assert 0 < metrics["accuracy"] < 1


def test_a_policy_that_is_the_reference_prefers_nothing(weights, batch):
    """Loss log 2, and the first step raises the chosen log-probability and lowers the other by β/2 each."""
    state, metrics = make_step("dpo")(fresh_state(weights), batch)
    tiny.assert_close(metrics["loss"], np.log(2), SUMS, tiny.largest(batch["ref_logp"]))
    tiny.assert_close(metrics["margin"], 0.0, SUMS, tiny.largest(batch["ref_logp"]))
    options = ALGORITHMS["dpo"]
    pull = (1 - 2 * options.label_smoothing) * options.beta / 2 / PAIRS

    @jax.jit
    @jax.grad
    def ascent(weights):
        logp, _ = read(weights, batch)
        return pull * jnp.sum(logp @ jnp.array([1.0, -1.0]))

    gradient = ascent(weights)
    expected = jax.tree.map(lambda w, g: w + RATE * g, weights, gradient)
    tiny.assert_close(state.params, expected, STEP, scale=RATE * tiny.largest(gradient) * PAIRS)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_microbatches_change_nothing(algorithm, weights, apart):
    whole, metrics = make_step(algorithm)(fresh_state(weights), apart)
    parts, added = make_step(algorithm, 4)(fresh_state(weights), apart)
    tiny.assert_close(added, metrics, STEP, scale=1.0)
    tiny.assert_close(parts.params, whole.params, STEP, scale=RATE * metrics["grad_norm"])


def test_simpo_needs_no_reference(weights, batch):
    alone = {name: x for name, x in batch.items() if name != "ref_logp"}
    ours, theirs = (make_step("simpo")(fresh_state(weights), each)[1] for each in (alone, batch))
    assert ours["loss"] == theirs["loss"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_preferences_can_be_learnt_by_heart(algorithm, weights, batch):
    """And IPO stops where a pair's margin is ½, when the others go on."""
    state = fresh_state(weights)
    for _ in range(200):
        state, metrics = make_step(algorithm)(state, batch)
    assert metrics["accuracy"] == 1
    logp, tokens = read(state.params, batch)
    rewards = implicit_rewards(logp, batch["ref_logp"], ALGORITHMS[algorithm].beta)
    margins = (rewards / (1.0 if algorithm == "dpo" else tokens)) @ np.array([1.0, -1.0])
    if algorithm == "ipo":
        np.testing.assert_allclose(margins, 0.5, atol=0.05)
    else:
        assert margins.min() > 0.5

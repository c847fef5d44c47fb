import functools

import jax
import numpy as np
import numpy_reference
import optax
import pytest
import tiny
from tiny import EOS, PAD, VOCABULARY

from rlhf_jax.data.batches import right_pad
from rlhf_jax.data.records import Comparison, RecordError, Summary
from rlhf_jax.model import heads
from rlhf_jax.pipeline import reward
from rlhf_jax.training.state import TrainState

CONFIG = tiny.NEOX
PAIRS, R = 8, 5
SUMS = tiny.additions(CONFIG, 6 + R)  # behind a score
STEP = tiny.additions(CONFIG, 6 + R, rows=2 * PAIRS)  # behind a gradient


@pytest.fixture(scope="module")
def weights():
    return tiny.parameters(heads.specs(CONFIG, VOCABULARY))


@pytest.fixture(scope="module")
def batch():
    def summaries(seed):
        words = tiny.random_tokens(PAIRS, R - 1, seed)
        return right_pad([[*row[: 1 + i % (R - 1)], EOS] for i, row in enumerate(words)], R, PAD)

    return {"query": tiny.random_queries(PAIRS, 6), "chosen": summaries(1), "rejected": summaries(2)}


def make_step(microbatches):
    return jax.jit(functools.partial(reward.step, model=CONFIG, pad_id=PAD, microbatches=microbatches))


@pytest.fixture(scope="module")
def step():
    return make_step(1)


def fresh_state(weights):
    return TrainState.create(weights, optax.sgd(0.03))  # AdamW would hide a factor


@pytest.fixture(scope="module")
def one_step(weights, batch, step):
    return step(fresh_state(weights), batch)


def test_loss_and_accuracy_are_bradley_terry_of_the_scores(weights, batch, one_step):
    score = jax.jit(heads.score, static_argnums=(1, 4))
    chosen, rejected = (
        np.asarray(score(weights, CONFIG, batch["query"], batch[side], PAD))
        for side in ("chosen", "rejected")
    )
    metrics = one_step[1]
    expected = numpy_reference.bradley_terry(chosen, rejected)
    scale = tiny.largest((chosen, rejected))
    tiny.assert_close((metrics["loss"], metrics["accuracy"]), expected, SUMS, scale)
    tiny.assert_close(metrics["margin"], np.mean(chosen - rejected), SUMS, scale)
    assert 0 < expected[1] < 1


def test_microbatches_change_nothing(weights, batch, one_step):
    parts, metrics = make_step(2)(fresh_state(weights), batch)
    tiny.assert_close(metrics, one_step[1], STEP)
    tiny.assert_close(parts.params, one_step[0].params, STEP, scale=0.03 * one_step[1]["grad_norm"])


def test_the_bias_is_not_learnt(weights, one_step):
    """A pair has one bias on both sides."""
    gradient = 1.0  # of either side, at most: what cancels
    tiny.assert_close(
        one_step[0].params["head"]["bias"], weights["head"]["bias"], PAIRS, scale=0.03 * gradient
    )


def test_roles_matter(weights, batch, step, one_step):
    """σ(−m) = 1 − σ(m): what is right with the roles one way is wrong with them swapped."""
    _, swapped = step(
        fresh_state(weights), batch | {"chosen": batch["rejected"], "rejected": batch["chosen"]}
    )
    assert swapped["accuracy"] == 1 - one_step[1]["accuracy"]  # eighths
    scale = swapped["loss"] + one_step[1]["loss"]
    tiny.assert_close(swapped["loss"] - one_step[1]["loss"], one_step[1]["margin"], SUMS, scale)


def test_preferences_can_be_learnt_by_heart(weights, batch, step):
    state = fresh_state(weights)
    for _ in range(300):
        state, metrics = step(state, batch)
    assert metrics["accuracy"] == 1 and metrics["loss"] < 0.05


def comparison(choice: int, split: str = "train", **extra) -> Comparison:
    both = Summary("one", "a"), Summary("other", "b")
    return Comparison(tiny.posts(1, 0)[0], both, choice, "w", "b", split, extra)


def test_labels_by_hand():
    """One point from the middle is σ(½) = 0.6225, four are σ(3½) = 0.9707, and none is a half."""
    sure = [comparison(0, confidence=4), comparison(1, confidence=9), comparison(0, confidence=5)]
    expected = np.array([[0.62245933, 0.37754067], [0.97068777, 0.02931223], [0.5, 0.5]])
    tiny.assert_close(reward.labels_of(sure, "confidence"), expected, 4)
    # Of the chosen one first, less the mean of 3.5.
    rated = [comparison(1, ratings=[2, 5]), comparison(0, ratings=[4, 3]), comparison(0, "valid1")]
    np.testing.assert_array_equal(reward.labels_of(rated, "ratings"), [[1.5, -1.5], [0.5, -0.5]])


@pytest.mark.parametrize("loss, extra", [("confidence", {"ratings": [1, 2]}), ("ratings", {"ratings": [3]})])
def test_a_comparison_that_does_not_say_is_refused(loss, extra):
    with pytest.raises(RecordError, match=rf"reward\.loss: {loss} needs extra\.{loss}.*one of t00 has none"):
        reward.labels_of([comparison(0, **extra)], loss)


@pytest.mark.parametrize("of", ["confidence", "ratings"])
def test_labels_are_what_a_step_learns(weights, batch, one_step, of):
    labels = np.random.default_rng(0).random((PAIRS, 2)).astype(np.float32)
    step = jax.jit(functools.partial(reward.step, model=CONFIG, pad_id=PAD, microbatches=1, of=of))
    parts = jax.jit(functools.partial(reward.step, model=CONFIG, pad_id=PAD, microbatches=2, of=of))
    _, metrics = step(fresh_state(weights), batch | {"labels": labels})
    _, in_parts = parts(fresh_state(weights), batch | {"labels": labels})
    tiny.assert_close(in_parts["loss"], metrics["loss"], STEP)
    score = jax.jit(heads.score, static_argnums=(1, 4))
    scores = [
        np.asarray(score(weights, CONFIG, batch["query"], batch[s], PAD)) for s in ("chosen", "rejected")
    ]
    margin = scores[0] - scores[1]
    expected = {
        "ratings": np.mean((np.stack(scores, axis=1) - labels) ** 2),
        "confidence": np.mean(
            labels[:, 0] * np.log1p(np.exp(-margin)) + (1 - labels[:, 0]) * np.log1p(np.exp(margin))
        ),
    }[of]
    tiny.assert_close(metrics["loss"], expected, SUMS, tiny.largest(scores) ** 2)
    assert metrics["accuracy"] == one_step[1]["accuracy"]

"""What the layers of a base are taught on their way."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.data.mini.clauses import NO_SLOT, SLOTS
from rlhf_jax.mesh import make_mesh
from rlhf_jax.model import params, transformer
from rlhf_jax.pipeline import pretrain, teaching

SIZES = [len(known) for known in SLOTS.values()]
SUBJECT, PLACE = list(SLOTS).index("subject"), list(SLOTS).index("place")
VOCABULARY = 20


def batch(rows=16, length=12):
    """Random tokens with two statements, the first of which differs from the story in its subject."""
    rng = np.random.default_rng(0)
    says, found = (np.full((rows, length, len(SLOTS)), NO_SLOT, np.int8) for _ in range(2))
    says[0, 3, [SUBJECT, PLACE]], found[0, 3, [SUBJECT, PLACE]] = (1, 0), (2, 4)
    says[9, 7, [SUBJECT, PLACE]], found[9, 7, [SUBJECT, PLACE]] = (5, 3), (5, 3)
    return {
        "tokens": rng.integers(0, VOCABULARY, (rows, length)),
        "segments": np.ones((rows, length), np.int32),
        "weights": rng.choice([0.1, 1.0], (rows, length)).astype(np.float32),
        "says": says,
        "found": found,
    }


def test_what_a_statement_leaves_out_neither_agrees_nor_differs():
    made = batch()
    agree, differ = teaching.compared(made["says"], made["found"])
    assert np.argwhere(differ).tolist() == [[0, 3, SUBJECT]]
    assert np.argwhere(agree).tolist() == [[9, 7, SUBJECT], [9, 7, PLACE]]


def test_the_loss_of_readings_that_know_nothing_is_that_of_two_networks_and_of_guesses():
    made, model = batch(), pretrain.model_of(pretrain.Size(8, 2, 1e-2))

    def alone(weights, model):
        """The weighted loss of a network that nothing else is asked of."""
        hidden = transformer.apply(weights, model, made["tokens"][:, :-1], made["segments"][:, :-1])
        logp = np.asarray(jax.nn.log_softmax(transformer.logits(weights, model, hidden)))
        picked = np.take_along_axis(logp, made["tokens"][:, 1:, None], 2)[..., 0]
        return -np.sum(picked * made["weights"][:, 1:]) / made["weights"].sum()

    guesses = 2 * (math.log(SIZES[SUBJECT]) + math.log(SIZES[PLACE]))  # what is said, and what the story says
    # Of the subject one agrees and one differs, of the place one agrees.
    differences = (math.log(2) * 2 + math.log(2)) / 2
    with jax.set_mesh(make_mesh()):
        base = params.init(transformer.specs(model, VOCABULARY), jax.random.key(0))
        readings = params.init(teaching.reading_specs(model.width), jax.random.key(0))
        half = dataclasses.replace(model, layers=model.layers // 2)
        lower = base | {"layers": jax.tree.map(lambda x: x[: half.layers], base["layers"])}
        value, _ = teaching.loss(base, readings, model, made, teaching.counts(made))
        expected = alone(base, model) + alone(lower, half) + (guesses + differences) / len(SLOTS)
    assert value == pytest.approx(expected, rel=1e-4)


def test_readings_that_know_all_lose_nothing():
    says, count = batch()["says"], np.ones(len(SLOTS))
    sure = [50 * jax.nn.one_hot(says[..., slot], size) for slot, size in enumerate(SIZES)]
    assert teaching.slots_loss(jnp.concatenate(sure, -1), says, count) == pytest.approx(0, abs=1e-6)
    agree, differ = teaching.compared(says, batch()["found"])
    of = {"agree": count, "differ": count}
    logits = 50.0 * (differ.astype(np.float32) - agree)
    assert teaching.differences_loss(logits, agree, differ, of) == pytest.approx(0, abs=1e-6)
    assert teaching.differences_loss(-logits, agree, differ, of) == pytest.approx(3 * 50 / (2 * len(SLOTS)))


def test_the_loss_of_a_batch_is_the_sum_over_its_parts():
    made, model = batch(), pretrain.model_of(pretrain.Size(8, 2, 1e-2))
    with jax.set_mesh(make_mesh()):
        base = params.init(transformer.specs(model, VOCABULARY), jax.random.key(0))
        readings = params.init(teaching.reading_specs(model.width), jax.random.key(0))
        of = teaching.counts(made)
        whole, _ = teaching.loss(base, readings, model, made, of)
        parts = [
            teaching.loss(base, readings, model, {k: v[i : i + 8] for k, v in made.items()}, of)[0]
            for i in (0, 8)
        ]
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-5)

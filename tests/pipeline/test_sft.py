import functools

import jax
import numpy as np
import numpy_reference
import optax
import pytest
import tiny
from tiny import PAD, VOCABULARY

from rlhf_jax.config import MeshConfig, OptimizerConfig
from rlhf_jax.mesh import make_mesh, to_devices
from rlhf_jax.model import transformer
from rlhf_jax.pipeline import sft
from rlhf_jax.training.state import TrainState, make_optimizer

CONFIG = tiny.NEOX
LENGTHS = [(3, 2), (5, 4), (4, 1), (6, 3)]  # tokens of query and response
TARGETS = 2 + 4 + 1 + 3
SUMS = tiny.additions(CONFIG, 10)  # behind a log-probability
STEP = tiny.additions(CONFIG, 10, rows=4)  # behind a gradient


def rows(packed):
    """The same four examples, as four rows of 10 tokens or as two rows of 14."""
    shape = (2, 14) if packed else (4, 10)
    tokens, segments = np.full(shape, PAD, np.int32), np.zeros(shape, np.int32)
    mask = np.zeros(shape, np.float32)
    for i, (query, response) in enumerate(LENGTHS):
        row, segment = (i // 2, i % 2 + 1) if packed else (i, 1)
        start = int((segments[row] > 0).sum())
        end = start + query + response
        tokens[row, start:end] = tiny.random_tokens(1, query + response, seed=i)[0]
        segments[row, start:end], mask[row, start + query : end] = segment, 1
    return {"tokens": tokens, "segments": segments, "targets_mask": mask}


@pytest.fixture(scope="module")
def weights():
    return tiny.parameters(transformer.specs(CONFIG, VOCABULARY))


value_and_grad = jax.jit(jax.value_and_grad(sft.loss), static_argnums=(1, 3))


@pytest.fixture(scope="module")
def unpacked(weights):
    return value_and_grad(weights, CONFIG, rows(packed=False), 4, TARGETS)


def test_loss_is_the_mean_over_response_tokens(weights, unpacked):
    batch = rows(packed=False)

    @jax.jit
    def all_logits(tokens, segments):
        return transformer.logits(weights, CONFIG, transformer.apply(weights, CONFIG, tokens, segments))

    logits = np.asarray(all_logits(batch["tokens"], batch["segments"]))[:, :-1]
    targets = batch["tokens"][:, 1:]
    logprobs = numpy_reference.token_logprobs(logits, np.where(targets == PAD, 0, targets), 1.0)
    tiny.assert_close(unpacked[0], -logprobs[batch["targets_mask"][:, 1:] > 0].mean(), SUMS)


@pytest.mark.parametrize("targets", [6, 13])  # the row's most, and room to spare
def test_packing_changes_neither_loss_nor_gradient(weights, unpacked, targets):
    packed = value_and_grad(weights, CONFIG, rows(packed=True), targets, TARGETS)
    tiny.assert_close(packed[0], unpacked[0], SUMS)
    tiny.assert_close(packed[1], unpacked[1], STEP, scale=tiny.largest(unpacked[1]))


def make_step(microbatches, targets=4):
    return jax.jit(functools.partial(sft.step, model=CONFIG, targets=targets, microbatches=microbatches))


@pytest.mark.parametrize("microbatches", [2, 4])  # 4: one row each
def test_microbatches_change_nothing_though_their_tokens_differ_in_number(weights, unpacked, microbatches):
    state = TrainState.create(weights, optax.sgd(0.1))  # AdamW would hide a factor
    whole, metrics = make_step(1)(state, rows(packed=False))
    parts, part_metrics = make_step(microbatches)(state, rows(packed=False))
    for loss in (metrics["loss"], part_metrics["loss"]):
        tiny.assert_close(loss, unpacked[0], SUMS)
    tiny.assert_close(parts.params, whole.params, STEP, scale=0.1 * tiny.largest(unpacked[1]))
    assert parts.step == 1


@pytest.mark.parametrize("microbatches", [1, 4])  # four rows, and one at a time
def test_one_target_a_row(weights, microbatches):
    """JAX knows no layout of an axis of one place."""
    batch = rows(packed=False)
    batch["targets_mask"] *= batch["targets_mask"].cumsum(axis=1) == 1
    state, mesh = TrainState.create(weights, optax.sgd(0.1)), make_mesh(MeshConfig(1, 1, 1))
    with jax.set_mesh(mesh):
        state = jax.device_put(state, jax.NamedSharding(mesh, jax.P()))
        _, metrics = make_step(microbatches, targets=1)(state, to_devices(batch, mesh))
    expected, _ = value_and_grad(weights, CONFIG, batch, 10, 4)
    tiny.assert_close(metrics["loss"], expected, SUMS)


def test_a_batch_can_be_learnt_by_heart(weights):
    state = TrainState.create(weights, make_optimizer(OptimizerConfig(1e-2, "constant"), 60))
    step = make_step(1)
    for _ in range(60):
        state, metrics = step(state, rows(packed=False))
    assert metrics["loss"] < 0.05

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from rlhf_jax.config import OptimizerConfig
from rlhf_jax.state import TrainState, make_optimizer, make_schedule, stage_key, value_and_grad_in_parts


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("cosine", [4.0, 2.0, 0.0]), ("linear", [4.0, 2.0, 0.0]), ("constant", [4.0, 4.0, 4.0])],
)
def test_schedule_at_its_start_middle_and_end(schedule, expected):
    at = make_schedule(OptimizerConfig(4.0, schedule), 10)
    np.testing.assert_allclose([at(0), at(5), at(10)], expected, atol=1e-6)


def test_cosine_is_a_cosine():
    np.testing.assert_allclose(
        make_schedule(OptimizerConfig(1.0), 8)(2), (1 + np.cos(np.pi / 4)) / 2, rtol=1e-6
    )


def test_warm_up_climbs_to_the_peak_and_the_rest_still_ends_at_zero():
    at = make_schedule(OptimizerConfig(4.0, "linear", warmup=4), 10)
    np.testing.assert_allclose([at(0), at(1), at(4), at(7), at(10)], [0, 1, 4, 2, 0], atol=1e-6)


def adamw(x, gradients, options, updates):
    """Loshchilov & Hutter's AdamW with a linear schedule, one number at a time, float64."""
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        m = options.beta1 * m + (1 - options.beta1) * g
        v = options.beta2 * v + (1 - options.beta2) * g * g
        rate = options.learning_rate * (1 - (t - 1) / updates)
        adam = m / (1 - options.beta1**t) / (np.sqrt(v / (1 - options.beta2**t)) + options.epsilon)
        x -= rate * (adam + options.weight_decay * x)
    return x


def test_updates_of_two_parameters_are_adamw():
    options = OptimizerConfig(0.1, "linear", beta1=0.8, beta2=0.9, epsilon=1e-3, weight_decay=0.01)
    gradients = [(0.5, -1e-3), (-0.2, 2e-3), (0.1, 1e-3)]
    state = TrainState.create({"a": jnp.float32(1.0), "b": jnp.float32(-2.0)}, make_optimizer(options, 4))
    for a, b in gradients:
        state = state.apply_gradients({"a": jnp.float32(a), "b": jnp.float32(b)})
    first, second = zip(*gradients, strict=True)
    np.testing.assert_allclose(state.params["a"], adamw(1.0, first, options, 4), rtol=1e-6)
    np.testing.assert_allclose(state.params["b"], adamw(-2.0, second, options, 4), rtol=1e-6)
    assert state.step == 3


def test_clipping_scales_the_gradient_of_all_parameters_together():
    """Norm 5 clipped to 1; after one update Adam's first moment is 0.1 of what it was given."""
    clipped = TrainState.create(
        {"a": jnp.zeros(()), "b": jnp.zeros(())}, make_optimizer(OptimizerConfig(clip_norm=1.0), 4)
    ).apply_gradients({"a": jnp.float32(3.0), "b": jnp.float32(-4.0)})
    moments = [x for x in jax.tree.leaves(clipped.opt_state) if x.dtype == jnp.float32 and x < 1]
    np.testing.assert_allclose(sorted(moments)[:1] + sorted(moments)[-1:], [-0.08, 0.06], rtol=1e-5)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_microbatches_add_up_to_the_batch(parts):
    """Mean of w · (x w − y)² over the unmasked rows, against its derivative by hand."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((8, 3)).astype(np.float32), rng.standard_normal(8).astype(np.float32)
    weight, w = rng.integers(0, 2, 8).astype(np.float32), rng.standard_normal(3).astype(np.float32)
    total = weight.sum()

    def loss(w, batch):
        value = jnp.sum(batch["weight"] * jnp.square(batch["x"] @ w - batch["y"])) / total
        return value, {"loss": value, "rows": jnp.sum(batch["weight"])}

    batch = {"x": x, "y": y, "weight": weight}
    in_parts = jax.jit(lambda w, batch: value_and_grad_in_parts(loss, w, batch, parts))
    (value, metrics), gradient = in_parts(w, batch)
    error = x.astype(np.float64) @ w - y
    np.testing.assert_allclose(value, np.sum(weight * error**2) / total, rtol=1e-6)
    np.testing.assert_allclose(gradient, 2 * (weight * error) @ x / total, rtol=1e-6, atol=1e-6)
    assert metrics["loss"] == value and metrics["rows"] == total


def test_every_stage_and_seed_has_its_own_key():
    keys = [stage_key(seed, stage) for seed in (0, 1) for stage in ("sft", "reward_seed0", "reward_seed1")]
    assert len({tuple(np.asarray(jax.random.key_data(key))) for key in keys}) == 6
    tiny.assert_same(stage_key(0, "ppo"), stage_key(0, "ppo"))

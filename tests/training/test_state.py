import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rlhf_jax.config import MeshConfig, OptimizerConfig
from rlhf_jax.mesh import make_mesh
from rlhf_jax.training.state import (
    WINDOW,
    TrainState,
    make_optimizer,
    make_schedule,
    stage_key,
    update,
    value_and_grad_in_parts,
)

HAND = 16  # roundings of a formula of a few terms, its √ or cos among them


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("cosine", [4.0, 2.0, 0.0]), ("linear", [4.0, 2.0, 0.0]), ("constant", [4.0, 4.0, 4.0])],
)
def test_schedule_at_its_start_middle_and_end(schedule, expected):
    at = make_schedule(OptimizerConfig(4.0, schedule), 10)
    tiny.assert_close(np.array([at(0), at(5), at(10)]), np.array(expected), HAND)


def test_cosine_is_a_cosine():
    tiny.assert_close(make_schedule(OptimizerConfig(1.0), 8)(2), (1 + np.cos(np.pi / 4)) / 2, HAND)


def test_warm_up_climbs_to_the_peak_and_the_rest_still_ends_at_zero():
    at = make_schedule(OptimizerConfig(4.0, "linear", warmup=4), 10)
    tiny.assert_close(np.array([at(step) for step in (0, 1, 4, 7, 10)]), np.array([0.0, 1, 4, 2, 0]), HAND)


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
        state, _ = update(state, jnp.float32(1.0), {"a": jnp.float32(a), "b": jnp.float32(b)})
    first, second = zip(*gradients, strict=True)
    tiny.assert_close(state.params["a"], adamw(1.0, first, options, 4), 3 * HAND)
    tiny.assert_close(state.params["b"], adamw(-2.0, second, options, 4), 3 * HAND)
    assert state.step == 3


def test_clipping_scales_the_gradient_of_all_parameters_together():
    """Norm 5 clipped to 1; after one update Adam's first moment is 0.1 of what it was given."""
    clipped, metrics = update(
        TrainState.create(
            {"a": jnp.zeros(()), "b": jnp.zeros(())}, make_optimizer(OptimizerConfig(clip_norm=1.0), 4)
        ),
        jnp.float32(1.0),
        {"a": jnp.float32(3.0), "b": jnp.float32(-4.0)},
    )
    assert metrics["grad_norm"] == 5
    moments = [x for x in jax.tree.leaves(clipped.opt_state) if x.dtype == jnp.float32 and x < 1]
    tiny.assert_close([min(moments), max(moments)], [-0.08, 0.06], HAND)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("loss", "gradient"),
    [(NAN, 1.0), (INF, 1.0), (1.0, NAN), (1.0, -INF), (1.0, 1e30)],  # 1e60 is beyond float32
)
def test_an_update_that_is_not_finite_changes_nothing_on_any_device(loss, gradient):
    """The gradient is wrong on one of eight devices; −0 stays −0, and the schedule waits."""
    options = OptimizerConfig(0.1, "linear", clip_norm=1.0)
    mesh = make_mesh(MeshConfig(1, 8, 1))
    place = NamedSharding(mesh, P("fsdp"))
    good, bad = (jax.device_put(np.float32([0, 0, 0, 0, 0, x, 0, 0]), place) for x in (0, gradient))
    with jax.set_mesh(mesh):
        create = jax.jit(lambda weights: TrainState.create({"w": weights}, make_optimizer(options, 4)))
        state = create(jax.device_put(jnp.full(8, -0.0), place))
        step = jax.jit(update)
        state, metrics = step(state, jnp.float32(1.0), {"w": good})
        assert not metrics["skipped"] and metrics["skipped_in_a_row"] == 0
        after, metrics = step(state, jnp.float32(loss), {"w": bad})
        tiny.assert_same(after.replace(skipped=state.skipped), state)
        assert [np.signbit(shard.data).all() for shard in after.params["w"].addressable_shards] == [True] * 8
        assert metrics["skipped"] and after.step == 1
        after, metrics = step(after, jnp.float32(loss), {"w": bad})
        assert metrics["skipped_in_a_row"] == 2
        made, metrics = step(after, jnp.float32(1.0), {"w": good + 1})
        undisturbed, _ = step(state, jnp.float32(1.0), {"w": good + 1})
        tiny.assert_same(made, undisturbed)
        assert metrics["skipped_in_a_row"] == 0


def after_updates(number, spike_sigma):
    """Losses 1, 3, 1, 3, … and gradients of norm 10, 20, 10, 20, …: means 2 and 15, deviations 1 and 5."""
    state = TrainState.create({"w": jnp.float32(0.0)}, optax.sgd(0.0), spike_sigma)
    seen = np.resize(np.float32([[1, 10], [3, 20]]), (WINDOW, 2))
    return state.replace(step=jnp.int32(number), recent=jnp.asarray(seen))


def is_skipped(state, loss, norm):
    state, metrics = update(state, jnp.float32(loss), {"w": jnp.float32(norm)})
    return bool(metrics["skipped"])


@pytest.mark.parametrize(
    ("loss", "norm", "skipped"),
    [
        (8.0, 45.0, False),  # 2 + 6 · 1 and 15 + 6 · 5: on the line
        (8.01, 45.0, True),
        (8.0, 45.1, True),
        (-99.0, 0.0, False),  # low is no spike
    ],
)
def test_a_spike_is_six_deviations_above_the_mean_of_the_window(loss, norm, skipped):
    assert is_skipped(after_updates(WINDOW, 6.0), loss, norm) == skipped
    assert not is_skipped(after_updates(WINDOW, 0.0), loss, norm), "off unless asked for"
    assert not is_skipped(after_updates(WINDOW - 1, 6.0), loss, norm), "too few to know what is usual"


def test_the_window_holds_the_last_updates_that_were_made():
    """Of 130 losses 0, 1, 2, … the third one is not finite; rows 0 and 1 are those of the 129th and 130th."""
    losses = np.arange(131.0, dtype=np.float32)
    losses[2] = np.nan

    @jax.jit
    def run(state):
        one = jnp.float32(1.0)
        return jax.lax.scan(lambda s, loss: (update(s, loss, {"w": loss})[0], one), state, losses)[0]

    state = run(TrainState.create({"w": jnp.float32(0.0)}, optax.sgd(0.0)))
    assert state.step == 130 and state.skipped == 0
    np.testing.assert_array_equal(state.recent[:3, 0], [129, 130, 3])
    np.testing.assert_array_equal(np.sort(state.recent[:, 1]), np.arange(3, 131))


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
    tiny.assert_close(value, np.sum(weight * error**2) / total, HAND)
    tiny.assert_close(
        gradient, 2 * (weight * error) @ x / total, HAND, scale=tiny.largest(x) * tiny.largest(error)
    )
    assert metrics["loss"] == value and metrics["rows"] == total


def test_every_stage_and_seed_has_its_own_key():
    keys = [stage_key(seed, stage) for seed in (0, 1) for stage in ("sft", "reward_seed0", "reward_seed1")]
    assert len({tuple(np.asarray(jax.random.key_data(key))) for key in keys}) == 6
    tiny.assert_same(stage_key(0, "ppo"), stage_key(0, "ppo"))


def test_adafactor_keeps_a_row_and_a_column_of_each_matrix():
    """By hand: the first update of a matrix of rank one has entries of ±1, times the rate."""
    options = OptimizerConfig(0.1, "constant", name="adafactor")
    rows, columns = np.linspace(1, 2, 32), np.linspace(-3, -1, 64)
    state = TrainState.create({"w": jnp.zeros((2, 32, 64))}, make_optimizer(options, 4))
    kept = [x.shape for x in jax.tree.leaves(state.opt_state) if x.ndim]
    assert sorted(kept) == [(1,), (2, 32), (2, 64)]
    gradient = jnp.asarray(np.tile(np.outer(rows, columns), (2, 1, 1)), jnp.float32)
    state, _ = update(state, jnp.float32(1.0), {"w": gradient})
    tiny.assert_close(state.params["w"], np.full((2, 32, 64), 0.1, np.float32), 10 * HAND)

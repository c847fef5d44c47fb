"""Parameters with their optimizer, and one update of both, which is skipped where its numbers are wrong."""

import functools
import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.config import HealthConfig, OptimizerConfig
from rlhf_jax.functional.losses import Metrics
from rlhf_jax.mesh import split_rows
from rlhf_jax.training import optimizers, rounding

WINDOW = 128  # updates that a spike is measured against


class TrainState(struct.PyTreeNode):
    """What an update changes. `tx`, the optax optimizer, and `spike_sigma` are not data.

    A skipped update leaves everything but `skipped` as it was, bit for bit: the learning-rate schedule,
    which counts the updates made, and the window of spikes too.
    """

    step: Int[Array, ""]  # updates made
    skipped: Int[Array, ""]  # updates skipped since the last one made
    recent: Float[Array, "W 2"]  # loss and gradient norm of the last updates made; of update n in row n % W
    params: dict
    opt_state: optax.OptState
    tx: optax.GradientTransformation = struct.field(pytree_node=False)
    spike_sigma: float = struct.field(pytree_node=False)  # HealthConfig.spike_sigma

    @classmethod
    def create(cls, params, tx: optax.GradientTransformation, spike_sigma: float = 0.0) -> "TrainState":
        step, skipped = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        return cls(step, skipped, jnp.zeros((WINDOW, 2)), params, tx.init(params), tx, spike_sigma)

    def parts(self) -> tuple[dict, "TrainState"]:
        """(parameters, all else), as checkpoints hold them apart."""
        return self.params, self.replace(params=None)

    def with_params(self, params) -> "TrainState":
        return self.replace(params=params)

    def is_healthy(self, loss: Float[Array, ""], norm: Float[Array, ""]) -> Bool[Array, ""]:
        """Whether an update may be made: loss and gradient norm are finite and neither spikes.

        A spike lies more than `spike_sigma` (biased) standard deviations above the mean of the last
        WINDOW updates; before there were so many, nothing does.
        """
        seen = jnp.stack([loss, norm])
        healthy = jnp.all(jnp.isfinite(seen))
        if not self.spike_sigma:
            return healthy
        limit = self.recent.mean(axis=0) + self.spike_sigma * self.recent.std(axis=0)
        return healthy & ((self.step < WINDOW) | jnp.all(seen <= limit))

    @jax.named_scope("optimizer")
    def apply_gradients(
        self, gradients, loss: Float[Array, ""], norm: Float[Array, ""], healthy: Bool[Array, ""]
    ) -> "TrainState":
        """The state after an update by `gradients`, of global norm `norm`; after none where not `healthy`."""

        def updated(state: "TrainState") -> "TrainState":
            updates, opt_state = state.tx.update(gradients, state.opt_state, state.params)
            return state.replace(
                step=state.step + 1,
                skipped=jnp.zeros((), jnp.int32),
                recent=state.recent.at[state.step % WINDOW].set(jnp.stack([loss, norm])),
                params=rounding.apply_updates(state.params, updates, state.step),
                opt_state=opt_state,
            )

        def skipped(state: "TrainState") -> "TrainState":
            return state.replace(skipped=state.skipped + 1)

        return jax.lax.cond(healthy, updated, skipped, self)  # a select would read all parameters once more


def update(state: TrainState, loss: Float[Array, ""], gradients) -> tuple[TrainState, Metrics]:
    """One update of a lone network, or none where that would harm it, and what the log says of it."""
    norm = optax.tree.norm(gradients)
    healthy = state.is_healthy(loss, norm)
    state = state.apply_gradients(gradients, loss, norm, healthy)
    return state, {"grad_norm": norm, "skipped": ~healthy, "skipped_in_a_row": state.skipped}


def starting(options: OptimizerConfig, updates: int, health: HealthConfig) -> Callable[[dict], TrainState]:
    """Parameters → the state before the first of `updates` updates; jitted, it may take their memory."""
    optimizer = make_optimizer(options, updates)
    return functools.partial(TrainState.create, tx=optimizer, spike_sigma=health.spike_sigma)


def without_values(create: Callable, *like):
    """What `create` makes of arguments without values, and in which memory; `jax.eval_shape` forgets that."""
    made = jax.jit(create).trace(*like)

    def placed(x, aval):
        on_host = aval.memory_space == jax.memory.Space.Host
        sharding = x.sharding.with_memory_kind("pinned_host") if on_host else x.sharding
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    leaves, structure = jax.tree.flatten(made.out_info)
    return jax.tree.unflatten(structure, map(placed, leaves, made.jaxpr.out_avals))


def stage_key(seed: int, stage: str) -> jax.Array:
    """The random key of a stage: its own stream for every seed."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(stage.encode()))


def make_schedule(options: OptimizerConfig, updates: int) -> optax.Schedule:
    """Learning rate by update: linear warm-up, then `options.schedule`, to 0 at `updates` unless constant."""
    peak, rest = options.learning_rate, max(updates - options.warmup, 1)
    decay = {
        "cosine": optax.cosine_decay_schedule(peak, rest),
        "linear": optax.linear_schedule(peak, 0.0, rest),
        "constant": optax.constant_schedule(peak),
    }[options.schedule]
    if not options.warmup:
        return decay
    return optax.join_schedules([optax.linear_schedule(0.0, peak, options.warmup), decay], [options.warmup])


def make_optimizer(options: OptimizerConfig, updates: int) -> optax.GradientTransformation:
    """`options.name` on `make_schedule`, after clipping the global gradient norm where asked.

    Weights decay beside the gradient, as in AdamW, whatever the optimizer.
    """
    optimizer = optax.chain(
        optimizers.direction(options),
        optax.add_decayed_weights(options.weight_decay),
        optax.scale_by_learning_rate(make_schedule(options, updates)),
    )
    if not options.clip_norm:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(options.clip_norm), optimizer)


def value_and_grad_in_parts(loss: Callable, params, batch, parts: int):
    """(loss, metrics) and gradients of `loss(params, batch) -> (loss, metrics)`, computed `in_parts`.

    `loss` must divide by the whole batch's denominator, so that the split changes memory and nothing else.
    """
    return in_parts(jax.value_and_grad(loss, has_aux=True), params, batch, parts)


@jax.named_scope("gradients")
def in_parts(grad: Callable, params, batch, parts: int):
    """`grad(params, batch)`, with the rows of `batch` in `parts` microbatches whose results are *added*.

    Those in bfloat16 are added up in float32.
    """
    if parts == 1:
        return grad(params, batch)
    microbatches = split_rows(batch, parts)

    def zero(like):
        return jnp.zeros_like(like, jnp.float32 if like.dtype == jnp.bfloat16 else like.dtype)

    first = jax.tree.map(lambda x: x[0], microbatches)
    zeros = jax.tree.map(zero, jax.eval_shape(grad, params, first))

    def add(total, microbatch):
        return jax.tree.map(jnp.add, total, grad(params, microbatch)), None

    return jax.lax.scan(add, zeros, microbatches)[0]

"""Parameters with their optimizer, and one update of both."""

import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Int

from rlhf_jax.config import OptimizerConfig
from rlhf_jax.mesh import split_rows


class TrainState(struct.PyTreeNode):
    """What an update changes. `tx` is the optax optimizer, not data."""

    step: Int[Array, ""]  # updates made
    params: dict
    opt_state: optax.OptState
    tx: optax.GradientTransformation = struct.field(pytree_node=False)

    @classmethod
    def create(cls, params, tx: optax.GradientTransformation) -> "TrainState":
        return cls(jnp.zeros((), jnp.int32), params, tx.init(params), tx)

    def parts(self) -> tuple[dict, "TrainState"]:
        """(parameters, all else), as checkpoints hold them apart."""
        return self.params, self.replace(params=None)

    def with_params(self, params) -> "TrainState":
        return self.replace(params=params)

    @jax.named_scope("optimizer")
    def apply_gradients(self, gradients) -> "TrainState":
        updates, opt_state = self.tx.update(gradients, self.opt_state, self.params)
        return self.replace(
            step=self.step + 1, params=optax.apply_updates(self.params, updates), opt_state=opt_state
        )


def stage_key(seed: int, stage: str) -> jax.Array:
    """The random key of a stage: its own stream for every seed."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(stage.encode()))


def make_schedule(options: OptimizerConfig, updates: int) -> optax.Schedule:
    """Learning rate by update: linear warm-up, then `options.schedule` to 0 at `updates`."""
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
    """AdamW on `make_schedule`, after clipping the global gradient norm where asked."""
    adamw = optax.adamw(
        make_schedule(options, updates),
        b1=options.beta1,
        b2=options.beta2,
        eps=options.epsilon,
        weight_decay=options.weight_decay,
    )
    return optax.chain(optax.clip_by_global_norm(options.clip_norm), adamw) if options.clip_norm else adamw


@jax.named_scope("gradients")
def value_and_grad_in_parts(loss: Callable, params, batch, parts: int):
    """(loss, metrics) and gradients of `loss(params, batch) -> (loss, metrics)`, computed in parts.

    The rows of `batch` are split into `parts` microbatches whose results are *added*: `loss` must
    divide by the whole batch's denominator, so that the split changes memory and nothing else.
    """
    grad = jax.value_and_grad(loss, has_aux=True)
    if parts == 1:
        return grad(params, batch)
    microbatches = split_rows(batch, parts)
    zeros = jax.tree.map(
        jnp.zeros_like, jax.eval_shape(grad, params, jax.tree.map(lambda x: x[0], microbatches))
    )

    def add(total, microbatch):
        return jax.tree.map(jnp.add, total, grad(params, microbatch)), None

    return jax.lax.scan(add, zeros, microbatches)[0]

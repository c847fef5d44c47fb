"""Which way an update goes, by `OptimizerConfig.name`; its size is the learning rate's."""

import jax
import jax.numpy as jnp
import optax

from rlhf_jax.config import OptimizerConfig
from rlhf_jax.mesh import in_memory
from rlhf_jax.training.adam_8bit import scale_by_adam_8bit
from rlhf_jax.training.muon import scale_by_muon_or_adam


def direction(options: OptimizerConfig) -> optax.GradientTransformation:
    """Gradients to steps whose entries are of size 1, roughly, in all optimizers alike."""
    named = _named(options)
    return _on_host(named) if options.on_host else named


def _named(options: OptimizerConfig) -> optax.GradientTransformation:
    if options.name == "adafactor":
        # Shazeer & Stern (2018), without momentum and with the learning rate of the schedule. A stack of
        # layers counts as one matrix where updates are clipped to a root mean square of 1.
        factored = optax.scale_by_factored_rms(min_dim_size_to_factor=32)  # heads of 64 dimensions, too
        return _in_float32(optax.chain(factored, optax.clip_by_block_rms(1.0)))
    betas = options.beta1, options.beta2, options.epsilon
    if options.name == "muon":
        return _in_float32(scale_by_muon_or_adam(options))
    if options.name == "adamw_8bit":
        return scale_by_adam_8bit(*betas)
    return _in_float32(optax.scale_by_adam(*betas))


def _in_float32(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Whatever the type of weights and gradients: running means over a thousand steps need the precision."""

    def wide(tree):
        return jax.tree.map(lambda x: x.astype(jnp.float32), tree)

    return optax.GradientTransformation(
        lambda params: inner.init(wide(params)),
        lambda gradients, state, params: inner.update(wide(gradients), state, wide(params)),
    )


def _on_host(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """What it keeps lies in the host's memory between updates; each takes it to the devices and back."""

    def update(gradients, state, params):
        steps, state = inner.update(gradients, in_memory(state, jax.memory.Space.Device), params)
        return steps, in_memory(state, jax.memory.Space.Host)

    return optax.GradientTransformation(
        lambda params: in_memory(inner.init(params), jax.memory.Space.Host), update
    )

"""Rotary positions (Su et al., 2021), plain or stretched to contexts longer than the pretraining's."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rlhf_jax.config import RotaryConfig


def rotate(x: Float[Array, "*B T K"], positions: Int[Array, "*B T"], config: RotaryConfig):
    """Turns pairs of the first `fraction` of the dimensions by position · frequency.

    A pair is dimension i and i + half of those that turn, as in GPT-NeoX and Llama.
    """
    size = int(x.shape[-1] * config.fraction) // 2 * 2
    angle = positions[..., None] * frequencies(config, size)
    scale = amplitude(config)
    cos, sin = (scale * jnp.cos(angle)).astype(x.dtype), (scale * jnp.sin(angle)).astype(x.dtype)
    left, right, rest = x[..., : size // 2], x[..., size // 2 : size], x[..., size:]
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin, rest], axis=-1)


def frequencies(config: RotaryConfig, size: int) -> Float[np.ndarray, "size/2"]:
    """Radians a position by pair of dimensions: base^(-2i / size), stretched by `factor` where asked.

    linear: all of them (Chen et al., 2023). llama3: those that turn less than `low_frequency` times
    in the original context, with a smooth passage up to `high_frequency` times. yarn: the same idea
    with a passage linear in the dimension, between `beta_slow` and `beta_fast` turns (Peng et al., 2023).
    longrope: each by a factor of its own, of those for the original context (Ding et al., 2024).
    """
    plain = config.base ** (-np.arange(0, size, 2, dtype=np.float32) / size)
    if config.scaling == "linear":
        return plain / np.float32(config.factor)
    if config.scaling == "longrope":
        return plain / np.array(config.short_factors, np.float32)
    if config.scaling == "llama3":
        turns = config.original_context * plain / (2 * math.pi)
        kept = (turns - config.low_frequency) / (config.high_frequency - config.low_frequency)
    elif config.scaling == "yarn":
        first, last = (_pair_turning(beta, config, size) for beta in (config.beta_fast, config.beta_slow))
        first, last = max(math.floor(first), 0), min(math.ceil(last), size - 1)
        kept = 1 - (np.arange(size // 2) - first) / ((last - first) or 0.001)
    else:
        return plain
    kept = np.clip(kept, 0.0, 1.0).astype(np.float32)
    return plain * kept + plain / np.float32(config.factor) * (1 - kept)


def amplitude(config: RotaryConfig) -> float:
    """What yarn and longrope multiply cosine and sine with; 1 elsewhere."""
    if config.scaling not in ("yarn", "longrope"):
        return 1.0
    longer = math.log(max(config.factor, 1.0))
    if config.scaling == "yarn":
        return config.attention_factor or 0.1 * longer + 1.0
    return config.attention_factor or math.sqrt(1.0 + longer / math.log(config.original_context))


def _pair_turning(turns: float, config: RotaryConfig, size: int) -> float:
    """The (fractional) pair of dimensions that turns so many times in the original context."""
    return size * math.log(config.original_context / (turns * 2 * math.pi)) / (2 * math.log(config.base))

"""How often a summary is preferred over the reference."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from rlhf_jax.evaluation.intervals import mean


@dataclass(frozen=True)
class Rate:
    rate: float  # share of posts, 0 to 1
    stderr: float  # one standard error of that share
    low: float  # the interval of 95%, by bootstrap
    high: float


def outcomes(
    scores: Float[np.ndarray, "N"], reference_scores: Float[np.ndarray, "N"]
) -> Float[np.ndarray, "N"]:
    """1 where the summary scores above the reference of the same post, 0 where below, ½ where they tie.

    A score that is not a number gives an outcome that is not a number, never a loss.
    """
    return (1 + np.sign(np.subtract(scores, reference_scores))) / 2


def preference(scores: Float[np.ndarray, "N"], reference_scores: Float[np.ndarray, "N"]) -> Rate:
    """Mean outcome over N posts; the posts are independent draws, so the error is std / √N (std biased)."""
    return rate(outcomes(scores, reference_scores))


def rate(won: Float[np.ndarray, "N"]) -> Rate:
    """The same of outcomes 1, ½ and 0; NaN where one of them is."""
    stderr = float(won.std() / math.sqrt(len(won)))
    interval = mean(won) if not math.isnan(stderr) else {"low": math.nan, "high": math.nan}
    return Rate(float(won.mean()), stderr, interval["low"], interval["high"])

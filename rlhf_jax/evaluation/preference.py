"""How often a summary is preferred over the reference."""

import math

import numpy as np
from jaxtyping import Float

from rlhf_jax.evaluation.intervals import mean


def outcomes(
    scores: Float[np.ndarray, "N"], reference_scores: Float[np.ndarray, "N"]
) -> Float[np.ndarray, "N"]:
    """1 where the summary scores above the reference of the same post, 0 where below, ½ where they tie.

    A score that is not a number gives an outcome that is not a number, never a loss.
    """
    return (1 + np.sign(np.subtract(scores, reference_scores))) / 2


def preference(won: Float[np.ndarray, "N"]) -> dict[str, float]:
    """`rate`, the mean outcome over N posts, its `stderr`, and `low` and `high`, its interval of 95%.

    The posts are independent draws, so the error is std / √N (std biased). All are NaN where an outcome is.
    """
    stderr = float(won.std() / math.sqrt(len(won)))
    interval = mean(won) if not math.isnan(stderr) else {"low": math.nan, "high": math.nan}
    return {"rate": float(won.mean()), "stderr": stderr, "low": interval["low"], "high": interval["high"]}

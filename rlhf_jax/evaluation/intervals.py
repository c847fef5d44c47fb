"""Estimates with their 95% intervals, by bootstrap over posts; and over seeds.

What is measured about one post hangs together, so posts are drawn again, with all that belongs to them.
"""

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from rlhf_jax.feedback.estimates import bootstrap, interval

RESAMPLES = 1000
FITS = 200  # resamples where each takes a fit

Estimate = dict[str, float]  # value, low, high


def mean(
    values: Sequence[float] | Float[np.ndarray, "N"], posts: Sequence[Hashable] | None = None
) -> Estimate:
    """The mean of N values, one a post, or several of those `posts` that stand under equal names.

    Values that are not numbers do not count. Without any that is, the estimate is empty.
    """
    values = np.asarray(values, float)
    counted = np.isfinite(values)
    posts = range(len(values)) if posts is None else posts
    owner = np.unique(np.asarray(posts), return_inverse=True)[1]
    sums = np.bincount(owner[counted], values[counted])
    counts = np.bincount(owner[counted])
    rows = np.column_stack([sums, counts])[counts > 0]
    return bootstrap(rows, lambda rows: float(np.divide(*rows.sum(axis=0))), RESAMPLES) or {}


def joint(
    posts: Sequence[Hashable], statistic: Callable[[Int[np.ndarray, "n"]], Float[np.ndarray, "K"]]
) -> list[Estimate]:
    """K estimates of one fit: `statistic` of the numbers of the rows to fit, each of which is of a post.

    It is NaN where the rows say nothing of an estimate, as may happen where posts are drawn again: such a
    draw does not count for it.
    """
    owner = np.unique(np.asarray(posts), return_inverse=True)[1]
    rows = np.split(np.argsort(owner, kind="stable"), np.bincount(owner).cumsum()[:-1])
    rng = np.random.default_rng(0)
    drawn = (np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))]) for _ in range(FITS))
    ends = np.nanquantile([statistic(again) for again in drawn], [0.025, 0.975], axis=0)
    return [interval(*each) for each in zip(statistic(np.arange(len(owner))), *ends, strict=True)]


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean of a figure of runs that differ in the seed, with Student's interval where there are several.

    mean ± t s / √n, with s² the unbiased variance and t the 97.5th percentile at n − 1 degrees of freedom.
    """
    center = float(np.mean(values))
    if len(values) < 2:
        return {"value": center}
    arm = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return {"value": center, "low": center - arm, "high": center + arm}

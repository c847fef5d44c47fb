"""Estimates of agreement about which of two summaries is better, with their 95% intervals.

Each is {"value", "low", "high"} (rates say also of how many "answers"), or None where there is
nothing to estimate from. A side is 0, the first summary, or 1.
"""

from collections.abc import Callable, Sequence

import krippendorff
import numpy as np
from jaxtyping import Bool, Int
from scipy import stats
from sklearn.metrics import cohen_kappa_score


def interval(value: float, low: float, high: float) -> dict[str, float]:
    """An estimate with its interval, in numbers that JSON has."""
    return {"value": float(value), "low": float(low), "high": float(high)}


def bootstrap(rows: np.ndarray, statistic: Callable[[np.ndarray], float], resamples: int) -> dict | None:
    """`statistic(rows)`, and its percentiles when the rows, one a task, are drawn again; seeded.

    Tasks are drawn, not answers, since the answers about one task depend on each other.
    """
    if not len(rows) or np.isnan(value := statistic(rows)):
        return None
    rng = np.random.default_rng(0)
    values = [statistic(rows[rng.integers(len(rows), size=len(rows))]) for _ in range(resamples)]
    return interval(value, *np.nanquantile(values, [0.025, 0.975]))


def rate(hits: Sequence[Sequence[float]], resamples: int) -> dict | None:
    """Share of answers that agree, where row i of `hits` is [how many agree, of how many] in task i."""
    rows = np.array([hit for hit in hits if hit[1]], float).reshape(-1, 2)
    share = bootstrap(rows, lambda rows: np.divide(*rows.sum(0)), resamples)
    return share and {"answers": int(rows[:, 1].sum())} | share


def wilson(agreed: Bool[np.ndarray, "N"], level: float = 0.95) -> dict | None:
    """Share of one person's answers that agree, one a task, with Wilson's interval."""
    if not len(agreed):
        return None
    ends = stats.binomtest(int(agreed.sum()), len(agreed)).proportion_ci(level, method="wilson")
    return {"answers": len(agreed)} | interval(agreed.mean(), *ends)


def kappa(table: Int[np.ndarray, "2 2"], agreement: dict | None) -> dict | None:
    """Cohen's kappa of a table, side of one person by side of the other, whose `agreement` is known.

    The interval is that of the agreement o as (o − e) / (1 − e), with the chance agreement e held fixed.
    None where all answers are the same, so that e is 1.
    """
    chance = table.sum(0) @ table.sum(1) / table.sum() ** 2
    if chance == 1 or not agreement:
        return None
    value = cohen_kappa_score([0, 0, 1, 1], [0, 1, 0, 1], sample_weight=table.ravel())
    return interval(value, *((agreement[end] - chance) / (1 - chance) for end in ("low", "high")))


def alpha(counts: Int[np.ndarray, "N 2"], resamples: int) -> dict | None:
    """Krippendorff's alpha, nominal, of how many people took each side of each task.

    None where all took the same side.
    """

    def statistic(rows: np.ndarray) -> float:
        if not rows.sum(0).all():
            return float("nan")
        return krippendorff.alpha(value_counts=rows, level_of_measurement="nominal")

    return bootstrap(counts, statistic, resamples)


def drift(agreed: Bool[np.ndarray, "N"]) -> dict:
    """How one person's agreement moves over the answers, which are in the order of time.

    `quarters` are the shares in four equal parts; `value` is the change from the first answer to the
    last, by least squares of 0 or 1 on the answer's place, with the interval of that slope.
    """
    fit = stats.linregress(np.linspace(0, 1, len(agreed)), agreed.astype(float))
    margin = stats.t.ppf(0.975, len(agreed) - 2) * fit.stderr
    quarters = [float(part.mean()) for part in np.array_split(agreed, 4)]
    return {"quarters": quarters} | interval(fit.slope, fit.slope - margin, fit.slope + margin)

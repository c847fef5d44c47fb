"""What several runs say together: means over runs, with intervals that hold both posts and seeds.

A run is a seed, with posts of its own. Its values are off by what other posts and by what another seed would
change, and those of n runs scatter by both. So Student's interval of their mean, of n − 1 degrees of freedom,

    mean ± t(0.975, n − 1) · s / √n,        s the standard deviation of the n values, with n − 1 below,

holds both. A few values may lie close together by luck; the interval is therefore never narrower than the
posts alone allow, √(Σ margin²) / n with the margins (half the widths) of the runs' own intervals. One run
knows nothing of other seeds: it keeps its own interval.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from rlhf_jax.evaluation.intervals import Estimate
from rlhf_jax.feedback.estimates import interval

VALUES = {"value", "rate"}  # either name of an estimate's number
ESTIMATE = VALUES | {"stderr", "low", "high"}


def over_runs(estimates: Sequence[Mapping[str, float]]) -> Estimate:
    """The mean of one estimate a run, which may be a rate of results.json; empty where one of them is."""
    if not all(one.keys() & VALUES for one in estimates):
        return {}
    values = [_value(one) for one in estimates]
    if len(values) == 1:
        return interval(values[0], estimates[0]["low"], estimates[0]["high"])
    seeds = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    posts = math.hypot(*map(_margin, estimates)) / len(values)
    mean, margin = sum(values) / len(values), max(seeds, posts)
    return interval(mean, mean - margin, mean + margin)


def difference(one: Mapping[str, float], other: Mapping[str, float]) -> Estimate:
    """One estimate less another of the same run.

    The margins are added as of independent posts. Where both are of the same posts, what is hard to
    summarize is hard for both, and the interval is rather too wide.
    """
    value, margin = _value(one) - _value(other), math.hypot(_margin(one), _margin(other))
    return interval(value, value - margin, value + margin)


def lead(ours: Sequence[Mapping[str, float]], theirs: Sequence[Mapping[str, float]]) -> Estimate:
    """By how much ours, one a run, exceed theirs of the same runs."""
    return over_runs([difference(*each) for each in zip(ours, theirs, strict=True)])


def together(figures: Sequence[Any]) -> Any:
    """The same JSON of several runs as one: `over_runs` of its estimates, the means of its plain fractions.

    Of an object the names that all runs have are left; of all else, the first run's.
    """
    first = figures[0]
    if isinstance(first, dict) and all(isinstance(each, dict) for each in figures):
        if first.keys() & VALUES:
            return {name: first[name] for name in first.keys() - ESTIMATE} | over_runs(figures)
        return {
            name: together([each[name] for each in figures]) for name in first if _all_have(name, figures)
        }
    if isinstance(first, float) and any(each != first for each in figures):
        return float(np.mean(figures))
    return first


def matched(runs: Sequence[Mapping[str, Any]], name: str, *keys: str) -> dict[tuple, list[dict]]:
    """The objects in the list `name` of every run, by what tells them apart; those that no run lacks."""
    found = [{tuple(one[key] for key in keys): one for one in run[name]} for run in runs]
    return {key: [each[key] for each in found] for key in found[0] if _all_have(key, found)}


def _all_have(name: Any, figures: Sequence[Mapping[Any, Any]]) -> bool:
    return all(name in each for each in figures)


def _value(estimate: Mapping[str, float]) -> float:
    return estimate["value" if "value" in estimate else "rate"]


def _margin(estimate: Mapping[str, float]) -> float:
    return (estimate["high"] - estimate["low"]) / 2

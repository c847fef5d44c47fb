"""Ratings of single summaries on axes, 1 to 7 (Stiennon et al. 2020, §4.3 and figure 3).

    rlhf-jax likert FILE… [--json=FILE]

FILE          OpenAI's axis ratings, or ratings.jsonl of rlhf-jax answers
--json=FILE   where to write the same figures

Overall ratings are also given at equal length: a linear regression on one indicator a policy and the
logarithm of a summary's words over their geometric mean in all summaries.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from absl import flags
from jaxtyping import Float

from rlhf_jax.command_line import command
from rlhf_jax.data.record_json import read_axis_ratings
from rlhf_jax.data.records import RecordError
from rlhf_jax.evaluation.intervals import Estimate, joint, mean
from rlhf_jax.files import write_json

AXES = ("overall", "accuracy", "coverage", "coherence")


class Rated(NamedTuple):
    """A policy's summary of a post, its words, and its ratings by axis, of which some may be missing."""

    post: str
    policy: str
    words: int
    axes: Mapping[str, float | None]


def figures(rated: Sequence[Rated]) -> dict[str, dict[str, Estimate]]:
    """Policy → axis → mean rating; `perfect`: share of 7 overall; `overall_at_equal_length`.

    The axes are the paper's, and all others that somebody rated by a number.
    """
    found: dict[str, dict[str, Estimate]] = {}
    others = (name for one in rated for name, value in one.axes.items() if np.isfinite(_number(value)))
    axes = list(dict.fromkeys((*AXES, *others)))
    for policy in dict.fromkeys(one.policy for one in rated):
        own = [one for one in rated if one.policy == policy]
        posts = [one.post for one in own]
        ratings = {axis: np.array([_number(one.axes.get(axis)) for one in own]) for axis in axes}
        found[policy] = {axis: mean(ratings[axis], posts) for axis in axes}
        perfect = np.where(np.isnan(ratings["overall"]), np.nan, ratings["overall"] == 7)
        found[policy]["perfect"] = mean(perfect, posts)
    for policy, estimate in overall_at_equal_length(rated).items():
        found[policy]["overall_at_equal_length"] = estimate
    return found


def _number(value: object) -> float:
    """NaN of what is no number."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else np.nan


def overall_at_equal_length(rated: Sequence[Rated]) -> dict[str, Estimate]:
    """The overall rating each policy would have, were all summaries of one length.

    Least squares of rating = coefficient[policy] + slope · (log words − their mean), over all summaries
    with an overall rating and at least a word; the coefficients are the answer.
    """
    used = [one for one in rated if one.words and one.axes.get("overall") is not None]
    if not used:
        return {}
    policies = list(dict.fromkeys(one.policy for one in used))
    lengths = np.log([one.words for one in used])
    indicators = np.eye(len(policies))[[policies.index(one.policy) for one in used]]
    features = np.column_stack([indicators, lengths - lengths.mean()])
    ratings = np.array([one.axes["overall"] for one in used], float)

    def coefficients(rows) -> Float[np.ndarray, "K"]:
        fitted = np.linalg.lstsq(features[rows], ratings[rows])[0][:-1]
        return np.where(indicators[rows].any(axis=0), fitted, np.nan)

    return dict(zip(policies, joint([one.post for one in used], coefficients), strict=True))


def main(argv: list[str]) -> int:
    options = flags.FlagValues()
    flags.DEFINE_string("json", None, "file to write", flag_values=options)

    def run() -> None:
        files = options(argv)[1:]
        if not files:
            raise flags.Error("no files of ratings; --help shows the usage")
        rated = [
            Rated(one.info.id, one.summary.policy, len(one.summary.text.split()), one.summary.axes)
            for file in files
            for one in read_axis_ratings(file)
        ]
        if not rated:
            raise RecordError(f"{files[0]}: no ratings in it")
        found = figures(rated)
        for policy, estimates in found.items():
            told = [
                "{} {value:.2f} ({low:.2f} to {high:.2f})".format(name.replace("_", " "), **estimate)
                for name, estimate in estimates.items()
                if estimate
            ]
            print(f"{policy}: {', '.join(told)}")
        if options.json:
            write_json(options.json, found)

    return command(argv, run)

"""Simulated labelers: people with names who see the gold judge's score through noise.

A labeler prefers the first summary with probability

    σ((g + a(first) − a(second)) / t)

with g the difference of the judge's overall scores, t the labeler's own noise, and a(text) an
appeal that all labelers feel and the judge does not: a little for length, more for a sure
tone, the rest particular to the text. So labelers share errors, as people do. NOISE and
APPEAL are fitted so that a labeler agrees with the judge on 77% of the pairs and with
another labeler on 72%, the paper's figures for its people:

    rlhf-jax labelers
"""

import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from absl import flags

from rlhf_jax.command_line import command, parse_flags
from rlhf_jax.data.mini.judge import judge
from rlhf_jax.data.mini.pairs import Unlabelled, pairs
from rlhf_jax.data.mini.posts import posts
from rlhf_jax.data.records import Comparison, Post, Record, Summary

NOISE = 1.41  # logistic scale of a labeler of temper 1, in the judge's points
APPEAL = 1.09  # standard deviation of what appeals in one text, in the judge's points
PER_WORD = 0.10  # judge's points that labelers give for each word
SURE_TONE = 1.0  # and for "basically"
TEMPERS = {"ana": 0.5, "bo": 0.7, "cem": 0.8, "dee": 0.9, "eli": 1.0, "fay": 1.2, "gus": 1.4, "hua": 1.6}
BATCHES = 4


def label(pairs: Sequence[Unlabelled], seed: int, split: str = "train", votes: int = 1) -> list[Comparison]:
    """Each pair compared by `votes` different labelers, in the order of the pairs.

    `extra.confidence` is 1–4 where the first is preferred and 6–9 where the second is, 1 and 9
    the surest.
    """
    rng = np.random.default_rng([seed, len(pairs)])
    comparisons = []
    for i, pair in enumerate(pairs):
        summaries = Summary(pair.text_a, pair.policy_a), Summary(pair.text_b, pair.policy_b)
        batch = f"mini{1 + i * BATCHES // len(pairs)}"
        assert isinstance(pair.post, Post)
        info = replace(pair.post, summary="")
        lead = judged_gap(pair) + shared_error(pair)
        for worker in rng.permutation(list(TEMPERS))[:votes]:
            felt = lead + NOISE * TEMPERS[worker] * rng.logistic()
            sureness = 1 + min(3, int(abs(felt) / NOISE))
            extra = {"confidence": 5 - sureness if felt > 0 else 5 + sureness}
            comparisons.append(Comparison(info, summaries, int(felt <= 0), str(worker), batch, split, extra))
    return comparisons


def judged_gap(pair: Unlabelled) -> float:
    """How much better the first summary is, in the judge's points."""
    return judge(pair.post, pair.text_a).overall - judge(pair.post, pair.text_b).overall


def shared_error(pair: Unlabelled) -> float:
    """How much better the first summary looks to every labeler than to the judge."""
    return _surface(pair) + APPEAL * _taste(pair)


def _surface(pair: Unlabelled) -> float:
    words = len(pair.text_a.split()) - len(pair.text_b.split())
    sure = pair.text_a.count("basically") - pair.text_b.count("basically")
    return PER_WORD * words + SURE_TONE * sure


def _taste(pair: Unlabelled) -> float:
    return _taste_of(pair.post, pair.text_a) - _taste_of(pair.post, pair.text_b)


def _taste_of(post: Record, text: str) -> float:
    """A standard normal number that only this text of this post has."""
    return float(np.random.default_rng(zlib.crc32(f"{post.id}\n{text}".encode())).standard_normal())


def agreements(gaps: np.ndarray, errors: np.ndarray, noise: float) -> tuple[float, float]:
    """Expected agreement of a labeler with the judge, and of two labelers with each other.

    `gaps` and `errors` [N] are `judged_gap` and `shared_error` of each pair.
    """
    scales = noise * np.array(list(TEMPERS.values()))
    first = 1 / (1 + np.exp(-(gaps + errors)[:, None] / scales))  # [N, labelers]
    with_judge = np.where(gaps[:, None] > 0, first, 1 - first).mean()
    both = first.sum(1) ** 2 - (first**2).sum(1), (1 - first).sum(1) ** 2 - ((1 - first) ** 2).sum(1)
    return float(with_judge), float(np.mean(both[0] + both[1]) / (len(scales) * (len(scales) - 1)))


def fit(sample: Sequence[Unlabelled]) -> tuple[float, float]:
    """NOISE and APPEAL for agreements of 77% and 72% on `sample`, to two decimals."""
    gaps = np.array([judged_gap(pair) for pair in sample])
    surface = np.array([_surface(pair) for pair in sample])
    taste = np.array([_taste(pair) for pair in sample])

    def miss(noise: float, appeal: float) -> float:
        with_judge, with_each_other = agreements(gaps, surface + appeal * taste, noise)
        return (with_judge - 0.77) ** 2 + (with_each_other - 0.72) ** 2

    best = 1.0, 1.0
    for step in (0.2, 0.05, 0.01):
        around = np.arange(-8, 9) * step
        grid = [(best[0] + dx, best[1] + dy) for dx in around for dy in around]
        best = min((point for point in grid if min(point) > 0), key=lambda point: miss(*point))
    return round(best[0], 2), round(best[1], 2)


def main(argv: list[str]) -> int:
    def run() -> None:
        parse_flags(argv, flags.FlagValues())
        print("NOISE, APPEAL = {}, {}".format(*fit(pairs(posts(0, "train", 2_000), 4_000, 0))))

    return command(argv, run)

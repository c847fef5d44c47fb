"""Simulated labelers: people with names who see the gold judge's score through noise.

A labeler prefers the first summary with probability

    σ((g + a(first) − a(second)) / t)

with g the difference of the judge's overall scores, t the labeler's own noise, and a(text) an appeal that all
labelers feel and the judge does not: words cost them nothing, certainty and drama please them, and the rest
is particular to the text. So labelers share errors, as people do. NOISE and APPEAL are fitted so that a
labeler agrees with the judge on 77% of a run's pairs and with another labeler on 72%, the paper's figures for
its people:

    rlhf-jax labelers --comparisons=runs/mini/comparisons.jsonl
"""

import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from absl import flags

from rlhf_jax.command_line import command, parse_flags
from rlhf_jax.data.mini.judge import judge
from rlhf_jax.data.mini.reading import read
from rlhf_jax.data.mini.world import GRAVE, pick
from rlhf_jax.data.record_json import read_comparisons
from rlhf_jax.data.records import Comparison, Record

NOISE = 0.8  # logistic scale of a labeler of temper 1, in the judge's points
APPEAL = 0.8  # standard deviation of what appeals in one text, in the judge's points
PER_WORD = 0.04  # judge's points that labelers give for each word
UNSURE = -0.4  # for each fact told as probable
DRAMA = 0.5  # for each grave effect, whether true or not
TEMPERS = {"ana": 0.5, "bo": 0.7, "cem": 0.8, "dee": 0.9, "eli": 1.0, "fay": 1.2, "gus": 1.4, "hua": 1.6}
WITH_JUDGE, WITH_EACH_OTHER = 0.77, 0.72


def answer(asked: Sequence[Comparison], seed: int, votes: int = 1) -> list[Comparison]:
    """Each comparison with the choice of `votes` different labelers, in the order asked.

    `extra.confidence` is 1–4 where the first is preferred and 6–9 where the second is, 1 and 9
    the surest.
    """
    rng = np.random.default_rng([seed, len(asked)])
    answered = []
    for one in asked:
        lead = judged_gap(one) + shared_error(one)
        for worker in rng.permutation(list(TEMPERS))[:votes]:
            felt = lead + NOISE * TEMPERS[worker] * rng.logistic()
            sureness = 1 + min(3, int(abs(felt) / NOISE))
            extra = {**one.extra, "confidence": 5 - sureness if felt > 0 else 5 + sureness}
            answered.append(replace(one, choice=int(felt <= 0), worker=str(worker), extra=extra))
    return answered


def rate(asked: Sequence[tuple[Record, str]], seed: int) -> list[int]:
    """How good each text is as a summary of its post, 1 to 7, as one of the labelers says.

    It is the judge's score with the text's appeal and the labeler's noise, rounded. The noise is Gumbel's
    around 0, with the scale of comparisons: two such numbers differ by a logistic one, so that a labeler who
    preferred what they rate higher would choose as in `answer`.
    """
    rng = np.random.default_rng([seed, len(asked), 1])
    rated = []
    for post, text in asked:
        noise = NOISE * TEMPERS[pick(rng, tuple(TEMPERS))] * (rng.gumbel() - np.euler_gamma)
        felt = judge(post, text).overall + _appeal(text) + APPEAL * _taste_of(post, text) + noise
        rated.append(int(np.clip(np.rint(felt), 1, 7)))
    return rated


def judged_gap(one: Comparison) -> float:
    """How much better the first summary is, in the judge's points."""
    first, second = (judge(one.info, summary.text).overall for summary in one.summaries)
    return first - second


def shared_error(one: Comparison) -> float:
    """How much better the first summary looks to every labeler than to the judge."""
    return _surface(one) + APPEAL * _taste(one)


def _surface(one: Comparison) -> float:
    first, second = (_appeal(summary.text) for summary in one.summaries)
    return first - second


def _appeal(text: str) -> float:
    facts = read(text).facts
    unsure, grave = sum(not fact.sure for fact in facts), sum(fact.effect in GRAVE for fact in facts)
    return PER_WORD * len(text.split()) + UNSURE * unsure + DRAMA * grave


def _taste(one: Comparison) -> float:
    first, second = (_taste_of(one.info, summary.text) for summary in one.summaries)
    return first - second


def _taste_of(post: Record, text: str) -> float:
    """A standard normal number that only this text of this post has."""
    return float(np.random.default_rng(zlib.crc32(f"{post.id}\n{text}".encode())).standard_normal())


def agreements(gaps: np.ndarray, errors: np.ndarray, noise: float) -> tuple[float, float]:
    """Expected agreement of a labeler with the judge, and of two labelers with each other.

    `gaps` and `errors` [N] are `judged_gap` and `shared_error` of each pair. Ties of the judge do not
    count for the first.
    """
    scales = noise * np.array(list(TEMPERS.values()))
    first = 1 / (1 + np.exp(-(gaps + errors)[:, None] / scales))  # [N, labelers]
    with_judge = np.where(gaps[:, None] > 0, first, 1 - first)[gaps != 0].mean()
    both = first.sum(1) ** 2 - (first**2).sum(1), (1 - first).sum(1) ** 2 - ((1 - first) ** 2).sum(1)
    return float(with_judge), float(np.mean(both[0] + both[1]) / (len(scales) * (len(scales) - 1)))


def fit(sample: Sequence[Comparison]) -> tuple[float, float]:
    """NOISE and APPEAL for the agreements wanted on `sample`, to two decimals."""
    gaps = np.array([judged_gap(one) for one in sample])
    surface = np.array([_surface(one) for one in sample])
    taste = np.array([_taste(one) for one in sample])

    def miss(noise: float, appeal: float) -> float:
        with_judge, with_each_other = agreements(gaps, surface + appeal * taste, noise)
        return (with_judge - WITH_JUDGE) ** 2 + (with_each_other - WITH_EACH_OTHER) ** 2

    best = 1.0, 1.0
    for step in (0.2, 0.05, 0.01):
        around = np.arange(-8, 9) * step
        grid = [(best[0] + dx, best[1] + dy) for dx in around for dy in around]
        best = min((point for point in grid if min(point) > 0), key=lambda point: miss(*point))
    return round(best[0], 2), round(best[1], 2)


def main(argv: list[str]) -> int:
    options = flags.FlagValues()
    flags.DEFINE_string("comparisons", None, "of a run", required=True, flag_values=options)

    def run() -> None:
        parse_flags(argv, options)
        asked = [one for one in read_comparisons(options.comparisons) if one.split == "train"]
        print("NOISE, APPEAL = {}, {}".format(*fit(asked[:4_000])))

    return command(argv, run)

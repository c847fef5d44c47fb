"""Who says which of two summaries is better, behind one interface.

A `PairJudge` is a function of N texts and two summaries of each, and says how likely the first is the
better one [N]: 1 or 0, ½ where it cannot tell, anything between where several were asked, NaN where nobody
was. Whatever scores summaries one by one is one by `by_score`: a task's gold `Judge`, a reward model, ROUGE.
`people` are those who answered on the labelling site, `simulated` a task's labelers; `endpoint.EndpointJudge`
asks a language model.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Float

from rlhf_jax.data.comparisons import Pair
from rlhf_jax.data.records import Comparison, Record, Summary
from rlhf_jax.data.task import Judge, Labelers
from rlhf_jax.evaluation.preference import outcomes

PairJudge = Callable[[Sequence[Record], Sequence[str], Sequence[str]], Float[np.ndarray, "N"]]
Score = Callable[[Sequence[Record], Sequence[str]], Float[np.ndarray, "N"]]


def by_score(score: Score) -> PairJudge:
    """The judge that prefers the summary with the higher score; equal ones tie."""

    def judge(infos, first, second):
        return outcomes(score(infos, first), score(infos, second))

    return judge


def ratings(
    judge: Judge, records: Sequence[Record], responses: Sequence[str]
) -> dict[str, Float[np.ndarray, "N"]]:
    """What a task's gold judge says of every response: axis → rating, 1 to 7, and other facts it tells."""
    given = [judge(record, text) for record, text in zip(records, responses, strict=True)]
    return {name: np.array([one[name] for one in given]) for name in given[0]}


def gold_scores(judge: Judge, records: Sequence[Record], responses: Sequence[str]) -> Float[np.ndarray, "N"]:
    """The overall ratings alone."""
    return ratings(judge, records, responses)["overall"]


def gaps(judge: Judge, pairs: Sequence[Pair]) -> Float[np.ndarray, "N"]:
    """By how much the gold judge rates the preferred response of each pair above the other."""
    records = [pair.info for pair in pairs]
    chosen, rejected = [pair.chosen for pair in pairs], [pair.rejected for pair in pairs]
    return gold_scores(judge, records, chosen) - gold_scores(judge, records, rejected)


def people(comparisons: Iterable[Comparison]) -> PairJudge:
    """The judge that says which share of those asked about a pair preferred the first; NaN where nobody was.

    The comparisons are those that `rlhf-jax answers` writes, in which ties are left out. Spaces
    around a text do not count.
    """
    votes: defaultdict[tuple[str, str, str], list[int]] = defaultdict(list)
    for comparison in comparisons:
        first, second = (summary.text.strip() for summary in comparison.summaries)
        votes[comparison.info.id, first, second].append(1 - comparison.choice)
        votes[comparison.info.id, second, first].append(comparison.choice)

    def judge(infos, first, second):
        pairs = zip(infos, first, second, strict=True)
        asked = [votes.get((info.id, a.strip(), b.strip()), [np.nan]) for info, a, b in pairs]
        return np.array([np.mean(given) for given in asked])

    return judge


def simulated(labelers: Labelers) -> PairJudge:
    """The judge that asks one simulated person about each pair, in random order; equal texts tie."""

    def judge(infos, first, second):
        flipped = np.random.default_rng(0).random(len(infos)) < 0.5
        asked = []
        for info, a, b, flip in zip(infos, first, second, flipped, strict=True):
            one, other = Summary(a, "first"), Summary(b, "second")
            asked.append(Comparison(info, (other, one) if flip else (one, other), 0, "", "eval", "test"))
        chosen = [one.summaries[one.choice].policy == "first" for one in labelers.answer(asked)]
        same = [a.strip() == b.strip() for a, b in zip(first, second, strict=True)]
        return np.where(same, 0.5, chosen)

    return judge

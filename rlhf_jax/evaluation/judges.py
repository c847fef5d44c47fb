"""Who says which of two summaries is better, behind one interface.

A judge is a function of N texts and two summaries of each, and says how likely the first is the better
one [N]: 1 or 0, ½ where it cannot tell, anything between where several were asked, NaN where nobody was.
Whatever scores summaries one by one is a judge by `by_score`: the gold judge, a reward model, ROUGE.
`people` are those who answered on the labelling site; `endpoint.judge` asks a language model.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Float

from rlhf_jax.data.mini.judge import judge as gold
from rlhf_jax.data.records import Article, Comparison, Post
from rlhf_jax.evaluation.preference import outcomes

Info = Post | Article
Judge = Callable[[Sequence[Info], Sequence[str], Sequence[str]], Float[np.ndarray, "N"]]
Score = Callable[[Sequence[Info], Sequence[str]], Float[np.ndarray, "N"]]


def by_score(score: Score) -> Judge:
    """The judge that prefers the summary with the higher score; equal ones tie."""

    def judge(infos, first, second):
        return outcomes(score(infos, first), score(infos, second))

    return judge


def gold_scores(infos: Sequence[Info], summaries: Sequence[str]) -> Float[np.ndarray, "N"]:
    """The miniature's gold judge: overall ratings, 1 to 7."""
    return np.array([gold(info, text).overall for info, text in zip(infos, summaries, strict=True)])


def people(comparisons: Iterable[Comparison]) -> Judge:
    """The judge that says which share of those asked about a pair preferred the first; NaN where nobody was.

    The comparisons are those that `rlhf_jax.feedback.export` writes, in which ties are left out. Spaces
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

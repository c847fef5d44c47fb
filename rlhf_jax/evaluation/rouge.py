"""ROUGE against the references, for continuity with the literature."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from rouge_score.rouge_scorer import RougeScorer

SCORER = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)


def rouge(summaries: Sequence[str], references: Sequence[str]) -> dict[str, Float[np.ndarray, "N"]]:
    """F1 of ROUGE-1, ROUGE-2 and ROUGE-L of every summary, 0 to 1, under "rouge1", "rouge2", "rougeL".

    Words are lower-cased runs of a–z and 0–9, not stemmed; text in other scripts has none and scores 0.
    """
    scored = [
        SCORER.score(reference, summary) for summary, reference in zip(summaries, references, strict=True)
    ]
    return {kind: np.array([scores[kind].fmeasure for scores in scored]) for kind in SCORER.rouge_types}

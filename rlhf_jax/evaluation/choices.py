"""How often a number chooses the same of two summaries as a judge does."""

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Float

from rlhf_jax.data.records import Record
from rlhf_jax.data.task import Task
from rlhf_jax.evaluation.copying import copying
from rlhf_jax.evaluation.intervals import Estimate, mean
from rlhf_jax.evaluation.rouge import rouge


def hits(margins: Float[np.ndarray, "N"], truth: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
    """1 where a margin has the sign of the truth, 0 where the other, ½ where it is 0.

    Pairs that do not count are NaN: those of truth 0, a tie, or NaN, unknown.
    """
    agreed = (1 + np.sign(margins) * np.sign(truth)) / 2
    return np.where(np.nan_to_num(truth) == 0, np.nan, agreed)


def agreement(
    margins: Float[np.ndarray, "N"], truth: Float[np.ndarray, "N"], posts: Sequence[Hashable]
) -> Estimate:
    """Share of the pairs whose margin has the sign of the truth, with its interval; see `hits`."""
    agreed = hits(margins, truth)
    return {"pairs": int(np.isfinite(agreed).sum())} | mean(agreed, posts)


def countable(
    task: Task, records: Sequence[Record], responses: Sequence[str], references: Sequence[str]
) -> dict[str, Float[np.ndarray, "N"]]:
    """What can be counted of responses without asking anybody: ROUGE, words, copying from the prompt."""
    prompts = [task.prompt(record).text for record in records]
    copied = [copying(*each) for each in zip(responses, prompts, strict=True)]
    lengths = {"words": np.array([len(text.split()) for text in responses], float)}
    return rouge(responses, references) | lengths | {"copying": np.array(copied)}

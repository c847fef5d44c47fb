"""What kinds of error responses make, where a task can tell them."""

from collections.abc import Sequence

import numpy as np

from rlhf_jax.data.records import Record
from rlhf_jax.data.task import Task


def error_shares(task: Task, records: Sequence[Record], responses: Sequence[str]) -> dict[str, float]:
    """Kind → share of the responses that make such an error, and "any": that make one of whatever kind."""
    made = [task.errors(*each) for each in zip(records, responses, strict=True)]
    if not made or not made[0]:
        return {}
    shares = {kind: float(np.mean([one[kind] for one in made])) for kind in made[0]}
    return {"any": float(np.mean([any(one.values()) for one in made]))} | shares

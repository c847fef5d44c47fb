"""What people said about the responses of one row: votes on two of them, or comparisons of several."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from rlhf_jax.data.columns import Joined, form_of
from rlhf_jax.data.records import RecordError


class Judgment(NamedTuple):
    """Which of two responses a person preferred, by their places from 0; in a tie, neither."""

    better: int
    worse: int
    worker: str
    tie: bool = False


def votes_of(value: Any, worker: str) -> Iterator[Judgment]:
    """Of a vote, which is the `worker`'s, or of several people's.

    1 or 2 is for the better of two responses, 0 for neither, and a null is no vote. Of several people a
    voter's name is the place in the list, from 1, or the column that the vote stood in.
    """
    if isinstance(value, Joined):
        named = list(value.items())
    elif isinstance(value, list):
        named = [(str(i), vote) for i, vote in enumerate(value, 1)]
    else:
        named = [(worker, value)]
    for worker, vote in named:
        told = str(vote).removesuffix(".0")  # a CSV has texts, and pandas fractions where a column has gaps
        if vote is not None and told not in ("0", "1", "2"):
            raise RecordError(f"column votes should be 1 or 2 for the better response, or 0, not {vote!r}")
        if vote is not None:
            yield Judgment(int(told == "2"), int(told != "2"), worker, tie=told == "0")


def comparisons_of(value: Any, responses: int) -> Iterator[Judgment]:
    """Of objects of first and second, two places among `responses`, and preferred, one of them or null."""
    if not isinstance(value, list):
        raise RecordError(f"column comparisons should be a list of objects, not {form_of(value)}")
    for i, one in enumerate(value):
        where = f"column comparisons[{i}]"
        if not isinstance(one, dict):
            raise RecordError(f"{where} should be an object of first, second, preferred, not {form_of(one)}")
        pair: list[Any] = [one.get("first"), one.get("second")]
        for name, place in zip(("first", "second"), pair, strict=True):
            if isinstance(place, bool) or place not in range(responses):
                told = f"one of the {responses} responses, counted from 0"
                raise RecordError(f"{where}.{name} should be {told}, not {json.dumps(place)}")
        if pair[0] == pair[1]:
            raise RecordError(f"{where} compares response {pair[0]} with itself")
        preferred, worker = one.get("preferred"), str(one.get("worker", ""))
        if preferred is not None and (isinstance(preferred, bool) or preferred not in pair):
            told = f"{pair[0]} or {pair[1]}, the better response, or null"
            raise RecordError(f"{where}.preferred should be {told}, not {json.dumps(preferred)}")
        better, worse = pair if preferred == pair[0] else pair[::-1]
        yield Judgment(int(better), int(worse), worker, tie=preferred is None)

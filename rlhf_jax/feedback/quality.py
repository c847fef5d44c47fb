"""Who should be looked at: warnings about people, as soon as the answers bear them out.

Each is of a bound of an interval and not of a number of answers: little is said of few answers unless they
are all of one kind. The intervals are Wilson's of 99%, since a page that is opened daily tests often.

- agreement with the others, and with researchers, that is below a threshold
- agreement that falls with time
- answers in less than a third of the time that the others take, or than anybody can read in
- ties, or the longer summary, far more often than the others
- the summary shown first, or the one shown second, far more often than chance
- two people who give the same number of nine again and again
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from rlhf_jax.feedback import estimates
from rlhf_jax.feedback.choices import TIE, Answer

LEVEL = 0.99
FASTEST = 3.0  # seconds in which nobody reads two summaries and a text
FASTER = 1 / 3  # of the others' median
FURTHER = 0.25  # than the others, in ties and in length
ONE_SIDE = 0.65  # of the choices: chance is a half, as the order is drawn
SAME_NUMBER = 0.6  # of what two people answered both; of nine numbers honest people share about a third


def warnings(figures: dict[str, Any], answers: Sequence[Answer], threshold: float) -> list[str]:
    """About one person, whose figures those are, among all answers."""
    name = figures["worker"]
    own = [answer for answer in answers if answer.worker == name]
    others = [answer for answer in answers if answer.worker != name]
    found = [
        *(
            _disagrees(figures["modal"], "the others", threshold)
            or _disagrees(figures["with_researchers"], "researchers", threshold)
        ),
        *_drifts(figures),
        *_hurries(own, others),
        *_unlike(own, others, "finds both equal", lambda one: one.choice == TIE),
        *_unlike(own, others, "takes the longer summary", _takes_longer),
        *_leans(own),
    ]
    return [f"{name} {what}" for what in found]


def colluding(answers: Iterable[Answer]) -> list[str]:
    """Of every two people, who saw the site's nine numbers."""
    given: dict[str, dict[str, int]] = defaultdict(dict)
    for answer in answers:
        if answer.flipped is not None:
            given[answer.worker][answer.task] = answer.choice
    found = []
    for (one, first), (other, second) in combinations(sorted(given.items()), 2):
        same = [first[task] == second[task] for task in first.keys() & second.keys()]
        share = _bounds(same)
        if share and share["low"] > SAME_NUMBER:
            found.append(
                f"{one} and {other} gave the same number of nine on {share['value']:.0%} of {len(same)} pairs"
            )
    return found


def _bounds(hits: Sequence[bool]) -> dict | None:
    return estimates.wilson(np.array(hits, bool), LEVEL)


def _disagrees(agreement: dict | None, whom: str, threshold: float) -> list[str]:
    if not agreement:
        return []
    count = agreement["answers"]
    hits = round(agreement["value"] * count)
    share = _bounds([True] * hits + [False] * (count - hits))
    if not share or share["high"] >= threshold:
        return []
    return [f"agrees with {whom} on {share['value']:.0%} of {count} pairs, below {threshold:.0%}"]


def _drifts(figures: dict[str, Any]) -> list[str]:
    drift = figures["drift"]
    if not drift or not drift["high"] < 0:  # NaN where all agree
        return []
    count = figures["modal"]["answers"]
    return [f"agrees with the others less and less: {100 * drift['value']:+.0f} points over {count} pairs"]


def _hurries(own: Sequence[Answer], others: Sequence[Answer]) -> list[str]:
    seconds, theirs = ([a.seconds for a in some if a.seconds is not None] for some in (own, others))
    usual = float(np.median(theirs)) if theirs else 0.0
    share = _bounds([one < max(FASTEST, FASTER * usual) for one in seconds])
    if not share or share["low"] <= 0.5:
        return []
    median = np.median(seconds)
    return [f"takes {median:.0f} s a task" + (f", the others {usual:.0f} s" if theirs else "")]


def _unlike(
    own: Sequence[Answer], others: Sequence[Answer], what: str, does: Callable[[Answer], bool | None]
) -> list[str]:
    """Of a habit that the others have, too, if less; None is an answer that does not tell."""
    mine, theirs = ([did for one in some if (did := does(one)) is not None] for some in (own, others))
    share = _bounds(mine)
    if not share or not theirs or share["low"] <= (usual := float(np.mean(theirs))) + FURTHER:
        return []
    return [f"{what} on {share['value']:.0%} of {len(mine)} pairs, the others on {usual:.0%}"]


def _takes_longer(answer: Answer) -> bool | None:
    return None if answer.longer is None or answer.choice == TIE else answer.side == answer.longer


def _leans(own: Sequence[Answer]) -> list[str]:
    places = [one.place for one in own if one.place is not None and one.choice != TIE]
    share = _bounds([place == 0 for place in places])
    if not share or share["high"] >= 1 - ONE_SIDE and share["low"] <= ONE_SIDE:
        return []
    which, value = ("first", share["value"]) if share["low"] > 0.5 else ("second", 1 - share["value"])
    return [f"takes the summary shown {which} on {value:.0%} of {len(places)} pairs"]

"""Does a reward model read? Summaries made worse or better in one known way (Stiennon et al. 2020, §4.3)."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from rlhf_jax.data.mini.judge import read_summary
from rlhf_jax.data.mini.world import swap_roles
from rlhf_jax.data.records import Record

# What is exchanged where a text of people is not of the miniature.
OPPOSITES = (
    "he she|him her|his hers|himself herself|boyfriend girlfriend|husband wife|man woman|boy girl|"
    "father mother|dad mom|brother sister|son daughter|uncle aunt|men women|guys girls|bf gf"
)
EXCHANGED = {
    word: other for pair in OPPOSITES.split("|") for word, other in (pair.split(), reversed(pair.split()))
}

Edit = Callable[[Record, np.random.Generator], str]  # a reference, better
Alter = Callable[[Record, str, np.random.Generator], str]


def swapped_roles(info: Record, summary: str, rng: np.random.Generator) -> str:
    """Who did it and to whom exchanged; in a text of people, he and she, husband and wife, and so on."""
    facts = read_summary(summary).facts
    for fact in facts:
        summary = summary.replace(str(fact), str(swap_roles(fact)))
    if facts:
        return summary
    return re.sub(r"\w+", lambda word: EXCHANGED.get(word[0].lower(), word[0]), summary)


def shuffled(info: Record, summary: str, rng: np.random.Generator) -> str:
    """The words in random order."""
    words = summary.split()
    return " ".join(words[i] for i in rng.permutation(len(words)))


def shortened(info: Record, summary: str, rng: np.random.Generator) -> str:
    """The first half of the words."""
    words = summary.split()
    return " ".join(words[: (len(words) + 1) // 2])


WORSE: dict[str, Alter] = {"swapped_roles": swapped_roles, "shuffled": shuffled, "shortened": shortened}


class Pairs(NamedTuple):
    """Texts, the summary of each that should be preferred, and the other one."""

    infos: list[Record]
    preferred: list[str]
    other: list[str]


def worse(alter: Alter, infos: Sequence[Record], summaries: Sequence[str], seed: int = 0) -> Pairs:
    """Summaries with what `alter` makes of them, where it changes anything."""
    rng = np.random.default_rng(seed)
    altered = [alter(info, text, rng) for info, text in zip(infos, summaries, strict=True)]
    return _changed(infos, summaries, altered)


def better(edit: Edit, infos: Sequence[Record], seed: int = 0) -> Pairs:
    """The references as a careful editor leaves them, before the references."""
    rng = np.random.default_rng(seed)
    return _changed(infos, [edit(info, rng) for info in infos], [info.reference for info in infos])


def chosen(pairs: Pairs, which: Sequence[bool] | np.ndarray) -> Pairs:
    """Those of the pairs that are marked."""
    i = np.flatnonzero(which)
    return Pairs([pairs.infos[k] for k in i], [pairs.preferred[k] for k in i], [pairs.other[k] for k in i])


def _changed(infos: Sequence[Record], first: Sequence[str], second: Sequence[str]) -> Pairs:
    pairs = Pairs(list(infos), list(first), list(second))
    return chosen(pairs, [a != b for a, b in zip(first, second, strict=True)])

"""Does a reward model read? Summaries made worse or better in one known way (Stiennon et al. 2020, §4.3)."""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from rlhf_jax.data.comparisons import Pair
from rlhf_jax.data.mini.reading import DEED
from rlhf_jax.data.mini.wording import OBJECTIVE, PRONOUNS, SUBJECTIVE
from rlhf_jax.data.records import Record
from rlhf_jax.data.task import Task

# What is exchanged where a text of people is not of the miniature.
OPPOSITES = (
    "he she|him her|his hers|himself herself|boyfriend girlfriend|husband wife|man woman|boy girl|"
    "father mother|dad mom|brother sister|son daughter|uncle aunt|men women|guys girls|bf gf"
)
EXCHANGED = {
    word: other for pair in OPPOSITES.split("|") for word, other in (pair.split(), reversed(pair.split()))
}

# A pronoun of the miniature → its two cases.
CASES = {PRONOUNS[man][case]: PRONOUNS[man] for man in PRONOUNS for case in (SUBJECTIVE, OBJECTIVE)}

Alter = Callable[[Record, str, np.random.Generator], str]  # of a text and a response to it, another response


def swapped_roles(info: Record, summary: str, rng: np.random.Generator) -> str:
    """Who did it and to whom exchanged; in a text of people, he and she, husband and wife, and so on."""
    swapped, deeds = re.subn(rf"\b{DEED}\b", _exchanged, summary)
    if deeds:
        return swapped
    return re.sub(r"\w+", lambda word: EXCHANGED.get(word[0].lower(), word[0]), summary)


def _exchanged(deed: re.Match) -> str:
    """The first person of a deed last and the last first, pronouns in the case of their new place."""
    first, *between, last = deed[0].split()
    cases = CASES.get(last, (last, last)), CASES.get(first, (first, first))
    return " ".join((cases[0][SUBJECTIVE], *between, cases[1][OBJECTIVE]))


def shuffled(info: Record, summary: str, rng: np.random.Generator) -> str:
    """The words in random order."""
    words = summary.split()
    return " ".join(words[i] for i in rng.permutation(len(words)))


def shortened(info: Record, summary: str, rng: np.random.Generator) -> str:
    """The first half of the words."""
    words = summary.split()
    return " ".join(words[: (len(words) + 1) // 2])


WORSE: dict[str, Alter] = {"swapped_roles": swapped_roles, "shuffled": shuffled, "shortened": shortened}


def worse(alter: Alter, infos: Sequence[Record], summaries: Sequence[str]) -> list[Pair]:
    """Summaries before what `alter` makes of them, where it changes anything."""
    rng = np.random.default_rng(0)
    pairs = [Pair(info, text, alter(info, text, rng)) for info, text in zip(infos, summaries, strict=True)]
    return [pair for pair in pairs if pair.chosen != pair.rejected]


def better(revise: Alter, infos: Sequence[Record]) -> list[Pair]:
    """The references as an editor leaves them, before the references, where they differ."""
    rng = np.random.default_rng(0)
    pairs = [Pair(info, revise(info, info.reference, rng), info.reference) for info in infos]
    return [pair for pair in pairs if pair.chosen != pair.rejected]


def changed(task: Task, records: Sequence[Record], most: int) -> dict[str, list[Pair]]:
    """Kind of change → true responses before the same with one thing changed, `most` pairs a kind.

    Fewer where the records do not allow more; nothing where the task cannot tell what is true.
    """
    rng = np.random.default_rng(0)
    pairs: defaultdict[str, list[Pair]] = defaultdict(list)
    for record in records:
        for kind, (true, false) in task.changes(record, rng).items():
            pairs[kind].append(Pair(record, true, false))
    return {kind: found[:most] for kind, found in pairs.items()}

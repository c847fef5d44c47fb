"""Summaries that cost nothing: the openings, a template, sentences picked by their words."""

import re
from collections.abc import Sequence

from rlhf_jax.data.mini import world
from rlhf_jax.data.mini.judge import plainly, read_post
from rlhf_jax.data.records import Record


def baselines(records: Sequence[Record]) -> dict[str, list[str]]:
    """Name → a summary of every record, "" where a record is no story of the miniature."""
    return {
        "first_sentence": [" ".join(sentences(record)[:1]) for record in records],
        "first_two_sentences": [" ".join(sentences(record)[:2]) for record in records],
        "template": [template(record) for record in records],
        "key_sentences": [key_sentences(record) for record in records],
    }


def sentences(record: Record) -> list[str]:
    return [sentence.strip() for sentence in re.findall(r"[^.?!]+[.?!]", record.text)]


def template(record: Record) -> str:
    """ "First fact and second fact. question", in the plainest words."""
    story = read_post(record)
    if story is None:
        return ""
    first = " and ".join(plainly([fact], None).removesuffix(".") for fact in story.facts[:2])
    return f"{first}. {plainly([], story.question)}"


def key_sentences(record: Record) -> str:
    """Copied: the sentence with the gravest effect, the first about the asked person, and the question."""
    story = read_post(record)
    asking = [sentence for sentence in sentences(record) if sentence.endswith("?")]
    telling = [sentence for sentence in sentences(record) if not sentence.endswith("?")]
    if story is None:
        return ""
    about = [sentence for sentence in telling if story.question.person in re.findall(r"\w+", sentence)]
    picked = dict.fromkeys((max(telling, key=_gravity), *about[:1], *asking[:1]))
    return " ".join(picked)


def _gravity(sentence: str) -> int:
    """3 where an effect in it is grave, 2 mild, 1 slight, 0 without one."""
    words = set(re.findall(r"\w+", sentence))
    grades = (world.SLIGHT, world.MILD, world.GRAVE)
    return max((grade for grade, effects in enumerate(grades, 1) if words & set(effects)), default=0)

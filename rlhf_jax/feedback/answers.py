"""Writes what people answered as the files that training and evaluation read.

rlhf-jax answers --store=feedback.sqlite --out=collected

--store=FILE   the site's store; it may be running
--out=FOLDER   where to write; must be empty or not exist; appears whole or not at all
--batch=NAME   batch of records whose task names none (site)

comparisons.jsonl     OpenAI's comparisons: choice 0 or 1; indifferent answers (5) are left out
edits.jsonl           comparisons of a summary with its improvement, which is preferred
ratings.jsonl         OpenAI's axis ratings
demonstrations/       posts with the summaries that people wrote, a folder for --config.data.posts
explanations.jsonl    why a summary is good or bad, with marked words
answers.jsonl         every answer as it was given, the onboarding's and ties included, with times

A comparison's extra.confidence is 1–9 as labelers chose it, seen from the record's order of
summaries: 1 prefers the first by far, 9 the second. OpenAI has not published how its own numbers map
to its labelers' scale, so ours may differ in that.

A record's split is its task's own, or drawn by a hash of its post's id, so that a post is never in
two: 90% train, 5% valid1, 5% valid2. Workers stand under a random id, not their name.
"""

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from absl import flags

from rlhf_jax.command_line import command, parse_flags
from rlhf_jax.data.record_json import write_jsonl
from rlhf_jax.data.records import Comparison, Example, Record, RecordError, Summary
from rlhf_jax.feedback import tasks as kinds
from rlhf_jax.feedback.store import Store, StoreError, answers, people, tasks
from rlhf_jax.feedback.text import clean
from rlhf_jax.files import whole_folder

SHARES = {"train": 0.90, "valid1": 0.05, "valid2": 0.05}
ANSWERED: dict[str, dict[str, type]] = {  # what the answer to a task of a kind must have
    "comparison": {"confidence": int, "notes": list},
    "likert": {"axes": dict, "note": str},
    "demonstration": {"summary": str},
    "edit": {"summary": str},
    "explanation": {"why": str, "spans": list},
}
SPLITS_OF_POSTS = {"train": "train", "valid1": "valid", "valid2": "test", "test": "test"}


class Given(NamedTuple):
    """One answer and whose it is."""

    task: str
    kind: str
    part: str
    record: dict
    worker: str
    role: str
    answer: dict
    seconds: float
    created: float


def main(argv: list[str]) -> int:
    def run() -> None:
        options = _parse(argv)
        with contextlib.closing(Store(options.store, must_exist=True)) as store:
            counts = export(store, Path(options.out), options.batch)
        print(f"{options.out}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))

    return command(argv, run)


def _parse(argv: list[str]) -> flags.FlagValues:
    options = flags.FlagValues()
    flags.DEFINE_string("store", None, "the site's store", required=True, flag_values=options)
    flags.DEFINE_string("out", None, "folder to write", required=True, flag_values=options)
    flags.DEFINE_string("batch", "site", "batch of records whose task names none", flag_values=options)
    return parse_flags(argv, options)


def export(store: Store, out: Path, batch: str) -> dict[str, int]:
    """Writes the folder `out`; returns the number of records of each kind.

    Raises RecordError where `out` holds something already.
    """
    with whole_folder(out, RecordError) as partial:
        partial.mkdir(parents=True)
        files = records_of(collected(store), batch)
        for name, records in files.items():
            if records:
                write_jsonl(partial / name, records)
    counts = {Path(name).stem: len(records) for name, records in files.items() if "/" not in name}
    return counts | {"demonstrations": sum(len(posts) for name, posts in files.items() if "/" in name)}


def records_of(given: Sequence[Given], batch: str) -> dict[str, list]:
    """Path below the folder → the records of that file."""

    def real(kind: str) -> list[Given]:
        return [g for g in given if g.kind == kind and g.part != "onboarding"]

    decided = [g for g in real("comparison") if g.answer["confidence"] != 5]
    improved = [g for g in real("edit") if g.answer["summary"] != clean(g.record["summary"]["text"])]
    files: dict[str, list] = {
        "comparisons.jsonl": [comparison(g, batch) for g in decided],
        "edits.jsonl": [edit(g, batch) for g in improved],
        "ratings.jsonl": [rating(g, batch) for g in real("likert")],
        "explanations.jsonl": [explanation(g, batch) for g in real("explanation")],
        "answers.jsonl": [g._asdict() | {"post": kinds.info_of(g.record).id} for g in given],
    }
    for g in real("demonstration"):
        name = f"demonstrations/{SPLITS_OF_POSTS[split_of(g.record)]}.jsonl"
        files.setdefault(name, []).append(demonstration(g))
    return files


def collected(store: Store) -> list[Given]:
    """All answers, in the order they were given."""
    columns = tasks.c.id, tasks.c.kind, tasks.c.part, tasks.c.record, people.c.worker, people.c.role
    query = sa.select(*columns, answers.c.answer, answers.c.seconds, answers.c.created)
    joined = query.select_from(answers.join(tasks).join(people)).order_by(answers.c.created, answers.c.id)
    try:
        with store.read() as db:
            given = [Given(*row) for row in db.execute(joined)]
    except (sa.exc.DatabaseError, ValueError) as error:  # the latter of a column that should be JSON
        reason = getattr(error, "orig", error)
        raise StoreError(f"{store.path}: damaged ({reason}); take a copy of before") from None
    for each in given:
        _check(store.path, each)
    return given


def _check(path: Path, given: Given) -> None:
    """Raises StoreError for a task or an answer that the site cannot have written."""
    where = f"{path}: task {given.task}"
    try:
        found, _ = kinds.parse_task(given.record)
    except RecordError as error:
        raise StoreError(f"{where}: {error}; take a copy of before") from None
    if given.kind not in found:
        raise StoreError(f"{where}: its record is not of kind {given.kind}; take a copy of before")
    for name, kind in ANSWERED[given.kind].items():
        if not isinstance(given.answer, dict) or not isinstance(given.answer.get(name), kind):
            raise StoreError(
                f"{where}: field {name} of {given.worker}'s answer should be of type {kind.__name__}; "
                "take a copy of before"
            )


def split_of(record: dict) -> str:
    """The record's own split, or one drawn for its post by a hash."""
    if record.get("split") in kinds.SPLITS:
        return record["split"]
    key = hashlib.sha256(b"split\n" + kinds.info_of(record).id.encode()).digest()
    place = int.from_bytes(key[:8], "big") / 2**64
    for split, share in SHARES.items():
        if place < share:
            return split
        place -= share
    return "train"


def comparison(given: Given, batch: str) -> Comparison:
    confidence = given.answer["confidence"]
    record = kinds.comparison_of(given.record, choice=int(confidence > 5), **_whose(given, batch))
    first, second = (
        replace(summary, note=note or summary.note)
        for summary, note in zip(record.summaries, given.answer["notes"], strict=True)
    )
    return replace(record, summaries=(first, second), extra=record.extra | {"confidence": confidence})


def edit(given: Given, batch: str) -> Comparison:
    """The summary first, its improvement second."""
    rated = kinds.rating_of(given.record, {}, **_whose(given, batch))
    shown = rated.summary
    before = Summary(shown.text, shown.policy, shown.note, shown.extra)
    after = Summary(given.answer["summary"], "edit")
    return Comparison(rated.info, (before, after), 1, rated.worker, rated.batch, rated.split)


def rating(given: Given, batch: str):
    record = kinds.rating_of(given.record, given.answer["axes"], **_whose(given, batch))
    note = given.answer["note"] or record.summary.note
    return replace(record, summary=replace(record.summary, note=note))


def demonstration(given: Given) -> Record:
    record, text = kinds.info_of(given.record), given.answer["summary"]
    return replace(record, reference=text) if isinstance(record, Example) else replace(record, summary=text)


def explanation(given: Given, batch: str) -> dict[str, Any]:
    record = given.record | _whose(given, batch)
    return record | {"why": given.answer["why"], "spans": given.answer["spans"]}


def _whose(given: Given, batch: str) -> dict[str, str]:
    """The keys that tell who answered and where the record goes."""
    own = given.record.get("batch") or batch
    return {"worker": given.worker, "batch": own, "split": split_of(given.record)}

"""Writes what people answered as the files that training and evaluation read.

rlhf-jax answers --store=feedback.sqlite --out=collected

--store=FILE   the site's store; it may be running
--out=FOLDER   where to write; must be empty or not exist; appears whole or not at all
--batch=NAME   batch of records whose task names none (site)
--exclude=A,B  workers to leave out, by the ids that exports name them with
--names        people by their names, where they else stand under a random id
--formats=A,B  comparisons for other programs, too: trl, conversational, parquet, csv, a folder each with
               train, valid and test; rlhf_jax/feedback/formats.py says what is in them
--held_out=0.2 share of the posts in valid1, and as many again in valid2, in place of the study's; posts
               that an export has had stay where they are

What an export has can no longer be changed by who answered. People who are left out on the
administrator's page are left out here.

comparisons.jsonl     OpenAI's comparisons: choice 0 or 1; indifferent answers (5) are left out
edits.jsonl           comparisons of a summary with its improvement, which is preferred
ratings.jsonl         OpenAI's axis ratings
demonstrations/       posts with the summaries that people wrote, a folder for --config.data.posts
explanations.jsonl    why a summary is good or bad, with marked words
answers.jsonl         every answer as it was given, the onboarding's and ties included, with times
instructions.jsonl    what the study said when they were given; answers name it by its id

A comparison's extra.confidence is 1–9 as labelers chose it, seen from the record's order of
summaries: 1 prefers the first by far, 9 the second. OpenAI has not published how its own numbers map
to its labelers' scale, so ours may differ in that. Beside it stand the comment, the seconds that the
answer took, its date (UTC), and the id of the instructions.

A record's split is its task's own, or that which its post has got when it was first answered: the
study's share of the posts is in valid1 and in valid2 each (rlhf_jax/feedback/splits.py). The command says how
many posts and comparisons each split has, and warns where they are too few to measure anything by.
"""

import contextlib
import datetime
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from absl import flags

from rlhf_jax.command_line import command, parse_flags
from rlhf_jax.data.record_json import write_jsonl
from rlhf_jax.data.records import Comparison, Example, Record, RecordError, Summary
from rlhf_jax.feedback import formats, splits
from rlhf_jax.feedback import tasks as kinds
from rlhf_jax.feedback.schema import answers, assignments, instructions, people, tasks
from rlhf_jax.feedback.store import Store, StoreError
from rlhf_jax.feedback.study import MOST_HELD_OUT
from rlhf_jax.feedback.text import clean
from rlhf_jax.files import whole_folder

ALWAYS = ("answers.jsonl", "instructions.jsonl")  # files of an export before the first answer, too
ANSWERED: dict[str, dict[str, type]] = {  # what the answer to a task of a kind must have
    "comparison": {"confidence": int, "notes": list},
    "likert": {"axes": dict, "note": str},
    "demonstration": {"summary": str},
    "edit": {"summary": str},
    "explanation": {"why": str, "spans": list},
}


class Exported(NamedTuple):
    """What is in an export: records of each kind, and comparisons and their posts by split.

    `others`: by each of the other formats, the comparisons that it has, and those that it cannot say, by what
    they are.
    """

    counts: dict[str, int]
    comparisons: Counter[str]
    posts: Counter[str]
    others: dict[str, tuple[int, Counter[str]]]


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
    flipped: bool
    instructions: str | None
    split: str


def main(argv: list[str]) -> int:
    def run() -> None:
        options = _parse(argv)
        with contextlib.closing(Store(options.store, must_exist=True)) as store:
            found = export(
                store,
                Path(options.out),
                options.batch,
                options.exclude,
                names=options.names,
                others=options.formats,
                held_out=options.held_out,
            )
        print(f"{options.out}: " + ", ".join(f"{count} {name}" for name, count in found.counts.items()))
        for name, (written, left_out) in found.others.items():
            told = ", ".join(f"{count} {what}" for what, count in left_out.items())
            print(f"{name}: {written} comparisons" + (f"; left out: {told}" if told else ""))
        for line in splits.told(found.comparisons, found.posts):
            print(line)

    return command(argv, run)


def _parse(argv: list[str]) -> flags.FlagValues:
    options = flags.FlagValues()
    flags.DEFINE_string("store", None, "the site's store", required=True, flag_values=options)
    flags.DEFINE_string("out", None, "folder to write", required=True, flag_values=options)
    flags.DEFINE_string("batch", "site", "batch of records whose task names none", flag_values=options)
    flags.DEFINE_list("exclude", [], "workers to leave out", flag_values=options)
    flags.DEFINE_boolean("names", False, "people by their names", flag_values=options)
    flags.DEFINE_list("formats", [], "comparisons once more", flag_values=options)
    flags.DEFINE_float("held_out", None, "share of the posts", 0.0, MOST_HELD_OUT, flag_values=options)
    parse_flags(argv, options)
    if unknown := [name for name in options.formats if name not in formats.FORMATS]:
        raise flags.Error(f"--formats: {unknown[0]!r} is none of {', '.join(formats.FORMATS)}")
    return options


def export(
    store: Store,
    out: Path,
    batch: str,
    exclude: Collection[str] = (),
    names: bool = False,
    others: Collection[str] = (),
    held_out: float | None = None,
) -> Exported:
    """Writes the folder `out`, with comparisons in the `others` of formats.FORMATS, too.

    `names`: people are called by their names. `held_out`: the share, in place of the study's, of posts that
    no export has had. Raises RecordError where `out` holds something already, and StoreError where nobody is
    called as one to `exclude`.
    """
    with whole_folder(out, RecordError) as partial:
        partial.mkdir(parents=True)
        with store.write() as db:
            excluded = _excluded(store, db, exclude)
            if held_out is not None:
                splits.redraw(db, held_out)
            news = ~answers.c.exported, answers.c.person.not_in(excluded)
            db.execute(answers.update().where(*news).values(exported=True))
        with store.read() as db:  # what is marked stays as it is, so nobody has to wait for this
            given = _collected(store, db, answers.c.exported, people.c.id.not_in(excluded), names=names)
            said = db.execute(sa.select(instructions)).all()
        files = records_of(given, batch) | {"instructions.jsonl": [row._asdict() for row in said]}
        for name, records in files.items():
            if records or name in ALWAYS:
                write_jsonl(partial / name, records)
        compared = comparisons(given, batch)
        written = {name: formats.write(name, partial / name, compared) for name in dict.fromkeys(others)}
    counts = {Path(name).stem: len(records) for name, records in files.items() if "/" not in name}
    counts |= {"demonstrations": sum(len(posts) for name, posts in files.items() if "/" in name)}
    decided = files["comparisons.jsonl"]
    posts = {(one.split, one.info.id) for one in decided}
    by_split = Counter(one.split for one in decided), Counter(split for split, _ in posts)
    return Exported(counts, *by_split, written)


def _excluded(store: Store, db: sa.Connection, workers: Collection[str]) -> list[int]:
    known = dict(db.execute(sa.select(people.c.worker, people.c.id)).all())
    if strangers := sorted(set(workers) - known.keys()):
        raise StoreError(f"{store.path}: --exclude: nobody is {', '.join(strangers)} there")
    return [*db.scalars(sa.select(people.c.id).where(people.c.excluded)), *(known[one] for one in workers)]


def records_of(given: Sequence[Given], batch: str) -> dict[str, list]:
    """Path below the folder → the records of that file."""
    decided = [one for one in comparisons(given, batch) if one.extra["confidence"] != kinds.TIE]
    improved = [g for g in _real(given, "edit") if g.answer["summary"] != clean(g.record["summary"]["text"])]
    files: dict[str, list] = {
        "comparisons.jsonl": decided,
        "edits.jsonl": [edit(g, batch) for g in improved],
        "ratings.jsonl": [rating(g, batch) for g in _real(given, "likert")],
        "explanations.jsonl": [explanation(g, batch) for g in _real(given, "explanation")],
        "answers.jsonl": [g._asdict() | {"post": kinds.info_of(g.record).id} for g in given],
    }
    for g in _real(given, "demonstration"):
        name = f"demonstrations/{splits.OF_POSTS[g.split]}.jsonl"
        files.setdefault(name, []).append(demonstration(g))
    return files


def _real(given: Sequence[Given], kind: str) -> list[Given]:
    return [one for one in given if one.kind == kind and one.part != "onboarding"]


def comparisons(given: Sequence[Given], batch: str) -> list[Comparison]:
    """Those that people made, with the indifferent ones, of which choice says nothing."""
    return [comparison(one, batch) for one in _real(given, "comparison")]


def collected(store: Store) -> list[Given]:
    """All answers, in the order they were given."""
    with store.read() as db:
        return _collected(store, db)


def _collected(
    store: Store, db: sa.Connection, *which: sa.ColumnElement[bool], names: bool = False
) -> list[Given]:
    who = people.c.name if names else people.c.worker
    columns = tasks.c.id, tasks.c.kind, tasks.c.part, tasks.c.record, who, people.c.role
    own = (assignments.c.task == answers.c.task) & (assignments.c.person == answers.c.person)
    said = (
        answers.c.answer,
        answers.c.seconds,
        answers.c.created,
        assignments.c.flipped,
        answers.c.instructions,
    )
    joined = answers.join(tasks).join(people).join(assignments, own)
    query = sa.select(*columns, *said).select_from(joined).where(*which)
    allotted = splits.known(db)
    found = []
    try:
        for row in db.execute(query.order_by(answers.c.created, answers.c.id)):
            found.append(Given(*row, split=_split(row.kind, row.record, allotted)))
    except ValueError as error:  # of a column that should be JSON
        raise StoreError(f"{store.path}: damaged ({error}); restore a backup") from None
    for each in found:
        _check(store.path, each)
    return found


def _split(kind: str, record: Any, allotted: Mapping[tuple[str, str], str]) -> str:
    """The record's own split, or its post's; of what nothing is learned from, train."""
    if not isinstance(record, dict) or record.get("split") in kinds.SPLITS:
        return record["split"] if isinstance(record, dict) else ""
    return allotted.get((kind, kinds.info_of(record).id), "train")


def _check(path: Path, given: Given) -> None:
    """Raises StoreError for a task or an answer that the site cannot have written."""
    where = f"{path}: task {given.task}"
    try:
        found, _ = kinds.parse_task(given.record)
    except RecordError as error:
        raise StoreError(f"{where}: {error}; restore a backup") from None
    if given.kind not in found:
        raise StoreError(f"{where}: its record is not of kind {given.kind}; restore a backup")
    for name, kind in ANSWERED[given.kind].items():
        if not isinstance(given.answer, dict) or not isinstance(given.answer.get(name), kind):
            raise StoreError(
                f"{where}: field {name} of {given.worker}'s answer should be of type {kind.__name__}; "
                "restore a backup"
            )


def comparison(given: Given, batch: str) -> Comparison:
    confidence = given.answer["confidence"]
    record = kinds.comparison_of(given.record, choice=int(confidence > 5), **_whose(given, batch))
    first, second = (
        replace(summary, note=note or summary.note)
        for summary, note in zip(record.summaries, given.answer["notes"], strict=True)
    )
    extra = record.extra | {"confidence": confidence} | _beside(given)
    return replace(record, summaries=(first, second), extra=extra)


def _beside(given: Given) -> dict[str, Any]:
    """What stands beside a choice: how it came about."""
    found = {"comment": given.answer.get("comment"), "instructions": given.instructions}
    date = datetime.datetime.fromtimestamp(given.created, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    said = {name: value for name, value in found.items() if value}
    return said | {"seconds": round(given.seconds, 1), "date": date}


def edit(given: Given, batch: str) -> Comparison:
    """The summary first, its improvement second."""
    rated = kinds.rating_of(given.record, {}, **_whose(given, batch))
    shown = rated.summary
    before = Summary(shown.text, shown.policy, shown.note, shown.extra)
    after = Summary(given.answer["summary"], "edit")
    texts = before, after
    return Comparison(rated.info, texts, 1, rated.worker, rated.batch, rated.split, _beside(given))


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
    return {"worker": given.worker, "batch": own, "split": given.split}

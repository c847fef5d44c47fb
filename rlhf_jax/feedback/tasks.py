"""The five kinds of task: what a record asks for, what a person must fill in, what that answers.

    comparison     which of two summaries is better, from 1 (the first, by far) to 9 (the second)
    likert         a summary rated on each axis, 1 to 7
    demonstration  a post summarized
    edit           a summary improved
    explanation    why a summary is good or bad, and which words are invented, missing or unclear

A task file holds one JSON object a line: OpenAI's comparison records without a choice, their axis
records without axes, or posts. Whatever else a line holds is kept for the export. A comparison's
answer counts in the order of its record, whichever summary was shown first.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rlhf_jax.data.record_json import from_json, read_jsonl, record_of, to_json
from rlhf_jax.data.records import AxisRating, Comparison, Record, RecordError, Words
from rlhf_jax.data.visible import has_text
from rlhf_jax.feedback.study import Axis, Study
from rlhf_jax.feedback.text import places

LONGEST = 5_000  # characters of one field
TIE = 5  # of a comparison's nine points
SPLITS = ("train", "valid1", "valid2", "test")  # some of OpenAI's axis ratings are of test
MARKS = {"invented": "summary", "missing": "post", "unclear": "summary"}  # and the text that is quoted
REQUIRED = {  # fields that must be filled in, besides an explanation's marks and an axis's rating
    "interpret": {
        "interpretation_first": "Say what the first {response} tells you.",
        "interpretation_second": "Say what the second {response} tells you.",
    },
    "choose": {"choice": "Choose a number from 1 to 9."},
    "demonstration": {"summary": "Write a {response}."},
    "edit": {"summary": "The {response} cannot be empty."},
    "explanation": {"why": "Say why."},
}


class Task(NamedTuple):
    """One thing to do; `record` is the line of the task file."""

    id: str
    kind: str
    record: dict


class Texts(NamedTuple):
    """What a person sees: the post, article or prompt, and the responses to it in the order shown."""

    title: str
    place: str
    body: str
    summaries: tuple[str, ...]
    words: Words  # for the text and the responses to it


def read_tasks(path: str | Path, study: Study) -> list[Task]:
    """The tasks of a file, each once. Raises RecordError naming file, line and field."""
    found = [task for tasks in read_jsonl(path, lambda line: _tasks(line, study)) for task in tasks]
    if not found:
        raise RecordError(f"{path}: holds no task")
    return list({task.id: task for task in found}.values())


def read_onboarding(path: str | Path) -> list[Task]:
    """Comparisons that researchers have answered, as tasks; their records have a choice."""
    found = list(read_jsonl(path, lambda line: _task("comparison", line, from_json(Comparison, line))))
    if not found:
        raise RecordError(f"{path}: holds no comparison")
    return list({task.id: task for task in found}.values())


def parse_task(line) -> tuple[tuple[str, ...], Comparison | AxisRating | Record]:
    """The kinds of task that a line asks for, and its record. Raises RecordError naming the field."""
    if not isinstance(line, dict):
        raise RecordError("the line should be a JSON object")
    if line.get("summaries") is not None:
        return ("comparison",), comparison_of(line, choice=0)
    if isinstance(line.get("summary"), dict):
        return ("likert", "edit", "explanation"), rating_of(line, axes={})
    return ("demonstration",), record_of(line)


def _tasks(line, study: Study) -> list[Task]:
    kinds, record = parse_task(line)
    split = line.get("split")
    if split not in (None, "", *SPLITS):
        raise RecordError(f"field split should be one of {', '.join(SPLITS)}, not {json.dumps(split)}")
    wanted = [kind for kind in kinds if kind in study.kinds]
    if not wanted:
        raise RecordError(f"a task of kind {' or '.join(kinds)}, which the study does not have (field kinds)")
    return [_task(kind, line, record) for kind in wanted]


def _task(kind: str, line: dict, record: Comparison | AxisRating | Record) -> Task:
    """The task's name depends on what is shown, so that a file read twice adds nothing."""
    shown = {"kind": kind, **to_json(record)}
    for key in ("choice", "worker", "batch", "split", "extra"):
        shown.pop(key, None)
    name = json.dumps(shown, sort_keys=True, ensure_ascii=False)
    return Task(hashlib.sha256(name.encode()).hexdigest()[:20], kind, line)


def comparison_of(record: Mapping, **values) -> Comparison:
    """A task's record as a comparison, with what the record lacks from `values`."""
    if not isinstance(record, Mapping):
        raise RecordError("the line should be a JSON object")
    return from_json(Comparison, _completed(record) | values)


def rating_of(record: Mapping, axes: dict, **values) -> AxisRating:
    """A task's record as ratings of its one summary."""
    summary = record["summary"] | {"axes": axes}
    return from_json(AxisRating, _completed(record) | values | {"summary": summary})


def _completed(record: Mapping) -> dict:
    """A task's record with what a task need not say: who answers, and where the answer goes."""
    said = {name: value for name, value in record.items() if value is not None}
    return {**record, "worker": "", "batch": "", "split": "", **said}


def info_of(record: Mapping) -> Record:
    return record_of(record if record.get("info") is None else record["info"])


def texts(task: Task, flipped: bool) -> Texts:
    """Who wrote a summary is nowhere in here."""
    if task.kind == "demonstration":
        shown = []
    elif task.kind == "comparison":
        shown = task.record["summaries"][::-1] if flipped else task.record["summaries"]
    else:
        shown = [task.record["summary"]]
    info = info_of(task.record)
    return Texts(info.title, info.place, info.text, tuple(summary["text"] for summary in shown), info.words)


def steps(kind: str, study: Study) -> tuple[str, ...]:
    """The steps of a task of a kind, each a page of its own."""
    return study.steps if kind == "comparison" else (kind,)


def field_names(step: str, axes: Sequence[Axis]) -> tuple[str, ...]:
    """The fields that a step's page may fill in."""
    if step == "likert":
        return (*(f"axis_{axis.name}" for axis in axes), "note")
    optional = {"interpret": (), "explanation": (*MARKS, "places"), "demonstration": ()}.get(
        step, ("comment",)
    )
    return (*REQUIRED[step], *optional)


def problems(task: Task, step: str, fields: Mapping[str, str], axes: Sequence[Axis]) -> dict[str, str]:
    """What stands in the way of a step's end: field → what to do, for the person to read."""
    found = {
        name: f"At most {LONGEST:,} characters; these are {len(text):,}."
        for name, text in fields.items()
        if len(text) > LONGEST
    }
    if step == "likert":
        wanted = {f"axis_{axis.name}": f"Rate {axis.name} from 1 to 7." for axis in axes}
    else:
        wanted = REQUIRED[step]
    words = info_of(task.record).words
    said = {name: text.format(**words._asdict()) for name, text in wanted.items()}
    found |= {name: text for name, text in said.items() if not fields.get(name)}
    for name, value in fields.items():
        most = 9 if name == "choice" else 7
        if (name == "choice" or name.startswith("axis_")) and value not in map(str, range(1, most + 1)):
            found[name] = f"Choose a number from 1 to {most}."
    if step == "explanation":
        for mark, line, spans in _marked(task, fields):
            where = words.response if MARKS[mark] == "summary" else words.prompt
            if not spans:
                found.setdefault(mark, f"These words do not stand in the {where} so: {line}")
            elif len(spans) > 1:
                found.setdefault(
                    mark,
                    f"These words stand {len(spans)} times in the {where}: {line}. "
                    "Select them there and use the button, or add the words around them.",
                )
    return found


def answer(task: Task, fields: Mapping[str, str], flipped: bool, axes: Sequence[Axis]) -> dict:
    """What the filled-in fields of all steps say, as plain JSON values."""
    if task.kind == "comparison":
        shown = int(fields["choice"])
        notes = [fields.get("interpretation_first", ""), fields.get("interpretation_second", "")]
        return {
            "confidence": 10 - shown if flipped else shown,
            "notes": notes[::-1] if flipped else notes,
            "comment": fields.get("comment", ""),
        }
    if task.kind == "likert":
        rated = {axis.name: int(fields[f"axis_{axis.name}"]) for axis in axes}
        return {"axes": rated, "note": fields.get("note", "")}
    if task.kind == "explanation":
        return {"why": fields["why"], "spans": _spans(task, fields)}
    return {name: fields[name] for name in ("summary", "comment") if fields.get(name)}


def _spans(task: Task, fields: Mapping[str, str]) -> list[dict]:
    """Marked words, with the characters [start, end) of the summary or the post they stand at."""
    found = []
    for mark, _, ((start, end),) in _marked(task, fields):
        text = _source(task, mark)[start:end]
        found.append({"mark": mark, "in": MARKS[mark], "start": start, "end": end, "text": text})
    return found


def _marked(task: Task, fields: Mapping[str, str]) -> Iterator[tuple[str, str, list[tuple[int, int]]]]:
    """Each mark, its words and where they may stand: at one place alone where they were selected there."""
    for mark in MARKS:
        text = _source(task, mark)
        selected = [int(at) for name, at in map(str.split, _places(fields)) if name == mark]
        for line in _lines(fields.get(mark, "")):
            spans = places(line, text)
            # A page's text has no carriage returns.
            here = [span for span in spans if span[0] - text.count("\r\n", 0, span[0]) in selected]
            if here:
                spans = here[:1]
                selected.remove(spans[0][0] - text.count("\r\n", 0, spans[0][0]))
            yield mark, line, spans


def _places(fields: Mapping[str, str]) -> list[str]:
    """The lines of a name and a number in which the page's script keeps where the words were selected."""
    return [line for line in fields.get("places", "").split("\n") if re.fullmatch(r"[a-z]+ [0-9]{1,9}", line)]


def _source(task: Task, mark: str) -> str:
    """The text whose words are marked."""
    shown = texts(task, flipped=False)
    return shown.summaries[0] if MARKS[mark] == "summary" else shown.body


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if has_text(line)]

"""Who does which task, how far they are, and what they answered.

Tasks stand in a random order that is the same for everybody. A labeler gets the calibration tasks
spread over the quota, and in between the first tasks that too few people have, all of the kinds and
batches that the study gives this labeler. Researchers and administrators get the calibration tasks
alone, to measure labelers by.
"""

import math
import random
import statistics
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import func

from rlhf_jax.feedback import tasks as kinds
from rlhf_jax.feedback.people import Person, change
from rlhf_jax.feedback.store import answers, assignments, people, tasks
from rlhf_jax.feedback.study import Labeler, Onboarding, Study
from rlhf_jax.feedback.tasks import Task

ABANDONED = 86_400  # seconds without a sign of work after which a task may go to somebody else
PAUSE = 300  # seconds: a longer silence between two signs of work counts as this much work


class Work(NamedTuple):
    """A task in somebody's hands; `fields` is what is typed so far, `step` counts finished steps."""

    task: Task
    part: str
    flipped: bool
    step: int
    fields: dict[str, str]
    seconds: float
    done: bool


class Progress(NamedTuple):
    """Real tasks done and to do (None: as many as there are), onboarding done and to do, seconds a task."""

    done: int
    quota: int | None
    trained: int
    training: int
    seconds: float | None


def add_tasks(db: sa.Connection, found: Sequence[Task], onboarding: Sequence[Task], study: Study) -> int:
    """Adds the tasks that the store does not have yet; returns how many those are."""
    known = set(db.scalars(sa.select(tasks.c.id)))
    rows: list[dict[str, Any]] = [
        task._asdict() | {"part": "onboarding", "position": float(i)}
        for i, task in enumerate(onboarding)
        if task.id not in known
    ]
    new = [task for task in found if task.id not in known | {row["id"] for row in rows}]
    rows += [task._asdict() | {"part": "work", "position": random.Random(task.id).random()} for task in new]
    if rows:
        db.execute(tasks.insert(), rows)
    _calibrate(db, study)
    return len(rows)


def _sizes(db: sa.Connection) -> dict[str, int]:
    """The number of tasks of each part."""
    query = sa.select(tasks.c.part, func.count()).group_by(tasks.c.part)
    return {part: count for part, count in db.execute(query)}


def _calibrate(db: sa.Connection, study: Study) -> None:
    """Marks the first tasks nobody has begun as calibration, until the study's share is reached."""
    sizes = _sizes(db)
    total = sizes.get("work", 0) + sizes.get("calibration", 0)
    wanted = round(study.calibration * min(study.quota or total, total)) - sizes.get("calibration", 0)
    begun = sa.select(assignments.c.task)
    first = sa.select(tasks.c.id).where(tasks.c.part == "work", tasks.c.id.not_in(begun))
    chosen = first.order_by(tasks.c.position).limit(max(wanted, 0)).scalar_subquery()
    db.execute(tasks.update().where(tasks.c.id.in_(chosen)).values(part="calibration"))


def next_task(db: sa.Connection, person: Person, study: Study) -> str | None:
    """The task that somebody should do now: the one begun, or a new one; None when all is done."""
    mine = sa.select(assignments.c.task).where(assignments.c.person == person.id)
    begun = db.scalar(mine.where(~assignments.c.done).order_by(assignments.c.opened))
    if begun:
        return begun
    if person.role == "labeler" and person.standing != "passed" and study.onboarding:
        return _assign(db, person, _first(db, mine, tasks.c.part == "onboarding"))
    parts = sa.select(tasks.c.part).join(assignments).where(assignments.c.person == person.id)
    given = list(db.scalars(parts.where(tasks.c.part != "onboarding")))
    if person.role != "labeler":
        return _assign(db, person, _first(db, mine, tasks.c.part == "calibration"))
    quota = study.quota_of(person.name)
    if quota and len(given) >= quota:
        return None
    own = _assigned(person, study)
    calibration = _first(db, mine, tasks.c.part == "calibration", *own)
    if calibration and given.count("calibration") < math.ceil(study.calibration * (len(given) + 1)):
        return _assign(db, person, calibration)
    free = _first(db, mine, tasks.c.part == "work", _people_at_work() < study.people_per_task, *own)
    return _assign(db, person, free or calibration)


def _assigned(person: Person, study: Study) -> list[sa.ColumnElement[bool]]:
    """What holds of the tasks that the study gives a labeler: their kinds, and their batches."""
    own = study.labelers.get(person.name, Labeler())
    conditions = (tasks.c.kind, own.kinds), (_batch(study), own.batches)
    return [column.in_(wanted) for column, wanted in conditions if wanted]


def batches(db: sa.Connection, study: Study) -> set[str]:
    """Those that there are tasks of."""
    return set(db.scalars(sa.select(_batch(study)).distinct()))


def _batch(study: Study) -> sa.ColumnElement[str]:
    """A task's own, or the study's, as in the export."""
    return sa.func.coalesce(sa.func.nullif(tasks.c.record["batch"].as_string(), ""), study.batch)


def _people_at_work():
    """How many people have done a task or are at it."""
    active = assignments.c.done | (~people.c.paused & (assignments.c.seen > time.time() - ABANDONED))
    count = sa.select(func.count()).select_from(assignments.join(people))
    return count.where(assignments.c.task == tasks.c.id, active).correlate(tasks).scalar_subquery()


def _first(db: sa.Connection, mine, *conditions) -> str | None:
    query = sa.select(tasks.c.id).where(tasks.c.id.not_in(mine), *conditions)
    return db.scalar(query.order_by(tasks.c.position).limit(1))


def _assign(db: sa.Connection, person: Person, task: str | None) -> str | None:
    if task:
        now = time.time()
        flipped = bool(random.getrandbits(1))
        row = {"task": task, "person": person.id, "flipped": flipped, "opened": now, "seen": now}
        db.execute(assignments.insert().values(row))
    return task


def open_task(db: sa.Connection, person: Person, task: str) -> Work | None:
    """A task that is somebody's; None where it is another's or does not exist."""
    columns = [assignments.c[name] for name in ("flipped", "step", "fields", "seconds", "done")]
    query = sa.select(tasks.c.id, tasks.c.kind, tasks.c.record, tasks.c.part, *columns).join(assignments)
    row = db.execute(query.where(tasks.c.id == task, assignments.c.person == person.id)).one_or_none()
    return Work(Task(*row[:3]), *row[3:]) if row else None


def save(
    db: sa.Connection, person: Person, work: Work, fields: dict[str, str], step: int | None = None
) -> None:
    """Keeps what is typed, and the number of finished steps where `step` is given."""
    now = time.time()
    pause = sa.func.min(now - assignments.c.seen, float(PAUSE))
    values: dict[str, Any] = {"seen": now, "seconds": assignments.c.seconds + sa.func.max(pause, 0.0)}
    values["fields"] = work.fields | fields
    if step is not None:
        values["step"] = step
    db.execute(assignments.update().where(*_own(person, work)).values(values))


def submit(db: sa.Connection, person: Person, work: Work, key: str, study: Study) -> bool:
    """Turns the saved fields of a task, which must not be done, into its answer.

    Returns False, and changes nothing, where the person's `key` stands for another task's answer.
    """
    if db.execute(sa.select(answers.c.id).where(answers.c.person == person.id, answers.c.id == key)).first():
        return False
    own = _own(person, work)
    fields, seconds = db.execute(sa.select(assignments.c.fields, assignments.c.seconds).where(*own)).one()
    row = {
        "id": key,
        "task": work.task.id,
        "person": person.id,
        "answer": kinds.answer(work.task, fields, work.flipped, study.axes),
        "seconds": seconds,
        "created": time.time(),
    }
    db.execute(answers.insert().values(row))
    db.execute(assignments.update().where(*own).values(done=True))
    if work.part == "onboarding" and study.onboarding:
        _mark(db, person, study.onboarding)
    return True


def given(db: sa.Connection, person: Person, work: Work) -> dict | None:
    """Somebody's answer to a task, if there is one."""
    own = answers.c.person == person.id, answers.c.task == work.task.id
    return db.scalar(sa.select(answers.c.answer).where(*own))


def _own(person: Person, work: Work):
    return assignments.c.person == person.id, assignments.c.task == work.task.id


def _mark(db: sa.Connection, person: Person, pass_mark: Onboarding) -> None:
    """After the last onboarding task: passed or failed."""
    results = onboarding_results(db, person)
    if len(results) == db.scalar(sa.select(func.count()).where(tasks.c.part == "onboarding")):
        share, seconds = score(results)
        passed = share >= pass_mark.agreement and seconds <= pass_mark.seconds
        change(db, person.id, standing="passed" if passed else "failed")


def onboarding_results(db: sa.Connection, person: Person) -> list[tuple[int, int, float]]:
    """Of each onboarding task done: the person's confidence 1–9, the researchers' choice 0/1, seconds."""
    query = sa.select(answers.c.answer, tasks.c.record, answers.c.seconds).join(tasks)
    rows = db.execute(query.where(tasks.c.part == "onboarding", answers.c.person == person.id))
    return [(given["confidence"], record["choice"], seconds) for given, record, seconds in rows]


def score(results: Sequence[tuple[int, int, float]]) -> tuple[float, float]:
    """The share of choices that agree with the researchers', ties left out, and the median seconds."""
    decided = [(confidence > 5) == bool(choice) for confidence, choice, _ in results if confidence != 5]
    seconds = statistics.median(seconds for *_, seconds in results)
    # Somebody who finds everything equal has agreed with nobody.
    return (sum(decided) / len(decided) if decided else 0.0), seconds


def progress(db: sa.Connection, person: Person, study: Study) -> Progress:
    rows = db.execute(
        sa.select(tasks.c.part, answers.c.seconds).join(tasks).where(answers.c.person == person.id)
    ).all()
    seconds = [seconds for part, seconds in rows if part != "onboarding"]
    sizes = _sizes(db)
    quota = study.quota_of(person.name) or None
    if person.role != "labeler":
        quota = sizes.get("calibration", 0)
    return Progress(
        done=len(seconds),
        quota=quota,
        trained=len(rows) - len(seconds),
        training=sizes.get("onboarding", 0),
        seconds=statistics.median(seconds) if seconds else None,
    )

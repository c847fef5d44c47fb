"""Who does which task, and how far they are.

Tasks stand in a random order that is the same for everybody. A labeler gets the calibration tasks
spread over the quota, and in between the first tasks that too few people have, all of the kinds and
batches that the study gives this labeler. Researchers and administrators get the calibration tasks
alone, to measure labelers by.
"""

import math
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import func

from rlhf_jax.feedback.people import Person
from rlhf_jax.feedback.schema import answers, assignments, people, tasks
from rlhf_jax.feedback.study import Labeler, Study
from rlhf_jax.feedback.tasks import Task

ABANDONED = 86_400  # seconds without a sign of work after which a task may go to somebody else


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


def sizes(db: sa.Connection) -> dict[str, int]:
    """The number of tasks of each part."""
    query = sa.select(tasks.c.part, func.count()).group_by(tasks.c.part)
    return {part: count for part, count in db.execute(query)}


def _calibrate(db: sa.Connection, study: Study) -> None:
    """Marks the first tasks nobody has begun as calibration, until the study's share is reached."""
    there = sizes(db)
    total = there.get("work", 0) + there.get("calibration", 0)
    wanted = round(study.calibration * min(study.quota or total, total)) - there.get("calibration", 0)
    begun = sa.select(assignments.c.task)
    first = sa.select(tasks.c.id).where(tasks.c.part == "work", tasks.c.id.not_in(begun))
    chosen = first.order_by(tasks.c.position).limit(max(wanted, 0)).scalar_subquery()
    db.execute(tasks.update().where(tasks.c.id.in_(chosen)).values(part="calibration"))


def next_task(db: sa.Connection, person: Person, study: Study) -> str | None:
    """The task that somebody should do now: the one begun, or a new one; None when all is done."""
    mine = sa.select(assignments.c.task).where(assignments.c.person == person.id)
    at_work = ~assignments.c.done, assignments.c.skipped.is_(None)
    begun = db.scalar(mine.where(*at_work).order_by(assignments.c.opened))
    if begun:
        return begun
    if person.role == "labeler" and not person.may_work and study.onboarding:
        return _assign(db, person, _first(db, mine, tasks.c.part == "onboarding"))
    parts = sa.select(tasks.c.part).join(assignments).where(assignments.c.person == person.id)
    given = list(db.scalars(parts.where(tasks.c.part != "onboarding", assignments.c.skipped.is_(None))))
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
    at_work = ~people.c.paused & (assignments.c.seen > time.time() - ABANDONED)
    active = assignments.c.done | (at_work & assignments.c.skipped.is_(None))
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


def give(db: sa.Connection, person: Person, task: str) -> bool:
    """Gives somebody a real task, whatever the study says, unless they have it; False where there is none."""
    if not db.scalar(sa.select(tasks.c.id).where(tasks.c.id == task, tasks.c.part != "onboarding")):
        return False
    own = assignments.c.task == task, assignments.c.person == person.id
    if not db.scalar(sa.select(assignments.c.task).where(*own)):
        _assign(db, person, task)
    return True


def progress(db: sa.Connection, person: Person, study: Study, there: Mapping[str, int]) -> Progress:
    """`there`: the sizes of the parts."""
    rows = db.execute(
        sa.select(tasks.c.part, answers.c.seconds).join(tasks).where(answers.c.person == person.id)
    ).all()
    seconds = [seconds for part, seconds in rows if part != "onboarding"]
    quota = study.quota_of(person.name) or None
    if person.role != "labeler":
        quota = there.get("calibration", 0)
    return Progress(
        done=len(seconds),
        quota=quota,
        trained=len(rows) - len(seconds),
        training=there.get("onboarding", 0),
        seconds=statistics.median(seconds) if seconds else None,
    )

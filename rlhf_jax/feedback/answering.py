"""A task in somebody's hands: what is typed, the answer that comes of it, changed or skipped."""

import hashlib
import json
import time
from dataclasses import asdict
from typing import NamedTuple

import sqlalchemy as sa

from rlhf_jax.feedback import earlier, onboarding, splits
from rlhf_jax.feedback import tasks as kinds
from rlhf_jax.feedback.people import Person
from rlhf_jax.feedback.schema import answers, assignments, earlier_answers, instructions, tasks
from rlhf_jax.feedback.study import Study
from rlhf_jax.feedback.tasks import Task

PAUSE = 300  # seconds: a longer silence between two signs of work counts as this much work
SAID = ("name", "instructions", "kinds", "steps", "axes")  # of a study, to the people who answer


class Work(NamedTuple):
    """A task in somebody's hands; `fields` is what is typed so far, `step` counts finished steps.

    `version` counts the changes of these, the last of which the page with the key `writer` has made.
    """

    task: Task
    part: str
    flipped: bool
    step: int
    fields: dict[str, str]
    seconds: float
    done: bool
    version: int
    writer: str
    skipped: str | None

    def changed_since(self, version: int | None, key: str) -> bool:
        """Whether another page than that of `key` has changed it after `version`; never after None."""
        return version not in (None, self.version) and key != self.writer


def open_task(db: sa.Connection, person: Person, task: str) -> Work | None:
    """A task that is somebody's; None where it is another's or does not exist."""
    columns = [assignments.c[name] for name in Work._fields[2:]]
    query = sa.select(tasks.c.id, tasks.c.kind, tasks.c.record, tasks.c.part, *columns).join(assignments)
    row = db.execute(query.where(tasks.c.id == task, assignments.c.person == person.id)).one_or_none()
    return Work(Task(*row[:3]), *row[3:]) if row else None


def seen(db: sa.Connection, person: Person, work: Work) -> None:
    """A sign of work."""
    now = time.time()
    pause = sa.func.min(now - assignments.c.seen, float(PAUSE))
    values = {"seen": now, "seconds": assignments.c.seconds + sa.func.max(pause, 0.0)}
    db.execute(assignments.update().where(*_own(person, work)).values(values))


def save(
    db: sa.Connection, person: Person, work: Work, fields: dict[str, str], key: str, step: int | None = None
) -> Work:
    """Keeps what is typed on the page of `key`, and the number of finished steps where `step` is given."""
    seen(db, person, work)
    work = work._replace(fields=work.fields | fields, version=work.version + 1, writer=key)
    if step is not None:
        work = work._replace(step=step)
    kept = {name: getattr(work, name) for name in ("fields", "version", "writer", "step")}
    db.execute(assignments.update().where(*_own(person, work)).values(kept))
    return work


def submit(db: sa.Connection, person: Person, work: Work, key: str, study: Study) -> bool:
    """Turns the saved fields of a task into its answer.

    An answer that the person has given before is kept as an earlier one. Returns False, and changes
    nothing, where the person's `key` stands for an answer already.
    """
    if answered_by(db, person, key):
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
        "instructions": _said(db, study),
    }
    earlier.keep(db, answers.c.person == person.id, answers.c.task == work.task.id)
    db.execute(answers.insert().values(row))
    db.execute(assignments.update().where(*own).values(done=True, skipped=None))
    splits.allot(db, work.task, row["answer"], study.held_out)
    if work.part == "onboarding":
        onboarding.mark(db, person, study)
    return True


def answered_by(db: sa.Connection, person: Person, key: str) -> str | None:
    """The task that a key of the person's has answered, be it that the answer was changed since."""
    for table in (answers, earlier_answers):
        found = sa.select(table.c.task).where(table.c.person == person.id, table.c.id == key)
        if task := db.scalar(found):
            return task
    return None


def skip(db: sa.Connection, person: Person, work: Work, study: Study, reason: str, note: str) -> None:
    """Lays a task that is not done aside; somebody else may do it."""
    db.execute(assignments.update().where(*_own(person, work)).values(skipped=reason, note=note))
    if work.part == "onboarding":
        onboarding.mark(db, person, study)


def may_change(db: sa.Connection, person: Person, work: Work) -> bool:
    """Whether an answer may still be changed: those of the training are explained, exported ones used."""
    own = answers.c.person == person.id, answers.c.task == work.task.id
    exported = db.scalar(sa.select(answers.c.exported).where(*own))
    return work.part != "onboarding" and not exported


def given(db: sa.Connection, person: Person, work: Work) -> dict | None:
    """Somebody's answer to a task, if there is one."""
    own = answers.c.person == person.id, answers.c.task == work.task.id
    return db.scalar(sa.select(answers.c.answer).where(*own))


def _own(person: Person, work: Work):
    return assignments.c.person == person.id, assignments.c.task == work.task.id


def _said(db: sa.Connection, study: Study) -> str:
    """The id of what the study says to people, which is kept."""
    said = {name: value for name, value in asdict(study).items() if name in SAID}
    key = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]
    row = {"id": key, "study": said, "created": time.time()}
    db.execute(instructions.insert().prefix_with("OR IGNORE").values(row))
    return key

"""What somebody has answered, or laid aside, the newest first."""

from typing import NamedTuple

import sqlalchemy as sa

from rlhf_jax.feedback.people import Person
from rlhf_jax.feedback.schema import answers, assignments, earlier_answers, tasks
from rlhf_jax.feedback.tasks import Task, Texts, texts

SHOWN = 500  # newest


class Entry(NamedTuple):
    """One task; `answer` is None where it is skipped. `earlier` are the answers that this one has replaced.

    `texts` stand in the order that the person saw, which for a comparison may be `flipped`.
    """

    task: str
    kind: str
    record: dict
    part: str
    flipped: bool
    answer: dict | None
    seconds: float
    created: float
    exported: bool
    skipped: str | None
    note: str
    earlier: list[dict]

    @property
    def texts(self) -> Texts:
        return texts(Task(self.task, self.kind, self.record), self.flipped)

    def shown(self, confidence: int) -> int:
        """A comparison's choice from 1 to 9 in the order that the person saw."""
        return 10 - confidence if self.flipped else confidence


def of(db: sa.Connection, person: Person) -> list[Entry]:
    own = (answers.c.task == assignments.c.task) & (answers.c.person == assignments.c.person)
    query = sa.select(
        *(tasks.c.id, tasks.c.kind, tasks.c.record, tasks.c.part, assignments.c.flipped),
        *(answers.c.answer, assignments.c.seconds, sa.func.coalesce(answers.c.created, assignments.c.seen)),
        *(sa.func.coalesce(answers.c.exported, False), assignments.c.skipped, assignments.c.note),
    ).select_from(assignments.join(tasks).outerjoin(answers, own))
    over = assignments.c.done | assignments.c.skipped.is_not(None)
    newest = sa.func.coalesce(answers.c.created, assignments.c.seen).desc()
    rows = db.execute(query.where(assignments.c.person == person.id, over).order_by(newest).limit(SHOWN))
    replaced = earlier_of(db, person)
    return [Entry(*row, replaced.get(row[0], [])) for row in rows]


def earlier_of(db: sa.Connection, person: Person) -> dict[str, list[dict]]:
    """By task, the answers of somebody that others have replaced, the oldest first."""
    query = sa.select(earlier_answers.c.task, earlier_answers.c.answer)
    found: dict[str, list[dict]] = {}
    rows = db.execute(query.where(earlier_answers.c.person == person.id).order_by(earlier_answers.c.replaced))
    for task, answer in rows:
        found.setdefault(task, []).append(answer)
    return found

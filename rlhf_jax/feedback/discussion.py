"""What people ask about tasks, and researchers' replies, where everybody sees them."""

import time
from typing import NamedTuple

import sqlalchemy as sa

from rlhf_jax.feedback.people import Person
from rlhf_jax.feedback.schema import assignments, people, questions, replies, tasks
from rlhf_jax.feedback.tasks import Task, Texts, texts

SHOWN = 200  # newest questions on the page


class Reply(NamedTuple):
    name: str
    text: str
    created: float


class Question(NamedTuple):
    """`texts` is the task it is about, None where it is about the work in general."""

    id: str
    person: int
    name: str
    text: str
    created: float
    texts: Texts | None
    replies: list[Reply]


def ask(db: sa.Connection, person: Person, key: str, text: str, task: str | None) -> bool:
    """Returns False where the task is not the person's. Asking again by the same key changes nothing."""
    if task is not None:
        own = assignments.c.task == task, assignments.c.person == person.id
        if not db.execute(sa.select(assignments.c.task).where(*own)).first():
            return False
    row = {"id": key, "task": task, "person": person.id, "text": text, "created": time.time()}
    db.execute(questions.insert().prefix_with("OR IGNORE").values(row))
    return True


def reply(db: sa.Connection, person: Person, key: str, text: str, question: str) -> bool:
    """Returns False where there is no such question."""
    if not db.execute(sa.select(questions.c.id).where(questions.c.id == question)).first():
        return False
    row = {"id": key, "question": question, "person": person.id, "text": text, "created": time.time()}
    db.execute(replies.insert().prefix_with("OR IGNORE").values(row))
    return True


def newest(db: sa.Connection) -> list[Question]:
    answered: dict[str, list[Reply]] = {}
    query = sa.select(replies.c.question, people.c.name, replies.c.text, replies.c.created).join(people)
    for question, *rest in db.execute(query.order_by(replies.c.created)):
        answered.setdefault(question, []).append(Reply(*rest))
    columns = questions.c.id, people.c.id, people.c.name, questions.c.text, questions.c.created
    joined = sa.select(*columns, tasks.c.id, tasks.c.kind, tasks.c.record).join_from(questions, people)
    rows = db.execute(joined.outerjoin(tasks).order_by(questions.c.created.desc()).limit(SHOWN))
    found = []
    for key, person, name, text, created, task, kind, record in rows:
        about = texts(Task(task, kind, record), flipped=False) if task else None
        found.append(Question(key, person, name, text, created, about, answered.get(key, [])))
    return found

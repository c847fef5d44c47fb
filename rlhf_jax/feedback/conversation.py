"""What researchers and one labeler say to each other, where nobody else reads it."""

import time
from typing import NamedTuple

import sqlalchemy as sa

from rlhf_jax.feedback.people import Person
from rlhf_jax.feedback.schema import messages, people


class Message(NamedTuple):
    by: int
    name: str
    text: str
    task: str | None
    created: float


def say(db: sa.Connection, by: Person, person: Person, key: str, text: str, task: str | None) -> None:
    """In the conversation with `person`. By the same key again it changes nothing."""
    row = {"id": key, "person": person.id, "by": by.id, "task": task, "text": text, "created": time.time()}
    db.execute(messages.insert().prefix_with("OR IGNORE").values(row))


def read(db: sa.Connection, reader: Person, person: Person) -> list[Message]:
    """The conversation with `person`, the oldest first; what the other side wrote is seen from now on."""
    own = messages.c.person == person.id
    others = messages.c.by != reader.id if reader.id == person.id else messages.c.by == person.id
    db.execute(messages.update().where(own, others).values(seen=True))
    columns = messages.c.by, people.c.name, messages.c.text, messages.c.task, messages.c.created
    query = sa.select(*columns).join(people, people.c.id == messages.c.by).where(own)
    return [Message(*row) for row in db.execute(query.order_by(messages.c.created))]


def waiting(db: sa.Connection) -> dict[int, int]:
    """By labeler, how many of their messages no researcher has seen."""
    new = messages.c.by == messages.c.person, ~messages.c.seen
    rows = db.execute(sa.select(messages.c.person, sa.func.count()).where(*new).group_by(messages.c.person))
    return dict(rows.all())

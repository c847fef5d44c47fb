"""What was done to somebody's part in the study: when, by whom, and why."""

import time
from typing import NamedTuple

import sqlalchemy as sa

from rlhf_jax.feedback.people import Person
from rlhf_jax.feedback.schema import events, people


class Event(NamedTuple):
    created: float
    by: str
    what: str
    why: str


def log(db: sa.Connection, by: Person, person: Person, what: str, why: str = "") -> None:
    """Keeps that `by` did something to `person`, in the same transaction."""
    row = {"created": time.time(), "by": by.id, "person": person.id, "what": what, "why": why}
    db.execute(events.insert().values(row))


def of(db: sa.Connection, person: Person) -> list[Event]:
    """All of somebody, the newest first."""
    query = sa.select(events.c.created, people.c.name, events.c.what, events.c.why)
    rows = db.execute(query.join(people, people.c.id == events.c.by).where(events.c.person == person.id))
    return [Event(*row) for row in rows.all()[::-1]]


def last(db: sa.Connection, what: str) -> dict[int, Event]:
    """By person, the last time that this was done."""
    query = sa.select(events.c.person, events.c.created, people.c.name, events.c.what, events.c.why)
    rows = db.execute(query.join(people, people.c.id == events.c.by).where(events.c.what == what))
    return {person: Event(*row) for person, *row in rows}

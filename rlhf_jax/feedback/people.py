"""Who takes part: invitations, sessions, roles.

A link is used once and works until the next one is made. Of links and cookies the store has
SHA-256 alone, so a copy of it lets nobody in.
"""

import hashlib
import secrets
import time
from typing import NamedTuple

import sqlalchemy as sa

from rlhf_jax.feedback.store import people, sessions

ROLES = ("labeler", "researcher", "administrator")
USED = "used "  # before the digest of a link, once it is
SESSION_SECONDS = 30 * 86_400


class Person(NamedTuple):
    id: int
    worker: str
    name: str
    role: str
    paused: bool
    standing: str


class Session(NamedTuple):
    person: Person
    csrf: str


COLUMNS = [people.c[name] for name in Person._fields]


def add(db: sa.Connection, name: str, role: str, standing: str = "passed") -> tuple[Person, str]:
    """A new person, and the token of the link that invites them."""
    token = secrets.token_urlsafe(32)
    row = {
        "worker": secrets.token_hex(6),
        "name": name,
        "role": role,
        "invitation": digest(token),
        "paused": False,
        "standing": standing,
        "created": time.time(),
    }
    db.execute(people.insert().values(row))
    return invited(db, token), token  # type: ignore[return-value]


def find(db: sa.Connection, worker: str) -> Person | None:
    return _person(db, people.c.worker == worker)


def everybody(db: sa.Connection) -> list[Person]:
    return [Person(*row) for row in db.execute(sa.select(*COLUMNS).order_by(people.c.id))]


def invite(db: sa.Connection, person: int) -> str:
    """The token of a new link for somebody; an older link that is unused no longer works."""
    token = secrets.token_urlsafe(32)
    change(db, person, invitation=digest(token))
    return token


def invited(db: sa.Connection, token: str) -> Person | None:
    """Whom an unused link invites."""
    return _person(db, people.c.invitation == digest(token))


def came_by(db: sa.Connection, token: str) -> Person | None:
    """Who used a link up, if it is the last that was made for them."""
    return _person(db, people.c.invitation == USED + digest(token))


def join(db: sa.Connection, token: str) -> str | None:
    """Uses a link up: the value of the new session's cookie, or None for a link that does not work."""
    person = invited(db, token)
    if person is None or person.paused:
        return None
    cookie = secrets.token_urlsafe(32)
    change(db, person.id, invitation=USED + digest(token))
    row = {"cookie": digest(cookie), "person": person.id, "csrf": secrets.token_urlsafe(32)}
    db.execute(sessions.insert().values(row | {"created": time.time()}))
    db.execute(sessions.delete().where(sessions.c.created < time.time() - SESSION_SECONDS))
    return cookie


def session(db: sa.Connection, cookie: str) -> Session | None:
    """Whose session a cookie is; None where it is unknown or too old."""
    query = sa.select(sessions.c.csrf, *COLUMNS).join(people)
    known = sessions.c.cookie == digest(cookie), sessions.c.created > time.time() - SESSION_SECONDS
    row = db.execute(query.where(*known)).one_or_none()
    return Session(Person(*row[1:]), row[0]) if row else None


def leave(db: sa.Connection, cookie: str) -> None:
    db.execute(sessions.delete().where(sessions.c.cookie == digest(cookie)))


def sign_out(db: sa.Connection, person: int) -> None:
    """Ends all sessions of somebody."""
    db.execute(sessions.delete().where(sessions.c.person == person))


def change(db: sa.Connection, person: int, **values) -> None:
    db.execute(people.update().where(people.c.id == person).values(**values))


def digest(token: str) -> str:
    # A token is 256 random bits: no salt or slow hash could make it harder to guess. It is found by its
    # digest, so the time that a comparison takes tells nothing about the token.
    return hashlib.sha256(token.encode()).hexdigest()


def _person(db: sa.Connection, condition) -> Person | None:
    row = db.execute(sa.select(*COLUMNS).where(condition)).one_or_none()
    return Person(*row) if row else None

"""Who takes part: invitations, sessions, roles.

A link is used once and works until the next one is made. Of links and cookies the store has
SHA-256 alone, so a copy of it lets nobody in.
"""

import hashlib
import secrets
import time
from typing import NamedTuple

import sqlalchemy as sa

from rlhf_jax.feedback.schema import messages, people, sessions

ROLES = ("labeler", "researcher", "administrator")
USED = "used "  # before the digest of a link, once it is
SESSION_SECONDS = 180 * 86_400  # longer than a study, and than a clock is ever wrong by
SESSIONS = 20  # that one person keeps; older ones end


class Person(NamedTuple):
    id: int
    worker: str
    name: str
    role: str
    paused: bool
    standing: str
    excluded: bool

    @property
    def may_work(self) -> bool:
        """Whether the onboarding, if there is one, stands no longer before the real tasks."""
        return self.standing in ("passed", "waived")


class Session(NamedTuple):
    """`unread`: messages of researchers that the person has not seen."""

    person: Person
    csrf: str
    unread: int


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
    """All who are not deleted."""
    query = sa.select(*COLUMNS).where(~people.c.gone)
    return [Person(*row) for row in db.execute(query.order_by(people.c.id))]


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
    _end_oldest(db, person.id)
    return cookie


def _end_oldest(db: sa.Connection, person: int) -> None:
    """By their number and not by the time: a clock that is wrong for a moment must end nothing."""
    own = sa.select(sessions.c.cookie).where(sessions.c.person == person)
    kept = own.order_by(sa.literal_column("sessions.rowid").desc()).limit(SESSIONS)
    db.execute(sessions.delete().where(sessions.c.person == person, sessions.c.cookie.not_in(kept)))


def session(db: sa.Connection, cookie: str) -> Session | None:
    """Whose session a cookie is; None where it is unknown or too old."""
    new = messages.c.person == people.c.id, messages.c.by != people.c.id, ~messages.c.seen
    unread = sa.select(sa.func.count()).select_from(messages).where(*new).correlate(people)
    query = sa.select(sessions.c.csrf, unread.scalar_subquery(), *COLUMNS).join(people)
    known = sessions.c.cookie == digest(cookie), sessions.c.created > time.time() - SESSION_SECONDS
    row = db.execute(query.where(*known, ~people.c.gone)).one_or_none()
    return Session(Person(*row[2:]), *row[:2]) if row else None


def leave(db: sa.Connection, cookie: str) -> None:
    db.execute(sessions.delete().where(sessions.c.cookie == digest(cookie)))


def sign_out(db: sa.Connection, person: int) -> None:
    """Ends all sessions of somebody."""
    db.execute(sessions.delete().where(sessions.c.person == person))


def change(db: sa.Connection, person: int, **values) -> None:
    db.execute(people.update().where(people.c.id == person).values(**values))


def remove(db: sa.Connection, person: Person) -> None:
    """Takes somebody's name, link and sessions away; what they answered stays, under their random id."""
    sign_out(db, person.id)
    change(db, person.id, name=f"deleted {person.worker}", invitation=None, paused=True, gone=True)


def digest(token: str) -> str:
    # A token is 256 random bits: no salt or slow hash could make it harder to guess. It is found by its
    # digest, so the time that a comparison takes tells nothing about the token.
    return hashlib.sha256(token.encode()).hexdigest()


def _person(db: sa.Connection, condition) -> Person | None:
    row = db.execute(sa.select(*COLUMNS).where(condition, ~people.c.gone)).one_or_none()
    return Person(*row) if row else None

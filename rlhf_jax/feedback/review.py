"""The review desk: what each person has answered, where people disagree, and what was skipped or reported.

Researchers decide a comparison by answering it themselves, and talk with each labeler alone.
"""

from typing import NamedTuple

import sqlalchemy as sa
from starlette.exceptions import HTTPException
from starlette.responses import Response

from rlhf_jax.feedback import answering, conversation, history, hours, people, work
from rlhf_jax.feedback.pages import STAFF, Visit, route
from rlhf_jax.feedback.schema import answers, assignments, tasks
from rlhf_jax.feedback.schema import people as people_table
from rlhf_jax.feedback.task_pages import SKIPS
from rlhf_jax.feedback.tasks import TIE, Task, Texts, texts

SHOWN = 200  # of each list


class Disputed(NamedTuple):
    """A comparison whose answers go both ways; `choices` are (name, 1–9 in the order of the record)."""

    task: str
    texts: Texts
    choices: list[tuple[str, int]]


class Skipped(NamedTuple):
    task: str
    name: str
    reason: str
    note: str
    seen: float
    texts: Texts


def show_desk(visit: Visit) -> Response:
    with visit.site.store.read() as db:
        given = sa.select(answers.c.person, sa.func.count()).group_by(answers.c.person)
        counts: dict[int, int] = dict(db.execute(given).all())
        new = conversation.waiting(db)
        times = hours.worked(db)
        everybody = [
            (person, counts.get(person.id, 0), times.get(person.id), new.get(person.id, 0))
            for person in people.everybody(db)
        ]
        found = disputed(db)
        laid_aside = skipped(db)
    return visit.page("review.jinja", everybody=everybody, disputed=found, skipped=laid_aside, skips=SKIPS)


def show_person(visit: Visit) -> Response:
    """All that somebody answered, the training included, as they saw it."""
    with visit.site.store.write() as db:
        other = _other(db, visit)
        mine = history.of(db, other)
        said = conversation.read(db, visit.person, other)
    return visit.page("reviewed.jinja", other=other, mine=mine, said=said, skips=SKIPS)


def write(visit: Visit) -> Response:
    """Says something to a labeler alone, maybe about a task of theirs."""
    text, task = visit.message(), visit.text("task") or None
    with visit.site.store.write() as db:
        other = _other(db, visit)
        if task and not answering.open_task(db, other, task):
            raise HTTPException(404)
        conversation.say(db, visit.person, other, visit.key(), text, task)
    return visit.go(f"/review/people/{other.worker}")


def judge(visit: Visit) -> Response:
    """Gives the task to who asks, whose answer counts as the researchers'."""
    task = visit.request.path_params["id"]
    with visit.site.store.write() as db:
        if not work.give(db, visit.person, task):
            raise HTTPException(404)
    return visit.go(f"/task/{task}")


def show_messages(visit: Visit) -> Response:
    """Of a labeler with the researchers."""
    with visit.site.store.write() as db:
        said = conversation.read(db, visit.person, visit.person)
    return visit.page("messages.jinja", said=said)


def answer(visit: Visit) -> Response:
    text = visit.message()
    with visit.site.store.write() as db:
        conversation.say(db, visit.person, visit.person, visit.key(), text, None)
    return visit.go("/messages")


def _other(db: sa.Connection, visit: Visit) -> people.Person:
    other = people.find(db, visit.request.path_params["worker"])
    if other is None:
        raise HTTPException(404)
    return other


def show_task(visit: Visit) -> Response:
    """Everybody's answers to a task beside each other, in the order of its record."""
    key = visit.request.path_params["id"]
    with visit.site.store.read() as db:
        row = db.execute(sa.select(tasks.c.id, tasks.c.kind, tasks.c.record).where(tasks.c.id == key)).first()
        if row is None:
            raise HTTPException(404)
        given = sa.select(people_table.c.name, answers.c.answer, answers.c.seconds, answers.c.created)
        said = db.execute(given.join_from(answers, people_table).where(answers.c.task == key)).all()
    entries = [
        (name, history.Entry(*row, "", False, answer, seconds, created, False, None, "", []))
        for name, answer, seconds, created in said
    ]
    return visit.page("reviewed_task.jinja", task=key, texts=texts(Task(*row), False), entries=entries)


def disputed(db: sa.Connection) -> list[Disputed]:
    """Comparisons on which people took different sides, the widest apart first."""
    confidence = answers.c.answer["confidence"].as_integer()
    least, most = sa.func.min(confidence), sa.func.max(confidence)
    both = sa.select(answers.c.task).join(tasks).where(tasks.c.kind == "comparison").group_by(answers.c.task)
    widest = both.having(least < TIE, most > TIE).order_by((most - least).desc()).limit(SHOWN)
    keys = list(db.scalars(widest))
    query = sa.select(tasks.c.id, tasks.c.kind, tasks.c.record, people_table.c.name, answers.c.answer)
    rows = db.execute(
        query.select_from(answers.join(tasks).join(people_table)).where(answers.c.task.in_(keys))
    ).all()
    shown = {key: texts(Task(key, kind, record), False) for key, kind, record, *_ in rows}
    choices: dict[str, list[tuple[str, int]]] = {key: [] for key in keys}
    for key, _, _, name, answer in rows:
        choices[key].append((name, answer["confidence"]))
    return [Disputed(key, shown[key], choices[key]) for key in keys]


def skipped(db: sa.Connection) -> list[Skipped]:
    """What people laid aside, the newest first."""
    columns = tasks.c.id, people_table.c.name, assignments.c.skipped, assignments.c.note, assignments.c.seen
    query = sa.select(*columns, tasks.c.kind, tasks.c.record)
    joined = query.select_from(assignments.join(tasks).join(people_table))
    rows = db.execute(
        joined.where(assignments.c.skipped.is_not(None)).order_by(assignments.c.seen.desc()).limit(SHOWN)
    )
    return [
        Skipped(key, name, reason, note, seen, texts(Task(key, kind, record), False))
        for key, name, reason, note, seen, kind, record in rows
    ]


ROUTES = [
    route("/review", show_desk, roles=STAFF),
    route("/review/people/{worker}", show_person, roles=STAFF, writes=True),
    route("/review/people/{worker}", write, "POST", STAFF),
    route("/review/tasks/{id}", show_task, roles=STAFF),
    route("/review/tasks/{id}", judge, "POST", STAFF),
    route("/messages", show_messages, writes=True),
    route("/messages", answer, "POST"),
]

"""The training set before the real tasks: what somebody made of it, the pass mark, a second try."""

import statistics
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy import func

from rlhf_jax.feedback import earlier
from rlhf_jax.feedback.people import Person, change
from rlhf_jax.feedback.schema import answers, assignments, tasks
from rlhf_jax.feedback.study import Study
from rlhf_jax.feedback.tasks import TIE


def mark(db: sa.Connection, person: Person, study: Study) -> None:
    """After the last onboarding task: passed or failed."""
    done = results(db, person)
    if study.onboarding and len(done) == db.scalar(
        sa.select(func.count()).where(tasks.c.part == "onboarding")
    ):
        share, seconds = score(done)
        passed = share >= study.onboarding.agreement and seconds <= study.onboarding.seconds
        change(db, person.id, standing="passed" if passed else "failed")


def results(db: sa.Connection, person: Person) -> list[tuple[int, int, float]]:
    """Of each onboarding task done: the person's confidence 1–9, the researchers' choice 0/1, seconds.

    A task that is skipped counts as a tie.
    """
    own = (answers.c.task == assignments.c.task) & (answers.c.person == assignments.c.person)
    query = sa.select(answers.c.answer, tasks.c.record, assignments.c.seconds)
    joined = query.select_from(assignments.join(tasks).outerjoin(answers, own))
    over = assignments.c.done | assignments.c.skipped.is_not(None)
    rows = db.execute(joined.where(tasks.c.part == "onboarding", assignments.c.person == person.id, over))
    return [
        (said["confidence"] if said else TIE, record["choice"], seconds) for said, record, seconds in rows
    ]


def score(results: Sequence[tuple[int, int, float]]) -> tuple[float, float]:
    """The share of choices that agree with the researchers', and the median seconds.

    A tie agrees with nobody, as the researchers have decided each of these.
    """
    agreed = [confidence != TIE and (confidence > TIE) == bool(choice) for confidence, choice, _ in results]
    return sum(agreed) / len(agreed), statistics.median(seconds for *_, seconds in results)


def again(db: sa.Connection, person: Person) -> None:
    """Has somebody do the training once more; the answers of the first time are kept as earlier ones."""
    training = sa.select(tasks.c.id).where(tasks.c.part == "onboarding")
    earlier.keep(db, answers.c.person == person.id, answers.c.task.in_(training))
    own = assignments.c.person == person.id, assignments.c.task.in_(training)
    db.execute(assignments.delete().where(*own))
    change(db, person.id, standing="training")

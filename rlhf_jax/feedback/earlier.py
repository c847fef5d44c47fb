"""Answers that others have replaced: kept, and out of what is counted."""

import time

import sqlalchemy as sa

from rlhf_jax.feedback.schema import answers, earlier_answers


def keep(db: sa.Connection, *which: sa.ColumnElement[bool]) -> None:
    """Moves answers to the earlier ones."""
    names = [column.name for column in earlier_answers.columns if column.name != "replaced"]
    moved = sa.select(*(answers.c[name] for name in names), sa.literal(time.time())).where(*which)
    db.execute(earlier_answers.insert().from_select([*names, "replaced"], moved))
    db.execute(answers.delete().where(*which))

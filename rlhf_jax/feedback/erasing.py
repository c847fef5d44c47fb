"""What somebody wrote, taken out of the store for good."""

import sqlalchemy as sa

from rlhf_jax.feedback.people import Person
from rlhf_jax.feedback.schema import answers, assignments, earlier_answers, messages, questions, replies


def erase(db: sa.Connection, person: Person) -> None:
    """Deletes all answers, drafts and messages of somebody, with the replies to their questions.

    Exports that were made before still hold the answers.
    """
    asked = sa.select(questions.c.id).where(questions.c.person == person.id)
    db.execute(replies.delete().where((replies.c.person == person.id) | replies.c.question.in_(asked)))
    db.execute(messages.delete().where((messages.c.person == person.id) | (messages.c.by == person.id)))
    for table in (questions, answers, earlier_answers, assignments):
        db.execute(table.delete().where(table.c.person == person.id))

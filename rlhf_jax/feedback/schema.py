"""The tables of a store: who takes part, what there is to do, and what was answered."""

import sqlalchemy as sa
from sqlalchemy import Boolean, Column, Float, ForeignKey, Integer, Table, Text

VERSION = 2  # of the tables, kept in the file; migration.py brings older ones here

metadata = sa.MetaData()

# role: labeler, researcher or administrator. standing: training, failed, passed or waived (the onboarding).
# `worker` stands for the person in exports; `invitation` is the SHA-256 of the token of the newest link,
# behind "used " once it is. `excluded`: the answers are left out of exports. `gone`: deleted; the row stays
# for what refers to it, without the name.
people = Table(
    "people",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("worker", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("invitation", Text, unique=True),
    Column("paused", Boolean, nullable=False, default=False),
    Column("standing", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("excluded", Boolean, nullable=False, server_default="0"),
    Column("gone", Boolean, nullable=False, server_default="0"),
)
# `cookie` is the SHA-256 of the cookie's value.
sessions = Table(
    "sessions",
    metadata,
    Column("cookie", Text, primary_key=True),
    Column("person", ForeignKey("people.id"), nullable=False),
    Column("csrf", Text, nullable=False),
    Column("created", Float, nullable=False),
)
# `part`: work, calibration (everybody does it) or onboarding. `position` orders the tasks.
tasks = Table(
    "tasks",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("record", sa.JSON, nullable=False),
    Column("part", Text, nullable=False, index=True),
    Column("position", Float, nullable=False, index=True),
)
# A person's task. `flipped`: the second summary of the record is shown first. `step` and `fields`: how
# far the person is, and what is typed; `version` counts the changes of the two, and `writer` is the key of
# the page that made the last. `seen`: the last sign of work; `seconds`: time worked. `skipped`: why the
# person does not do it, if so, and `note` what they say of that.
assignments = Table(
    "assignments",
    metadata,
    Column("task", ForeignKey("tasks.id"), primary_key=True),
    Column("person", ForeignKey("people.id"), primary_key=True, index=True),
    Column("flipped", Boolean, nullable=False),
    Column("step", Integer, nullable=False, default=0),
    Column("fields", sa.JSON, nullable=False, default=dict),
    Column("opened", Float, nullable=False),
    Column("seen", Float, nullable=False),
    Column("seconds", Float, nullable=False, default=0.0),
    Column("done", Boolean, nullable=False, default=False),
    Column("version", Integer, nullable=False, server_default="0"),
    Column("writer", Text, nullable=False, server_default=""),
    Column("skipped", Text),
    Column("note", Text, nullable=False, server_default=""),
)
# What a study said to people: instructions, axes, steps. `id` is a hash of `study`.
instructions = Table(
    "instructions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("study", sa.JSON, nullable=False),
    Column("created", Float, nullable=False),
)
# `id` is the key that the form's page has made: sent again, it changes nothing. `instructions`: those that
# applied; None of answers older than that table. `exported`: an export has it, so it stays as it is.
answers = Table(
    "answers",
    metadata,
    Column("person", ForeignKey("people.id"), primary_key=True),
    Column("id", Text, primary_key=True),
    Column("task", ForeignKey("tasks.id"), nullable=False, index=True),
    Column("answer", sa.JSON, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("created", Float, nullable=False),
    Column("instructions", ForeignKey("instructions.id")),
    Column("exported", Boolean, nullable=False, server_default="0"),
    sa.UniqueConstraint("person", "task"),
)
# Answers that their person has changed since, or that a second try at the training has replaced.
earlier_answers = Table(
    "earlier_answers",
    metadata,
    Column("person", ForeignKey("people.id"), primary_key=True),
    Column("id", Text, primary_key=True),
    Column("task", ForeignKey("tasks.id"), nullable=False),
    Column("answer", sa.JSON, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("created", Float, nullable=False),
    Column("instructions", ForeignKey("instructions.id")),
    Column("replaced", Float, nullable=False),
)
# The conversation of researchers with one labeler, `person`, which no other labeler reads; about a task or
# none. `seen`: the other side has opened it.
messages = Table(
    "messages",
    metadata,
    Column("id", Text, primary_key=True),
    Column("person", ForeignKey("people.id"), nullable=False, index=True),
    Column("by", ForeignKey("people.id"), nullable=False),
    Column("task", ForeignKey("tasks.id")),
    Column("text", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("seen", Boolean, nullable=False, server_default="0"),
)
# In which split the answers of a kind about a post are, by the post's id, from the first of them on.
splits = Table(
    "splits",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("post", Text, primary_key=True),
    Column("split", Text, nullable=False),
)
# What was done to somebody's part in the study: `what` by whom, and why if they said so. Nothing is deleted.
events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("created", Float, nullable=False),
    Column("by", ForeignKey("people.id"), nullable=False),
    Column("person", ForeignKey("people.id"), nullable=False, index=True),
    Column("what", Text, nullable=False),
    Column("why", Text, nullable=False),
)
questions = Table(
    "questions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("task", ForeignKey("tasks.id")),
    Column("person", ForeignKey("people.id"), nullable=False),
    Column("text", Text, nullable=False),
    Column("created", Float, nullable=False),
)
replies = Table(
    "replies",
    metadata,
    Column("id", Text, primary_key=True),
    Column("question", ForeignKey("questions.id"), nullable=False),
    Column("person", ForeignKey("people.id"), nullable=False),
    Column("text", Text, nullable=False),
    Column("created", Float, nullable=False),
)

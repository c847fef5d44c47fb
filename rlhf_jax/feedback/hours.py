"""How long each person has worked on the labelling site, and what that is in pay.

rlhf-jax hours --store=feedback.sqlite --pay=15

--store=FILE  the site's store; it may be running
--pay=RATE    what an hour is paid, in any currency

Time counts from when somebody opens a task, whether it is answered or skipped then, the training and its
further tries included. Of a silence between two signs of work at most five minutes count.
"""

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa
from absl import flags

from rlhf_jax.command_line import command, parse_flags
from rlhf_jax.feedback.schema import assignments, earlier_answers, people, tasks
from rlhf_jax.feedback.store import Store


class Worked(NamedTuple):
    """One person's real tasks, and the seconds of all, of which `training` are the training's."""

    name: str
    answered: int
    skipped: int
    seconds: float
    training: float


def main(argv: list[str]) -> int:
    def run() -> None:
        options = flags.FlagValues()
        flags.DEFINE_string("store", None, "the site's store", required=True, flag_values=options)
        flags.DEFINE_float("pay", None, "what an hour is paid", 0.0, flag_values=options)
        parse_flags(argv, options)
        with contextlib.closing(Store(options.store, must_exist=True)) as store, store.read() as db:
            print(table(list(worked(db).values()), options.pay))

    return command(argv, run)


def worked(db: sa.Connection) -> dict[int, Worked]:
    """By the id of each person who has begun a task; the deleted are there where their answers are."""
    columns = (
        assignments.c.person,
        tasks.c.part,
        assignments.c.done,
        assignments.c.skipped,
        assignments.c.seconds,
    )
    begun = sa.select(*columns).join_from(assignments, tasks)
    # Another try at the training begins its tasks anew: what they took before stands in the earlier answers
    # alone. Of every other task, the time goes on when the answer is changed.
    again = earlier_answers.c.person, tasks.c.part, sa.false(), sa.null(), earlier_answers.c.seconds
    before = sa.select(*again).join_from(earlier_answers, tasks).where(tasks.c.part == "onboarding")
    all_times = begun.union_all(before).subquery()
    real, own = all_times.c.part != "onboarding", all_times.c
    sums = (
        sa.func.count().filter(real, own.done),
        sa.func.count().filter(real, own.skipped.is_not(None)),
        sa.func.total(own.seconds),
        sa.func.total(own.seconds).filter(~real),
    )
    query = sa.select(people.c.id, people.c.name, *sums).join(all_times, own.person == people.c.id)
    rows = db.execute(query.group_by(people.c.id).order_by(people.c.id))
    return {person: Worked(*found) for person, *found in rows}


def table(people: Sequence[Worked], pay: float | None) -> str:
    """The hours, and with `pay` for one of them what they are paid, of each person and of all."""
    width = max([len(one.name) for one in people] + [len("together")]) + 2
    heads = f"{'':{width}}{'answered':>9}{'skipped':>9}{'hours':>9}{'training':>10}"
    lines = [heads + (f"{'pay':>12}" if pay is not None else "")]
    sums = (sum(column) for column in zip(*(one[1:] for one in people), strict=True))
    for one in [*people, Worked("together", *sums)] if people else []:
        hours, training = one.seconds / 3600, one.training / 3600
        line = f"{one.name:{width}}{one.answered:9,}{one.skipped:9,}{hours:9.2f}{training:10.2f}"
        lines.append(line + (f"{pay * hours:12,.2f}" if pay is not None else ""))
    return "\n".join(lines)

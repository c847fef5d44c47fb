"""In which split answers are exported: a post is never in two, and every study has some to hold out.

A post is given its split by the first answer that something is learned from, and keeps it. The fourth
post of a kind of task is the first of valid1 and the eighth of valid2, with the usual share of 5%, so
that a pilot of a few posts already trains; which posts those are is left to the order of the tasks,
which is random.
"""

import hashlib
import math
from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy import func

from rlhf_jax.feedback.schema import splits
from rlhf_jax.feedback.tasks import SPLITS, TIE, Task, info_of

HEAD_STARTS = {"valid1": 0.8, "valid2": 0.6}  # of one post, by which held-out splits are ahead of their share


def allot(db: sa.Connection, task: Task, answer: Mapping, held_out: float) -> None:
    """Gives the post of an answered task its split, unless it has one or the answer is a tie."""
    if task.record.get("split") in SPLITS or answer.get("confidence") == TIE:
        return
    post = info_of(task.record).id
    known = dict(db.execute(sa.select(splits.c.kind, splits.c.split).where(splits.c.post == post)).all())
    if task.kind not in known:
        sizes = sa.select(splits.c.split, func.count()).where(splits.c.kind == task.kind)
        counts: dict[str, int] = dict(db.execute(sizes.group_by(splits.c.split)).all())
        split = next(iter(known.values()), None) or draw(counts, held_out)
        db.execute(splits.insert().values(kind=task.kind, post=post, split=split))


def draw(counts: Mapping[str, int], held_out: float) -> str:
    """The split of one more post, where each has so many; `held_out` is the share of valid1 and of valid2."""
    posts = sum(counts.values()) + 1
    for split, start in HEAD_STARTS.items():
        if counts.get(split, 0) < math.floor(round(held_out * posts + start, 9)):
            return split
    return "train"


def by_hash(post: str) -> str:
    """The split of a post that depends on its id alone: 90% train, 5% valid1, 5% valid2."""
    place = int.from_bytes(hashlib.sha256(b"split\n" + post.encode()).digest()[:8], "big") / 2**64
    return "train" if place < 0.90 else "valid1" if place < 0.95 else "valid2"


def known(db: sa.Connection) -> dict[tuple[str, str], str]:
    """The split of each kind and post."""
    return {(kind, post): split for kind, post, split in db.execute(sa.select(splits))}

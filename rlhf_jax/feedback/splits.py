"""In which split answers are exported: a post is never in two, and every study has some to hold out.

A post is given its split by the first answer that something is learned from, and keeps it; until an export
has it, another share to hold out may move it. The fourth post of a kind of task is the first of valid1 and
the eighth of valid2, with the usual share of 5%, so that a pilot of a few posts already trains; which posts
those are is left to the order of the tasks, which is random.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping

import sqlalchemy as sa
from sqlalchemy import func

from rlhf_jax.feedback.schema import answers, splits, tasks
from rlhf_jax.feedback.tasks import SPLITS, TIE, Task, info_of

HEAD_STARTS = {"valid1": 0.8, "valid2": 0.6}  # of one post, by which held-out splits are ahead of their share
OF_POSTS = {
    "train": "train",
    "valid1": "valid",
    "valid2": "test",
    "test": "test",
}  # as splits of posts are called
UNSURE = 0.15  # half of an accuracy's interval, beyond which it hardly tells a reward model from a coin


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


def redraw(db: sa.Connection, held_out: float) -> None:
    """Gives the posts that no export has had their splits anew, in the order in which they were answered."""
    exported = sa.select(tasks.c.record).join(answers).where(answers.c.exported)
    kept = {info_of(record).id for record in db.scalars(exported)}
    in_order = sa.select(splits).order_by(sa.literal_column("splits.rowid"))
    rows = [(kind, post, split) for kind, post, split in db.execute(in_order)]
    of_post = {post: split for _, post, split in rows if post in kept}
    counts: dict[str, Counter[str]] = {kind: Counter() for kind, _, _ in rows}
    for kind, post, split in rows:
        counts[kind][split] += post in kept
    for kind, post, _ in rows:
        if post not in kept:
            split = of_post.setdefault(post, draw(counts[kind], held_out))
            counts[kind][split] += 1
            own = splits.c.kind == kind, splits.c.post == post
            db.execute(splits.update().where(*own).values(split=split))


def draw(counts: Mapping[str, int], held_out: float) -> str:
    """The split of one more post, where each has so many; `held_out` is the share of valid1 and of valid2."""
    posts = sum(counts.values()) + 1
    for split, start in HEAD_STARTS.items():
        if counts.get(split, 0) < math.floor(round(held_out * posts + start, 9)):
            return split
    return "train"


def told(comparisons: Mapping[str, int], posts: Mapping[str, int]) -> Iterator[str]:
    """Lines on how much each split has, with a warning about each that is too small."""
    if not comparisons:
        yield "comparisons: none"
        return
    there = [split for split in SPLITS if comparisons[split]]
    yield "comparisons: " + ", ".join(f"{comparisons[s]} of {s} ({posts[s]} posts)" for s in there)
    for split in ("train", "valid1"):
        if split not in there:
            yield f"warning: no comparison is in {split}, and a reward model needs some"
    for split in HEAD_STARTS:
        if split in there and (margin := unsure(comparisons[split])) > UNSURE:
            yield (
                f"warning: by the {comparisons[split]} comparisons of {split} an accuracy is known to within "
                f"{100 * margin:.0f} points: ask about more posts, or hold out more of them (--held_out)"
            )


def unsure(comparisons: int) -> float:
    """Half of Wilson's 95% interval around an accuracy of a half."""
    z = 1.96
    return z / (2 * math.sqrt(comparisons + z**2))


def by_hash(post: str) -> str:
    """The split of a post that depends on its id alone: 90% train, 5% valid1, 5% valid2."""
    place = int.from_bytes(hashlib.sha256(b"split\n" + post.encode()).digest()[:8], "big") / 2**64
    return "train" if place < 0.90 else "valid1" if place < 0.95 else "valid2"


def known(db: sa.Connection) -> dict[tuple[str, str], str]:
    """The split of each kind and post."""
    return {(kind, post): split for kind, post, split in db.execute(sa.select(splits))}

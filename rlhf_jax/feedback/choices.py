"""What one person said about one pair of summaries."""

from collections.abc import Iterable
from typing import NamedTuple

from rlhf_jax.feedback.tasks import TIE

EVERYONE = ("labeler", "researcher")


class Answer(NamedTuple):
    """What one person said about one pair of summaries.

    `task` names the pair, `role` is labeler or researcher (others are not counted). `choice` is 1–9
    in the order that the task itself has, whatever order the person saw. `created` is in seconds
    since the epoch; `seconds` is how long the answer took; `flipped` says whether the second summary was
    shown first, and `longer` is the index of the longer one. Each is None if unknown.
    """

    task: str
    worker: str
    role: str
    choice: int
    created: float = 0.0
    seconds: float | None = None
    flipped: bool | None = None
    longer: int | None = None

    @property
    def side(self) -> int:
        """0 or 1, the better summary; of a tie, meaningless."""
        return int(self.choice > TIE)

    @property
    def place(self) -> int | None:
        """0 where the better summary was shown first, else 1."""
        return None if self.flipped is None else self.side ^ self.flipped


def newest_answers(answers: Iterable[Answer]) -> list[Answer]:
    """Of labelers and researchers, the newest answer of each person about each task, oldest first."""
    newest: dict[tuple[str, str], Answer] = {}
    for answer in sorted(answers, key=lambda answer: answer.created):
        if answer.role in EVERYONE:
            newest.pop((answer.task, answer.worker), None)
            newest[answer.task, answer.worker] = answer
    return list(newest.values())

"""Who is warned about: the careless soon, and hardly ever an honest person."""

import numpy as np
import pytest

from rlhf_jax.feedback.agreement import summary
from rlhf_jax.feedback.choices import Answer


def crowd(rng, tasks: int, honest: int = 4) -> list[Answer]:
    """Honest people: right three times in four, a tie in ten, half a minute or so, no habit of place."""
    return [one for person in range(honest) for one in labeler(rng, f"honest {person}", tasks)]


def labeler(rng, name: str, tasks: int, right: float = 0.75, ties: float = 0.1, seconds: float = 40.0):
    """The right side of task i is i % 2, its longer summary is random by task."""
    for i in range(tasks):
        side = i % 2 if rng.random() < right else 1 - i % 2
        choice = 5 if rng.random() < ties else int(rng.integers(6, 10)) if side else int(rng.integers(1, 5))
        took = float(rng.lognormal(np.log(seconds), 0.5))
        yield Answer(f"t{i}", name, "labeler", choice, 0.0, took, bool(rng.integers(2)), int(i % 4 > 1))


def fast(one: Answer) -> Answer:
    return one._replace(seconds=2.0)


def always_left(one: Answer) -> Answer:
    return one._replace(choice=8 if one.flipped else 2)


def always_equal(one: Answer) -> Answer:
    return one._replace(choice=5)


def always_longer(one: Answer) -> Answer:
    return one._replace(choice=8 if one.longer else 2)


def always_wrong(one: Answer) -> Answer:
    return one._replace(choice=2 if int(one.task[1:]) % 2 else 8)


@pytest.mark.parametrize(
    "habit, said, within",
    [
        (fast, "takes 2 s a task, the others", 10),
        (always_left, "takes the summary shown first on 100%", 20),
        (always_equal, "finds both equal on 100%", 10),
        (always_longer, "takes the longer summary on 100%", 40),
        (always_wrong, "agrees with the others on", 10),
    ],
)
def test_a_habit_is_seen_within_so_many_tasks(habit, said, within):
    rng = np.random.default_rng(0)
    answers = [*crowd(rng, within), *map(habit, labeler(rng, "Cheat", within, right=0.95))]
    found = [one for one in summary(answers, resamples=2)["warnings"] if one.startswith("Cheat")]
    assert any(one.startswith(f"Cheat {said}") for one in found), found


def test_two_who_copy_are_named_together():
    rng = np.random.default_rng(0)
    answers = crowd(rng, 20)
    copied = [one._replace(worker="copy") for one in answers if one.worker == "honest 0"]
    assert summary([*answers, *copied], resamples=2)["warnings"] == [
        "copy and honest 0 gave the same number of nine on 100% of 20 pairs"
    ]


@pytest.mark.parametrize("crowds", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_honest_people_are_hardly_ever_warned_about(crowds):
    """Of honest labelers of 30 shared tasks, each among four others, at most one in a hundred."""
    rng = np.random.default_rng(1)
    warned = sum(len(summary(crowd(rng, 30, 5), resamples=2)["warnings"]) for _ in range(crowds))
    assert warned <= 5 * crowds / 100

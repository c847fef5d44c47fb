"""Who gets which task: everybody the calibration, others few; and how onboarding ends."""

import time
from collections import Counter
from dataclasses import replace

import pytest
import sqlalchemy as sa
from labelling import pair, single, tasks_of

from rlhf_jax.feedback import answering, people, work
from rlhf_jax.feedback.schema import assignments, tasks
from rlhf_jax.feedback.store import Store
from rlhf_jax.feedback.study import Labeler, Onboarding, Study


class Room:
    """A store with tasks, and people who do them."""

    def __init__(self, folder, study: Study, records: int, training: int = 0):
        self.store, self.study = Store(folder / "s.sqlite"), study
        self.folder = folder
        onboarding = (
            tasks_of(folder, [pair(1000 + i, choice=1) for i in range(training)], study) if training else []
        )
        self.add([pair(i) for i in range(records)], onboarding)

    def add(self, records, onboarding=()) -> int:
        with self.store.write() as db:
            return work.add_tasks(db, tasks_of(self.folder, records, self.study), onboarding, self.study)

    def person(self, name: str, role: str = "labeler", standing: str = "passed"):
        with self.store.write() as db:
            return people.add(db, name, role, standing)[0]

    def next(self, person) -> str | None:
        with self.store.write() as db:
            return work.next_task(db, person, self.study)

    def do(self, person, choice: int | None = None) -> str | None:
        """Does the next task, by a choice in the record's order where one is given; returns the task."""
        task = self.next(person)
        if task is not None:
            with self.store.write() as db:
                own = answering.open_task(db, person, task)
                shown = 1 if choice is None else 10 - choice if own.flipped else choice
                ratings = {f"axis_{axis.name}": "4" for axis in self.study.axes}
                key = f"{person.worker} {task}"
                answering.save(db, person, own, {"choice": str(shown)} | ratings, key)
                assert answering.submit(db, person, own, key, self.study)
        return task

    def do_all(self, person) -> list[str]:
        return list(iter(lambda: self.do(person), None))

    def part(self, part: str) -> set[str]:
        with self.store.read() as db:
            return set(db.scalars(sa.select(tasks.c.id).where(tasks.c.part == part)))

    def find(self, person):
        with self.store.read() as db:
            return people.find(db, person.worker)


def test_everybody_does_the_calibration_and_each_other_task_goes_to_one(tmp_path):
    room = Room(tmp_path, Study(calibration=0.2, quota=10), records=26)
    done = [room.do_all(room.person(name)) for name in ("Ana", "Bo", "Cem")]
    calibration = room.part("calibration")
    assert len(calibration) == 2  # a fifth of the quota
    assert all(len(own) == 10 and calibration < set(own) for own in done)
    times = Counter(task for own in done for task in own)
    assert {count for task, count in times.items() if task not in calibration} == {1}
    assert len(times) == 26


def test_without_a_quota_people_do_all_there_is(tmp_path):
    room = Room(tmp_path, Study(calibration=0.5), records=6)
    assert [len(room.do_all(room.person(name))) for name in ("Ana", "Bo")] == [6, 3]


@pytest.mark.parametrize("wanted", [1, 2, 3])
def test_a_task_goes_to_as_many_people_as_configured(tmp_path, wanted):
    room = Room(tmp_path, Study(calibration=0.0, people_per_task=wanted), records=4)
    done = [task for name in "abcd" for task in room.do_all(room.person(name))]
    assert set(Counter(done).values()) == {wanted} and len(set(done)) == 4


def test_calibration_tasks_are_spread_over_the_work(tmp_path):
    room = Room(tmp_path, Study(calibration=0.2, quota=20), records=40)
    own = room.do_all(room.person("Ana"))
    calibration = room.part("calibration")
    assert [i for i, task in enumerate(own) if task in calibration] == [0, 5, 10, 15]


def test_researchers_do_the_calibration_alone(tmp_path):
    room = Room(tmp_path, Study(calibration=0.25), records=8)
    for role in ("researcher", "administrator"):
        assert set(room.do_all(room.person(role, role))) == room.part("calibration")


def test_a_labeler_with_a_quota_of_their_own_stops_there(tmp_path):
    labelers = {"Ana": Labeler(quota=3), "Bo": Labeler(quota=0)}
    room = Room(tmp_path, Study(calibration=0.25, quota=8, labelers=labelers), records=30)
    ana, bo, cem = (room.person(name) for name in ("Ana", "Bo", "Cem"))
    assert [len(room.do_all(person)) for person in (ana, cem, bo)] == [
        3,
        8,
        22,
    ]  # Bo: 2 of everybody, the 20 left
    with room.store.read() as db:
        assert [work.progress(db, p, room.study, work.sizes(db)).quota for p in (ana, bo, cem)] == [
            3,
            None,
            8,
        ]


def test_a_labeler_gets_the_kinds_and_batches_that_are_theirs(tmp_path):
    """Tasks without a batch are of the study's; calibration tasks of others are not asked either."""
    labelers = {
        "Ana": Labeler(kinds=("likert",)),
        "Bo": Labeler(batches=("round2", "site")),
        "Cem": Labeler(kinds=("comparison",), batches=("round1",)),
        "Dee": Labeler(batches=("nowhere",)),
    }
    study = Study(kinds=("comparison", "likert"), calibration=0.5, people_per_task=9, labelers=labelers)
    room = Room(tmp_path, study, records=4)
    room.add([pair(10 + i, batch=f"round{i % 2 + 1}") for i in range(8)] + [single(i) for i in range(6)])
    with room.store.read() as db:
        rows = db.execute(sa.select(tasks.c.id, tasks.c.kind, tasks.c.record)).all()
    kinds = {task: (kind, record.get("batch", "site")) for task, kind, record in rows}
    done = {
        name: Counter(kinds[task] for task in room.do_all(room.person(name))) for name in ("Ana", "Bo", "Cem")
    }
    assert done["Ana"] == {("likert", "site"): 6}
    assert done["Bo"] == {("comparison", "round2"): 4, ("comparison", "site"): 4, ("likert", "site"): 6}
    assert done["Cem"] == {("comparison", "round1"): 4}
    assert room.next(room.person("Dee")) is None
    assert len(room.do_all(room.person("Eli"))) == 18  # whom the study does not name


def test_a_begun_task_is_the_next_until_it_is_done(tmp_path):
    room = Room(tmp_path, Study(), records=5)
    ana = room.person("Ana")
    task = room.next(ana)
    assert room.next(ana) == task == room.do(ana)
    assert room.next(ana) != task


def test_a_task_that_was_abandoned_or_whose_person_is_paused_goes_to_somebody_else(tmp_path):
    room = Room(tmp_path, Study(calibration=0.0), records=1)
    ana, bo, cem = (room.person(name) for name in ("Ana", "Bo", "Cem"))
    task = room.next(ana)
    assert room.next(bo) is None
    with room.store.write() as db:
        people.change(db, ana.id, paused=True)
    assert room.next(bo) == task and room.next(cem) is None
    with room.store.write() as db:
        db.execute(assignments.update().values(seen=time.time() - work.ABANDONED - 1))
    assert room.do(cem) == task
    with room.store.write() as db:
        people.change(db, cem.id, paused=True)
    assert room.next(room.person("Dee")) is None  # what is done stays done


def test_the_order_of_the_summaries_is_drawn_for_each_person(tmp_path):
    room = Room(tmp_path, Study(calibration=1.0), records=40)
    for name in ("Ana", "Bo"):
        room.do_all(room.person(name))
    with room.store.read() as db:
        rows = db.execute(sa.select(assignments.c.task, assignments.c.flipped)).all()
    assert 20 < sum(flipped for _, flipped in rows) < 60  # of 80; outside, once in 100,000
    assert 5 < sum(count == 1 for count in Counter(rows).values()) / 2 < 35  # differs between the two


def test_a_start_with_the_same_file_adds_nothing_and_one_with_more_adds_those(tmp_path):
    room = Room(tmp_path, Study(calibration=0.5), records=4)
    before = room.part("calibration")
    assert room.add([pair(i) for i in range(4)]) == 0 and room.part("calibration") == before
    assert room.add([pair(i) for i in range(10)]) == 6
    assert before < room.part("calibration") and len(room.part("calibration")) == 5


def test_a_task_somebody_has_done_does_not_become_calibration(tmp_path):
    room = Room(tmp_path, Study(calibration=0.0), records=3)
    done = room.do(room.person("Ana"))
    room.study = replace(room.study, calibration=1.0)
    room.add([pair(0)])
    assert room.part("work") == {done}


@pytest.mark.parametrize(
    "choices, seconds, standing",
    [
        ([9, 7, 6, 2], 10, "passed"),  # three of four agree: exactly the mark
        ([9, 7, 1, 2], 10, "failed"),
        ([5, 8, 8, 8], 10, "passed"),  # a tie agrees with nobody
        ([5, 5, 8, 8], 10, "failed"),
        ([5, 5, 5, 5], 10, "failed"),
        ([9, 9, 9, 9], 70, "failed"),  # too slow
    ],
)
def test_onboarding_ends_by_agreement_and_speed(tmp_path, choices, seconds, standing):
    study = Study(calibration=0.0, onboarding=Onboarding(tmp_path / "x", agreement=0.75, seconds=60))
    room = Room(tmp_path, study, records=2, training=4)
    ana = room.person("Ana", standing="training")
    for i, choice in enumerate(choices):
        assert room.find(ana).standing == "training", i
        task = room.next(ana)
        assert task in room.part("onboarding")
        with room.store.write() as db:
            db.execute(assignments.update().where(~assignments.c.done).values(seconds=float(seconds)))
        room.do(ana, choice)
    ana = room.find(ana)
    assert ana.standing == standing
    assert (room.next(ana) is not None) == (standing == "passed")


def test_time_counts_work_and_not_the_breaks(tmp_path):
    room = Room(tmp_path, Study(), records=1)
    ana = room.person("Ana")
    task = room.next(ana)

    def sign_of_work(later: float) -> float:
        with room.store.write() as db:
            db.execute(assignments.update().values(seen=assignments.c.seen - later))
            answering.seen(db, ana, answering.open_task(db, ana, task))
            return answering.open_task(db, ana, task).seconds

    assert sign_of_work(20) == pytest.approx(20, abs=2)
    assert sign_of_work(40) == pytest.approx(60, abs=2)
    assert sign_of_work(10_000) == pytest.approx(60 + answering.PAUSE, abs=2)
    assert sign_of_work(-50) == pytest.approx(60 + answering.PAUSE, abs=2)  # a clock that was set back


def test_progress_counts_real_tasks_and_training_apart(tmp_path):
    study = Study(calibration=0.0, quota=3, onboarding=Onboarding(tmp_path / "x", agreement=0.0))
    room = Room(tmp_path, study, records=9, training=2)
    ana = room.person("Ana", standing="training")
    for _ in range(3):
        room.do(room.find(ana))
    with room.store.read() as db:
        progress = work.progress(db, room.find(ana), study, work.sizes(db))
    assert (progress.done, progress.quota, progress.trained, progress.training) == (1, 3, 2, 2)

"""Hours and pay of each person, as the site has measured them."""

import pytest
from labelling import answer_all, answered, join, make_site, pair

from rlhf_jax.feedback import onboarding, people
from rlhf_jax.feedback.hours import Worked, main, worked


@pytest.fixture
def store(tmp_path):
    """Ana has answered four tasks, half an hour each, and laid aside a fifth; the first two were training."""
    store = answered(tmp_path, [pair(i) for i in range(5)], lambda _: {"choice": "1"})
    with store.write() as db:
        first = "SELECT id FROM tasks ORDER BY position LIMIT"
        db.exec_driver_sql("UPDATE assignments SET seconds = 1800")
        db.exec_driver_sql("UPDATE answers SET seconds = 1800")
        db.exec_driver_sql(f"UPDATE tasks SET part = 'onboarding' WHERE id IN ({first} 2)")
        last = f"({first} 1 OFFSET 4)"
        db.exec_driver_sql(
            f"UPDATE assignments SET done = 0, skipped = 'other', seconds = 60 WHERE task = {last}"
        )
        db.exec_driver_sql(f"DELETE FROM answers WHERE task = {last}")
    return store


def hours(store) -> list[Worked]:
    with store.read() as db:
        return list(worked(db).values())


def test_time_on_training_and_skipped_tasks_counts(store):
    assert hours(store) == [Worked("Ana", 2, 1, 4 * 1800 + 60, 2 * 1800)]


def test_another_try_at_the_training_forgets_no_time(store):
    with store.write() as db:
        (ana,) = people.everybody(db)
        onboarding.again(db, ana)
    assert hours(store) == [Worked("Ana", 2, 1, 4 * 1800 + 60, 2 * 1800)]


def test_who_is_deleted_is_still_paid_where_the_answers_are_kept(store):
    with store.write() as db:
        (ana,) = people.everybody(db)
        people.remove(db, ana)
    assert hours(store)[0].name == f"deleted {ana.worker}" and hours(store)[0].answered == 2


def test_the_command_prints_hours_and_pay(tmp_path, store, capsys):
    """7,260 s are 2.0167 hours, at 15 each 30.25; Bo, who has all of the work yet, took none."""
    answer_all(store, "Bo", lambda _: {"choice": "1"})
    with store.write() as db:
        db.exec_driver_sql("UPDATE assignments SET seconds = 0 WHERE person = 2")
    assert main(["rlhf-jax hours", f"--store={tmp_path / 's.sqlite'}", "--pay=15"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["answered", "skipped", "hours", "training", "pay"],
        ["Ana", "2", "1", "2.02", "1.00", "30.25"],
        ["Bo", "1", "0", "0.00", "0.00", "0.00"],
        ["together", "3", "1", "2.02", "1.00", "30.25"],
    ]


def test_nobody_has_worked_yet_and_errors_stand_in_one_line(tmp_path, capsys):
    site = make_site(tmp_path, [pair(0)])
    assert main(["rlhf-jax hours", f"--store={site.store.path}"]) == 0
    assert capsys.readouterr().out.split() == ["answered", "skipped", "hours", "training"]
    for arguments in ([], [f"--store={tmp_path / 'none'}"], [f"--store={site.store.path}", "--pay=-1"]):
        assert main(["rlhf-jax hours", *arguments]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_researchers_see_how_long_each_person_has_worked(tmp_path):
    site = make_site(tmp_path, [pair(0)])
    join(site, "Ana").compare(3)
    with site.store.write() as db:
        db.exec_driver_sql("UPDATE assignments SET seconds = 3900")
    page = join(site, "Rosa", "researcher").open("/review").text
    assert ">1 h 5 min<" in page

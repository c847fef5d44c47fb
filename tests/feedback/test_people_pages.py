"""What an administrator does about people: it is done, it leaves a trace, and nobody is locked out."""

import re

import pytest
import sqlalchemy as sa
from labelling import Visitor, count, join, make_site, pair, tasks_of

from rlhf_jax.feedback import people
from rlhf_jax.feedback.schema import answers, assignments, earlier_answers, events, questions
from rlhf_jax.feedback.study import Onboarding, Study


@pytest.fixture
def site(tmp_path):
    study = Study(calibration=0.0, steps=("choose",), onboarding=Onboarding(tmp_path / "x", agreement=1.0))
    training = tasks_of(tmp_path, [pair(100, choice=0, worker="r", batch="b", split="train")], study)
    return make_site(tmp_path, [pair(i) for i in range(4)], study, training)


@pytest.fixture
def boss(site):
    return join(site, "Boss", "administrator")


def act(site, boss: Visitor, who: str, what: str, **fields):
    with site.store.read() as db:
        worker = next(person.worker for person in people.everybody(db) if person.name == who)
    boss.open("/admin")
    return boss.post(f"/admin/people/{worker}/{what}", data={"csrf": boss.hidden("csrf")} | fields)


def find(site, name: str):
    with site.store.read() as db:
        return next((person for person in people.everybody(db) if person.name == name), None)


def test_who_failed_is_let_pass_with_a_trace_or_tries_again(site, boss):
    ana = join(site, "Ana", standing="training")
    ana.compare(5, comment="UNSURE")
    assert find(site, "Ana").standing == "failed"
    desk = boss.open(f"/review/people/{find(site, 'Ana').worker}").text
    assert "UNSURE" in desk and "training" in desk and "The researchers chose" in desk
    act(site, boss, "Ana", "again", why="the first was a slip")
    assert find(site, "Ana").standing == "training" and count(site, answers) == 0
    assert count(site, earlier_answers) == 1 and ana.next_task().startswith("/task/")
    ana.compare(5)
    act(site, boss, "Ana", "pass", why="talked it over")
    assert find(site, "Ana").standing == "waived" and ana.next_task().startswith("/task/")
    page = boss.open("/admin").text
    assert "let pass" in page and "by Boss" in page and "talked it over" in page and "passed <" not in page
    trace = boss.open(f"/admin/people/{find(site, 'Ana').worker}").text
    assert "Another try at the training" in trace and "the first was a slip" in trace


def test_somebody_is_renamed_and_given_another_role(site, boss):
    join(site, "Ana")
    join(site, "Bo")
    assert act(site, boss, "Ana", "name", name=" BO").status_code == 200
    assert act(site, boss, "BO", "name", name="Bo").status_code == 400  # taken
    act(site, boss, "Bo", "role", role="researcher")
    assert find(site, "Bo").role == "researcher"
    assert act(site, boss, "Boss", "role", role="labeler").status_code == 400  # nobody would be left
    assert act(site, boss, "Bo", "role", role="king").status_code == 400


@pytest.mark.parametrize("answers_too, left", [("no", 1), ("yes", 0)])
def test_somebody_is_deleted_with_or_without_the_answers(site, boss, answers_too, left):
    ana = join(site, "Ana Unforgettable")
    ana.compare(2, comment="of a person")
    ana.open("/questions")
    ana.submit("/questions", text="What of me?")
    assert (
        "1 answers" not in act(site, boss, "Ana Unforgettable", "delete").text
    )  # it asks first: no choice made
    assert find(site, "Ana Unforgettable")
    act(site, boss, "Ana Unforgettable", "delete", answers=answers_too)
    assert find(site, "Ana Unforgettable") is None and ana.get("/").status_code == 403
    assert count(site, answers) == left and bool(count(site, assignments)) == bool(left)
    assert count(site, questions) == left
    names = b"".join(file.read_bytes() for file in site.store.path.parent.glob("feedback.sqlite*"))
    assert b"Unforgettable" not in names  # nor in pages that are free again, nor beside the store
    assert (b"of a person" in names) == bool(left)
    assert boss.get("/admin").status_code == boss.get("/admin/agreement").status_code == 200
    assert act(site, boss, "Boss", "delete", answers="no").status_code == 400


def test_whom_exports_leave_out_is_said(site, boss):
    join(site, "Ana")
    act(site, boss, "Ana", "exclude", excluded="yes", why="answers came from a program")
    assert find(site, "Ana").excluded and "left out" in boss.open("/admin").text
    act(site, boss, "Ana", "exclude", excluded="no")
    assert not find(site, "Ana").excluded


def test_all_that_is_done_to_somebody_is_traced(site, boss):
    join(site, "Ana")
    for what, fields in (
        ("link", {}),
        ("leave", {}),
        ("pause", {"paused": "yes"}),
        ("pause", {"paused": "no"}),
        ("pass", {}),
        ("role", {"role": "labeler"}),
    ):
        assert act(site, boss, "Ana", what, **fields).status_code == 200
    with site.store.read() as db:
        found = list(db.scalars(sa.select(events.c.what)))
    assert found == ["new link", "signed out", "paused", "resumed", "let pass", "made labeler"]


def test_every_button_is_named_as_it_reads(site, boss):
    """A person who speaks to the browser says what stands on the button (WCAG 2.5.3)."""
    join(site, "Ana", standing="failed")
    page = boss.open("/admin").text
    found = re.findall(r'<button aria-label="([^"]*)">([^<]*)<', page)
    assert len(found) >= 5 and all(name.startswith(text) for name, text in found)

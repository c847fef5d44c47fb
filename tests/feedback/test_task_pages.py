"""Nothing typed is lost and nothing wrong is saved: two windows, a change of mind, a task laid aside."""

import pytest
import sqlalchemy as sa
from labelling import Visitor, join, make_site, pair, single

from rlhf_jax.feedback.answers import export
from rlhf_jax.feedback.schema import answers, assignments, earlier_answers
from rlhf_jax.feedback.study import Study

STUDY = Study(calibration=0.0, steps=("choose",))


@pytest.fixture
def site(tmp_path):
    return make_site(tmp_path, [pair(i) for i in range(3)], STUDY)


def window(visitor: Visitor, path: str) -> dict[str, str]:
    """What the form of a freshly opened page knows."""
    visitor.open(path)
    return {name: visitor.hidden(name) for name in ("csrf", "key", "version", "step")}


def kept(site, table=answers) -> list[dict]:
    with site.store.read() as db:
        return list(db.scalars(sa.select(table.c.answer)))


def typed(site) -> dict:
    with site.store.read() as db:
        return db.scalar(sa.select(assignments.c.fields))


def test_a_draft_of_a_second_window_does_not_replace_a_newer_one(site):
    ana = join(site, "Ana")
    path = ana.next_task()
    laptop, phone = window(ana, path), window(ana, path)
    said = ana.post(f"{path}/draft", data=phone | {"comment": "new"}).json()
    assert said == {"saved": True, "version": "v1"}
    again = ana.post(f"{path}/draft", data=phone | {"comment": "newer"})  # its own reply may have been lost
    assert again.json() == {"saved": True, "version": "v2"}
    assert ana.post(f"{path}/draft", data=laptop | {"comment": "old"}).status_code == 409
    assert typed(site)["comment"] == "newer"


def test_a_window_left_open_neither_answers_nor_says_that_it_did(site):
    ana = join(site, "Ana")
    path = ana.next_task()
    first, second = window(ana, path), window(ana, path)
    ana.post(path, data=first | {"choice": "2"})
    draft = ana.post(f"{path}/draft", data=second | {"choice": "8"}, headers={"accept": "application/json"})
    assert draft.status_code == 409 and "another window" in draft.json()["error"]
    page = ana.post(path, data=second | {"choice": "8", "comment": "changed my mind"})
    assert page.status_code == 409 and "changed my mind" in page.text  # shown, to be saved once more
    assert len(kept(site)) == 1 and kept(site)[0]["comment"] == ""


def test_both_texts_are_shown_where_two_windows_differ(site):
    ana = join(site, "Ana")
    path = ana.next_task()
    laptop, phone = window(ana, path), window(ana, path)
    ana.post(f"{path}/draft", data=phone | {"comment": "of the phone"})
    ana.page = ana.post(path, data=laptop | {"choice": "3", "comment": "of the laptop"}).text
    assert "of the phone" in ana.page and "of the laptop" in ana.page and kept(site) == []
    ana.submit(path, step="choose", version=ana.hidden("version"), choice="3", comment="of the laptop")
    assert kept(site)[0]["comment"] == "of the laptop"


def test_an_answer_can_be_changed_and_what_it_was_is_kept(site):
    ana = join(site, "Ana")
    path = ana.compare(9, comment="slipped")
    ana.open("/answers")
    assert "slipped" in ana.page and f'href="{path}"' in ana.page
    form = window(ana, path)
    assert "You have answered this" in ana.page
    ana.post(f"{path}/draft", data=form | {"choice": "1"})
    assert kept(site)[0]["comment"] == "slipped"  # a draft of a change is no answer yet
    ana.post(path, data=form | {"choice": "1", "comment": "meant"})
    assert [one["comment"] for one in kept(site)] == ["meant"]
    (before,) = kept(site, earlier_answers)
    assert before["comment"] == "slipped" and {before["confidence"], kept(site)[0]["confidence"]} == {1, 9}
    ana.post(path, data=form | {"choice": "1", "comment": "meant"})  # sent twice
    assert len(kept(site, earlier_answers)) == 1


def test_an_exported_answer_stays_as_it_is(site, tmp_path):
    ana = join(site, "Ana")
    path = ana.compare(9)
    form = window(ana, path)
    export(site.store, tmp_path / "out", "b")
    assert ana.post(path, data=form | {"choice": "1"}).status_code == 409
    assert ana.open(path).url.path == "/answers" and "Change" not in ana.page
    assert kept(site)[0]["confidence"] in (1, 9) and kept(site, earlier_answers) == []


def test_the_first_reading_is_not_changed_once_the_post_is_known(tmp_path):
    site = make_site(tmp_path, [pair(0)], Study(calibration=0.0))
    ana = join(site, "Ana")
    path = ana.compare(2)
    form = window(ana, path)
    assert form["step"] == "choose"
    assert ana.post(path, data=form | {"step": "interpret", "interpretation_first": "x"}).status_code == 409


def test_a_task_is_laid_aside_with_a_reason_and_taken_up_again(site):
    ana, rosa = join(site, "Ana"), join(site, "Rosa", "researcher")
    path = ana.next_task()
    csrf = {"csrf": ana.hidden("csrf")}
    assert ana.post(f"{path}/skip", data=csrf | {"reason": "because"}).status_code == 400
    ana.post(f"{path}/skip", data=csrf | {"reason": "unusable", "note": "only [removed]"})
    assert ana.next_task() != path
    assert "only [removed]" in rosa.open("/review").text and "Ana" in rosa.page
    assert join(site, "Bo").next_task() == path  # free for somebody else
    ana.open(path)
    ana.submit(path, step="choose", choice="4")
    assert "only [removed]" not in rosa.open("/review").text and len(kept(site)) == 1


def test_one_persons_answers_are_nobody_elses_to_see_or_skip(site):
    ana, bo = join(site, "Ana"), join(site, "Bo")
    path = ana.compare(9, comment="mine")
    assert "mine" not in bo.open("/answers").text
    bo.open("/questions")
    assert bo.post(f"{path}/skip", data={"csrf": bo.hidden("csrf"), "reason": "other"}).status_code == 404
    for desk in ("/review", f"/review/tasks/{path.split('/')[-1]}"):
        assert bo.get(desk).status_code == 404


WORDS = "The neighbour left.  The neighbour came."  # two blanks, as in many posts


@pytest.mark.parametrize("at, start", [(0, 0), (21, 21)])
def test_words_are_marked_where_they_were_selected(tmp_path, at, start):
    record = single(0)
    record["summary"]["text"] = WORDS
    site = make_site(tmp_path, [record], Study(kinds=("explanation",)))
    ana = join(site, "Ana")
    path = ana.next_task()
    form = {"step": "explanation", "why": "x", "invented": "The neighbour"}
    assert ana.submit(path, **form).status_code == 422 and "stand 2 times" in ana.page
    ana.submit(path, **form, places=f"invented {at}")
    (answer,) = kept(site)
    (span,) = answer["spans"]
    assert (span["start"], span["end"], span["text"]) == (start, start + 13, "The neighbour")

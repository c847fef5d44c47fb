"""The labelers' pages, used as a browser without JavaScript uses them; and what its script asks for."""

import re

import pytest
import sqlalchemy as sa
from labelling import Visitor, join, make_site, pair, post, single, tasks_of

from rlhf_jax.feedback import people
from rlhf_jax.feedback.schema import answers, assignments
from rlhf_jax.feedback.study import AXES, Onboarding, Study


def kept(site) -> list[dict]:
    with site.store.read() as db:
        return list(db.scalars(sa.select(answers.c.answer)))


def test_an_invitation_leads_to_the_first_task(tmp_path):
    site = make_site(tmp_path, [pair(0)])
    with site.store.write() as db:
        _, token = people.add(db, "Ana", "labeler")
    ana = Visitor(site)
    assert "Welcome, Ana" in ana.open(f"/join/{token}").text
    assert ana.post(f"/join/{token}").url.path == "/"
    assert "Read the two summaries" in ana.open("/task").text


def test_a_comparison_goes_from_the_summaries_over_the_post_to_the_choice(tmp_path):
    site = make_site(tmp_path, [pair(0)])
    ana = join(site, "Ana")
    path = ana.next_task()
    shown = re.findall(r"Summary 0 (north|south)", ana.page)
    ana.submit(path, step="interpret", interpretation_first="reads one", interpretation_second="reads two")
    assert "Body 0" in ana.page and "reads one" in ana.page
    assert re.findall(r"Summary 0 (north|south)", ana.page) == shown
    response = ana.submit(path, step="choose", choice="2", comment="because")
    assert response.url.path == "/" and "no task for you" in response.text
    (answer,) = kept(site)
    flipped = shown == ["south", "north"]
    assert answer["confidence"] == (8 if flipped else 2) and answer["comment"] == "because"
    assert answer["notes"] == (["reads two", "reads one"] if flipped else ["reads one", "reads two"])


def test_a_study_without_the_first_step_shows_the_post_at_once(tmp_path):
    ana = join(make_site(tmp_path, [pair(0)], Study(steps=("choose",))), "Ana")
    path = ana.next_task()
    assert "Body 0" in ana.page and "You read" not in ana.page
    assert ana.submit(path, step="choose", choice="5").url.path == "/"


@pytest.mark.parametrize(
    "kind, record, fields, expected",
    [
        (
            "likert",
            single(0),
            {f"axis_{axis.name}": "6" for axis in AXES},
            {"axes": {axis.name: 6 for axis in AXES}, "note": ""},
        ),
        ("demonstration", post(0), {"summary": "My cat moved out."}, {"summary": "My cat moved out."}),
        ("edit", single(0), {"summary": "She feeds it."}, {"summary": "She feeds it."}),
        (
            "explanation",
            single(0),
            {"why": "wrong", "unclear": "cat"},
            {
                "why": "wrong",
                "spans": [{"mark": "unclear", "in": "summary", "start": 41, "end": 44, "text": "cat"}],
            },
        ),
    ],
)
def test_the_other_kinds_are_one_page_each(tmp_path, kind, record, fields, expected):
    site = make_site(tmp_path, [record], Study(kinds=(kind,)))
    ana = join(site, "Ana")
    path = ana.next_task()
    assert "Body 0" in ana.page and ("Summary 0 alone" in ana.page) == (kind != "demonstration")
    assert ana.submit(path, step=kind, **fields).url.path == "/"
    assert kept(site) == [expected]


def test_every_field_has_a_label_and_every_scale_a_legend(tmp_path):
    study = Study(kinds=("likert", "edit", "explanation"))
    ana = join(make_site(tmp_path, [single(0)], study), "Ana")
    for _ in study.kinds:
        path = ana.next_task()
        step = ana.hidden("step")
        for name in re.findall(r'<textarea id="([^"]+)"', ana.page):
            assert f'<label for="{name}"' in ana.page
        assert ana.page.count("<fieldset") == ana.page.count("<legend>")
        fields = {f"axis_{axis.name}": "6" for axis in AXES} | {"why": "w", "summary": "s"}
        ana.submit(path, step=step, **fields)


def test_what_is_missing_is_said_and_what_is_typed_stays(tmp_path):
    ana = join(make_site(tmp_path, [pair(0)]), "Ana")
    path = ana.next_task()
    response = ana.submit(path, step="interpret", interpretation_first="only the first")
    assert response.status_code == 422
    assert 'href="#interpretation_second"' in ana.page and 'aria-invalid="true"' in ana.page
    assert "only the first</textarea>" in ana.page


def test_a_draft_is_there_after_a_reload_and_in_another_session(tmp_path):
    site = make_site(tmp_path, [pair(0)])
    ana = join(site, "Ana")
    path = ana.next_task()
    json = {"accept": "application/json"}
    fields = {"csrf": ana.hidden("csrf"), "step": "interpret", "interpretation_first": "half a thou"}
    assert ana.post(f"{path}/draft", data=fields, headers=json).json()["saved"]
    assert "half a thou</textarea>" in ana.open(path).text
    with site.store.write() as db:
        token = people.invite(db, people.everybody(db)[0].id)
    elsewhere = Visitor(site)
    elsewhere.post(f"/join/{token}")
    assert "half a thou</textarea>" in elsewhere.open("/task").text


def test_a_late_draft_does_not_change_a_finished_step_or_answer(tmp_path):
    site = make_site(tmp_path, [pair(0)])
    ana = join(site, "Ana")
    path = ana.compare(3)
    ana.open("/questions")
    late = {"csrf": ana.hidden("csrf"), "step": "choose", "choice": "9"}
    assert ana.post(f"{path}/draft", data=late).json()["saved"] is False
    with site.store.read() as db:
        assert db.scalar(sa.select(assignments.c.fields))["choice"] == "3"


def test_an_answer_sent_again_after_a_lost_reply_counts_once(tmp_path):
    """Each step twice with the same key, as the page's script does when it heard nothing."""
    site = make_site(tmp_path, [pair(0), pair(1)])
    ana = join(site, "Ana")
    path = ana.next_task()
    hidden = {"csrf": ana.hidden("csrf"), "key": ana.hidden("key")}
    first = hidden | {"step": "interpret", "interpretation_first": "a", "interpretation_second": "b"}
    second = hidden | {"step": "choose", "choice": "4"}
    json = {"accept": "application/json"}
    for fields, on in ((first, path), (second, "/task")):
        replies = [ana.post(path, data=fields, headers=json).json() for _ in range(2)]
        assert replies == [{"next": on}] * 2
    assert len(kept(site)) == 1


def test_the_script_hears_of_errors_as_json(tmp_path):
    ana = join(make_site(tmp_path, [pair(0)]), "Ana")
    response = ana.post("/questions", data={"csrf": "x"}, headers={"accept": "application/json"})
    assert response.status_code == 403 and "no longer valid" in response.json()["error"]


def test_onboarding_tells_after_each_task_what_researchers_chose(tmp_path):
    study = Study(onboarding=Onboarding(tmp_path / "x", agreement=0.5))
    training = tasks_of(
        tmp_path, [pair(9, choice=1, worker="r", extra={"reason": "It keeps the question."})], study
    )
    site = make_site(tmp_path, [pair(0)], study, training)
    ana = join(site, "Ana", standing="training")
    assert "training tasks" in ana.open("/").text
    ana.next_task()
    south_first = ana.page.index("south") < ana.page.index("north")
    path = ana.compare(1 if south_first else 9)
    assert "You agree with the researchers" in ana.page and "It keeps the question." in ana.page
    assert ana.page.index("researchers' choice") < ana.page.index("Summary 9 south")
    assert ana.get(f"/learned{path.removeprefix('/task')}").status_code == 200
    assert "Read the two summaries" in ana.open("/task").text


def test_a_lesson_is_not_shown_before_the_answer(tmp_path):
    study = Study(onboarding=Onboarding(tmp_path / "x"))
    training = tasks_of(tmp_path, [pair(9, choice=1)], study)
    ana = join(make_site(tmp_path, [pair(0)], study, training), "Ana", standing="training")
    path = ana.next_task()
    assert ana.get(f"/learned{path.removeprefix('/task')}").status_code == 404


def test_who_fails_the_onboarding_gets_no_real_task(tmp_path):
    study = Study(onboarding=Onboarding(tmp_path / "x", agreement=1.0))
    training = tasks_of(tmp_path, [pair(9, choice=1)], study)
    ana = join(make_site(tmp_path, [pair(0)], study, training), "Ana", standing="training")
    ana.compare(5)
    assert ana.open("/task").url.path == "/" and "a researcher will look" in ana.page


def test_a_question_is_asked_from_a_task_and_answered_for_all(tmp_path):
    site = make_site(tmp_path, [pair(0), pair(1)])
    ana, bo, rosa = join(site, "Ana"), join(site, "Bo"), join(site, "Rosa", "researcher")
    task = ana.next_task()
    asked = {"task": task.split("/")[-1], "text": "Does the title count?"}
    key = re.findall(r'name="key" value="([^"]+)"', ana.page)[1]
    for _ in range(2):  # the second time by mistake
        assert ana.post("/questions", data={"csrf": ana.hidden("csrf"), "key": key} | asked).url.path == task
    title = re.search(r"Summary (\d)", ana.page)[1]
    assert f"Title {title}" in rosa.open("/questions").text and "Ana" in rosa.page
    rosa.submit(f"/questions/{key}", key="1" * 16, text="It does.")
    page = bo.open("/questions").text
    assert page.count("Does the title count?") == 1 and "It does." in page and "Rosa" in page
    assert "Ana" not in page and "Title" not in page  # nor the post, which Bo may still have to judge


def test_progress_is_shown_against_the_quota(tmp_path):
    ana = join(make_site(tmp_path, [pair(i) for i in range(9)], Study(quota=4)), "Ana")
    for _ in range(3):
        ana.compare(1)
    assert "Task 4 of 4" in ana.open("/task").text
    assert '<progress max="4" value="3">' in ana.open("/").text
    ana.compare(1)
    assert "All 4 of your tasks are done" in ana.open("/").text


def test_signing_out_asks_first(tmp_path):
    ana = join(make_site(tmp_path, [pair(0)]), "Ana")
    assert "Sign out?" in ana.open("/leave").text and ana.get("/").status_code == 200
    assert ana.post("/leave", data={"csrf": ana.hidden("csrf")}).status_code == 200
    assert ana.get("/").status_code == 403

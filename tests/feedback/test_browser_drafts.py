"""What is typed in Chromium: by whom, in which window, with and without a connection; what is marked."""

import json

import pytest
import sqlalchemy as sa
from browsing import CHROMIUM, invite
from labelling import pair, single

from rlhf_jax.feedback.schema import answers, assignments, people
from rlhf_jax.feedback.store import Store

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]
STUDY = 'calibration = 0.0\nkinds = ["comparison"]\nsteps = ["choose"]\n'


@pytest.fixture
def ana(start, tmp_path):
    """Somebody at a first task, beside an administrator, and what the store holds of one table's column."""
    server, person = start([pair(i) for i in range(3)], STUDY)
    boss, ana = person(), person()
    boss.join(server.link())
    ana.join(invite(boss, "Ana"))
    ana.page.goto(f"{server.url}/task")
    ana.boss, ana.person = boss, person
    return ana


def held(tmp_path, column) -> list:
    with Store(tmp_path / "s.sqlite").read() as db:
        return list(db.scalars(sa.select(column)))


def test_a_second_window_is_honest_about_what_it_could_not_save(ana, tmp_path):
    other = ana.context.new_page()
    other.goto(ana.page.url)
    before = ana.page.url
    ana.page.bring_to_front()
    ana.press("2")
    ana.saved("saved")
    ana.press("Enter")
    ana.page.wait_for_function("before => location.href !== before", arg=before)
    other.bring_to_front()
    other.fill("#comment", "changed my mind")
    other.wait_for_selector('#saved[data-state="lost"]')
    assert "another window" in other.inner_text("#saved")
    other.reload()  # into the form of a change, which offers what was typed
    other.get_by_role("button", name="Use this instead").click()
    assert other.input_value("#comment") == "changed my mind"
    other.wait_for_selector('#saved[data-state="saved"]')
    other.click("#send")
    other.wait_for_function("before => location.href !== before", arg=before)
    (answer,) = held(tmp_path, answers.c.answer)
    assert answer["comment"] == "changed my mind"
    ana.errors.clear()


def test_another_person_at_the_same_browser_sees_and_saves_nothing_of_it(ana, tmp_path):
    link = invite(ana.boss, "Bo")
    ana.context.set_offline(True)
    ana.page.fill("#comment", "Ana's unfinished thought")
    ana.saved("lost")
    ana.context.set_offline(False)
    ana.page.route("**/draft", lambda route: route.abort())
    ana.page.goto(f"{ana.url}/leave")
    ana.see("is not saved yet")
    ana.page.get_by_role("button", name="Sign out").click()
    ana.see("You are signed out")
    assert ana.page.evaluate("localStorage.length") == 0
    ana.page.unroute("**/draft")
    ana.join(link)
    ana.page.goto(f"{ana.url}/task")
    assert ana.page.input_value("#comment") == ""
    assert not any("unfinished" in json.dumps(fields) for fields in held(tmp_path, assignments.c.fields))
    assert held(tmp_path, people.c.name)[1:] == ["Ana", "Bo"]
    ana.errors.clear()


def test_older_words_of_a_laptop_do_not_replace_newer_ones_of_a_phone(ana, tmp_path):
    address = ana.page.url
    ana.context.set_offline(True)
    ana.page.fill("#comment", "OLD")
    ana.saved("lost")
    ana.page.close()
    ana.context.set_offline(False)
    phone = ana.person(storage_state={"cookies": ana.context.cookies(), "origins": []})
    phone.page.goto(address)
    phone.page.fill("#comment", "NEW")
    phone.saved("saved")
    laptop = ana.context.new_page()
    laptop.goto(address)
    laptop.wait_for_selector("#older:not([hidden])")
    assert laptop.input_value("#comment") == "NEW" and "OLD" in laptop.inner_text("#older")
    laptop.get_by_role("button", name="Throw it away").click()
    laptop.reload()
    assert laptop.is_hidden("#older")
    (fields,) = held(tmp_path, assignments.c.fields)
    assert fields["comment"] == "NEW"


def test_words_that_stand_twice_are_marked_where_they_were_selected(start, tmp_path):
    record = single(0)
    record["summary"]["text"] = "The cat left.  The cat came."
    server, person = start([record], 'calibration = 0.0\nkinds = ["explanation"]\n')
    boss, ana = person(), person()
    boss.join(server.link())
    ana.join(invite(boss, "Ana"))
    ana.page.goto(f"{server.url}/task")
    ana.type("It came back.")
    ana.page.evaluate(
        "() => { const text = document.getElementById('summary-text').firstChild;"
        " getSelection().setBaseAndExtent(text, 15, text, 22) }"
    )
    ana.press("Alt+u")
    ana.saved("saved")
    ana.press("Control+Enter")
    ana.see("There is no task for you")
    (answer,) = held(tmp_path, answers.c.answer)
    assert [(span["start"], span["end"]) for span in answer["spans"]] == [(15, 22)]

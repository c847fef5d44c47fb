"""Whole days on the labelling site in Chromium, by keyboard alone.

With --screenshots=FOLDER the pages are kept as pictures, as wide as a desk's and a phone's.
"""

import re
import zipfile

import labelling
import pytest
import sqlalchemy as sa
from browsing import CHROMIUM, choose, interpret, invite
from labelling import pair, post, single

from rlhf_jax.data.record_json import read_comparisons
from rlhf_jax.feedback.schema import answers, assignments
from rlhf_jax.feedback.store import Store

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]
LONG = " ".join(f"Line {i} of a long story about a cat and a neighbour." for i in range(60))


STUDY = """
name = "Summaries of posts, round 1"
quota = 4
calibration = 0.5
[onboarding]
records = "onboarding.jsonl"
agreement = 0.5
"""


def test_a_day_of_an_administrator_and_two_labelers(start, tmp_path):
    records = [pair(i) for i in range(6)]
    for record in records:
        record["info"]["post"] += f"\n\n{LONG}"
    training = pair(
        9, choice=1, worker="r", batch="b", split="train", extra={"reason": "It keeps the question."}
    )
    server, person = start(records, STUDY, [training])
    store = Store(tmp_path / "s.sqlite")

    boss, ana, bo = person(), person(), person()
    boss.join(server.link())
    links = [invite(boss, name) for name in ("Ana", "Bo")]
    boss.picture("people-invited")
    for labeler, link in ((ana, links[0]), (bo, links[1])):
        labeler.join(link)
    ana.see("You begin with one task")
    ana.picture("start")

    # Both at once: onboarding first.
    for labeler in (ana, bo):
        labeler.tab_to("Begin")
        labeler.press("Enter")
        labeler.see("Training task 1 of 1")
    ana.picture("interpret")
    for labeler in (ana, bo):
        interpret(labeler, "The neighbour feeds a cat.", "A cat moved out.")
    ana.see("You read:")
    for labeler in (bo, ana):
        south_first = labeler.page.inner_text(".side1").find("south") >= 0
        choose(labeler, "2" if south_first else "8")
        labeler.see("You agree with the researchers")
    ana.picture("learned")
    for labeler in (ana, bo):
        labeler.press("Enter")
        labeler.page.wait_for_url(f"{server.url}/")
        labeler.tab_to("Go on")
        labeler.press("Enter")
        labeler.see("Task 1 of 4")

    # A reload in the middle of a step and of a task.
    ana.at("In your words")
    ana.type("Half a thought")
    ana.saved("saved")
    ana.page.reload()
    assert ana.page.input_value("#interpretation_first") == "Half a thought"
    ana.at("In your words")
    ana.press("End")
    ana.type(", now whole")
    ana.press("Tab")
    ana.type("Another")
    ana.press("Control+Enter")
    ana.see("Half a thought, now whole")
    ana.press("3", "c")
    ana.type("The first keeps the question.")
    ana.saved("saved")
    ana.page.reload()
    ana.see("Half a thought, now whole")
    assert ana.page.input_value("#comment") == "The first keeps the question."
    assert ana.page.is_checked('input[value="3"]')
    ana.picture("choose")

    # A question, while Bo works on.
    ana.tab_to("Ask about this task")
    ana.press("Enter")
    ana.tab_to("Your question")
    ana.type("Does a summary have to name the neighbour?")
    ana.press("Tab", "Enter")
    ana.see("Your question is asked")
    interpret(bo, "Something about a cat.", "Something else.")
    choose(bo, "5")
    bo.see("Task 2 of 4")
    boss.tab_to("Questions")
    boss.press("Enter")
    boss.see("Does a summary have to name")
    boss.tab_to("Reply")
    boss.type("No: “a neighbour” is enough.")
    boss.press("Tab", "Enter")
    boss.see("is enough")
    boss.picture("questions")

    # To the end of the quota.
    choose(ana, "3")
    for labeler, done in ((ana, 1), (bo, 1)):
        for number in range(done + 1, 5):
            labeler.see(f"Task {number} of 4")
            interpret(labeler, "a", "b")
            choose(labeler, str(number))
        labeler.see("All 4 of your tasks are done")

    # The administrator pauses Bo, looks at the agreement and takes the export away.
    boss.tab_to("People")
    boss.press("Enter")
    boss.see("Invite somebody")
    boss.picture("people")
    boss.tab_to("Pause Bo")
    boss.press("Enter")
    boss.see("paused")
    bo.page.reload()
    bo.see("Your account is paused")
    bo.errors.clear()  # the browser's note of the status 403
    boss.tab_to("Agreement")
    boss.press("Enter")
    boss.see("8 answers about")
    boss.picture("agreement")
    boss.tab_to("People")
    boss.press("Enter")
    boss.page.wait_for_url("**/admin")
    boss.tab_to("Download the export")
    with boss.page.expect_download() as download:
        boss.press("Enter")
    zipfile.ZipFile(download.value.path()).extractall(tmp_path)

    with store.read() as db:
        given = db.execute(sa.select(answers.c.person, answers.c.answer, answers.c.seconds)).all()
    assert len(given) == 10  # two of the onboarding, four each
    assert all(seconds > 0 for *_, seconds in given)
    compared = list(read_comparisons(tmp_path / "export" / "comparisons.jsonl"))
    assert len(compared) == 7  # Bo's 5 is a tie
    (kept,) = [
        one for one in compared if {s.note for s in one.summaries} == {"Half a thought, now whole", "Another"}
    ]
    assert (
        kept.extra["confidence"] in (3, 7) and kept.summaries[kept.choice].note == "Half a thought, now whole"
    )


def test_nothing_is_lost_while_the_connection_is(start, tmp_path):
    server, person = start([pair(0), pair(1)])
    boss, ana = person(), person()
    boss.join(server.link())
    ana.join(invite(boss, "Ana"))
    ana.tab_to("Begin")
    ana.press("Enter")
    ana.at("In your words")
    ana.context.set_offline(True)
    ana.type("Typed in a tunnel")
    ana.saved("lost")
    ana.see("Not saved: no connection")
    ana.picture("offline")
    # The browser is closed and opened again before the connection is back: what was typed is still there.
    ana.context.set_offline(False)
    ana.page.route("**/draft", lambda route: route.abort())
    ana.page.reload()
    ana.page.unroute("**/draft")
    assert ana.page.input_value("#interpretation_first") == "Typed in a tunnel"
    ana.saved("saved")
    ana.press("Tab")
    ana.type("Second")
    ana.context.set_offline(True)
    ana.press("Control+Enter")
    ana.saved("lost")
    ana.context.set_offline(False)
    ana.page.wait_for_selector("#choice")

    # The answer arrives, the reply to it does not.
    dropped = []

    def drop(route):
        if not dropped:
            dropped.append(route.fetch().status)
            route.abort()
        else:
            route.continue_()

    ana.page.route(
        re.compile(r"/task/\w+$"), lambda r: drop(r) if r.request.method == "POST" else r.continue_()
    )
    choose(ana, "8")
    assert dropped == [200]
    with Store(tmp_path / "s.sqlite").read() as db:
        assert db.scalar(sa.select(sa.func.count()).select_from(answers)) == 1
    ana.errors.clear()  # the browser's notes of the requests that were dropped


def test_all_kinds_of_task_by_keyboard(start, tmp_path):
    study = 'kinds = ["likert", "demonstration", "edit", "explanation"]\ncalibration = 0.0\n'
    server, person = start([single(0), post(1)], study)
    boss, ana = person(), person()
    boss.join(server.link())
    ana.join(invite(boss, "Ana"))
    ana.tab_to("Begin")
    ana.press("Enter")
    seen = set()
    for _ in range(4):
        ana.page.wait_for_selector("#task")
        step, before = ana.page.input_value("input[name=step]"), ana.page.url
        seen.add(step)
        if step == "likert":
            ana.press("7", "6", "5", "4")
            assert (
                ana.page.eval_on_selector_all("input:checked", "all => all.map((one) => one.value).join('')")
                == "7654"
            )
        elif step == "demonstration":
            ana.type("My cat is fed next door; should I say something?")
            ana.see("10 words")
        elif step == "edit":
            ana.press("Control+A")
            ana.type("A neighbour feeds my cat.")
        else:
            ana.type("It says the neighbour stole it.")
            ana.page.evaluate(
                "() => getSelection().selectAllChildren(document.getElementById('summary-text'))"
            )
            ana.press("Alt+u")
            assert ana.page.input_value("#unclear") == single(0)["summary"]["text"]
        ana.saved("saved")
        ana.picture(step)
        ana.press("Control+Enter")
        ana.page.wait_for_function("before => location.href !== before", arg=before)
    ana.see("There is no task for you")
    assert seen == {"likert", "demonstration", "edit", "explanation"}


def test_samples_are_read_in_the_site_by_keyboard(start):
    """Below the site's own security policy, which would be heard of as an error."""
    samples = [labelling.sample(i) for i in range(3)]
    samples[1]["summaries"]["ppo"]["text"] = "<img src=x onerror=alert(1)>"
    server, person = start([pair(0)], samples=samples)
    boss, ana = person(), person()
    boss.join(server.link())
    ana.join(invite(boss, "Ana"))
    assert ana.page.get_by_text("Samples").count() == 0
    boss.page.goto(f"{server.url}/")
    boss.tab_to("Samples")
    boss.press("Enter")
    boss.page.wait_for_url("**/samples/*")
    boss.see("Sample 0 of ppo.")
    boss.press("ArrowRight")
    boss.see("<img src=x onerror=alert(1)>")
    boss.picture("samples")


def test_without_a_script_the_site_works_the_same(start, tmp_path):
    server, person = start([pair(0)])
    boss, ana = person(), person(java_script_enabled=False)
    boss.join(server.link())
    link = invite(boss, "Ana")
    ana.page.goto(link)
    ana.page.click("text=Begin")
    ana.page.click("text=Begin")
    ana.page.fill("#interpretation_first", "a")
    ana.page.fill("#interpretation_second", "b")
    ana.page.click("#send")
    ana.page.check('input[value="8"]', force=True)
    ana.page.click("#send")
    ana.see("There is no task for you")
    with Store(tmp_path / "s.sqlite").read() as db:
        assert db.scalar(sa.select(sa.func.count()).where(assignments.c.done)) == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_their_ground(start, scheme):
    """At least 4.5 to 1, as WCAG asks of texts."""
    server, person = start([pair(0)])
    boss = person(color_scheme=scheme)
    boss.join(server.link())
    boss.tab_to("People")
    boss.press("Enter")
    boss.page.wait_for_url("**/admin")
    names = "ink soft accent first second good bad".split()
    pairs_of_colours = [(name, ground) for name in names for ground in ("paper", "wash")]
    pairs_of_colours += [("on-accent", "accent"), ("paper", "soft")]
    colours = boss.page.evaluate(
        "() => { const all = getComputedStyle(document.documentElement); return Object.fromEntries("
        "['paper','wash','ink','soft','accent','on-accent','first','second','good','bad']"
        ".map((name) => [name, all.getPropertyValue('--' + name).trim()])) }"
    )
    for text, ground in pairs_of_colours:
        light, dark = sorted((luminance(colours[text]), luminance(colours[ground])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)
    boss.picture(f"people-{scheme}")


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

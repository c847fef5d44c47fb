"""A researcher's day at the review desk: answers, disagreements, reports, and talks with labelers."""

import re

import pytest
from labelling import join, make_site, pair

from rlhf_jax.feedback import people
from rlhf_jax.feedback.store import Store
from rlhf_jax.feedback.study import Study


@pytest.fixture
def site(tmp_path):
    return make_site(tmp_path, [pair(i) for i in range(3)], Study(calibration=1.0, steps=("choose",)))


def worker(store: Store, name: str) -> str:
    with store.read() as db:
        return next(person.worker for person in people.everybody(db) if person.name == name)


def better(visitor, which: str, by: str) -> str:
    """Answers the next task for the summary of that word: `by` from 1 to 4, the larger the surer."""
    path = visitor.next_task()
    first = re.findall(r"Summary \d (north|south)", visitor.page)[0]
    visitor.submit(path, step="choose", choice=str(5 - int(by) if first == which else 5 + int(by)))
    return path


def test_disagreements_are_listed_the_widest_first(site):
    ana, bo, rosa = join(site, "Ana"), join(site, "Bo"), join(site, "Rosa", "researcher")
    first, second = (better(ana, "north", by) for by in ("1", "4"))
    assert (better(bo, "south", "1"), better(bo, "south", "4")) == (first, second)
    better(ana, "north", "2")
    better(bo, "north", "4")  # agreed, if not by how much
    listed = re.findall(r'href="/review/(tasks/\w+)"', rosa.open("/review").text)
    assert listed == [second[1:].replace("task/", "tasks/"), first[1:].replace("task/", "tasks/")]
    page = rosa.open(f"/review/{listed[0]}").text
    assert "Ana" in page and "Bo" in page and "first is better" in page and "second is better" in page


def test_a_researcher_settles_what_people_disagree_about(site):
    ana, rosa = join(site, "Ana"), join(site, "Rosa", "researcher")
    path = better(ana, "north", "4")
    rosa.open(f"/review/tasks/{path.split('/')[-1]}")
    settled = rosa.post(f"/review/tasks/{path.split('/')[-1]}", data={"csrf": rosa.hidden("csrf")})
    assert settled.url.path == path
    rosa.page = settled.text
    rosa.submit(path, step="choose", choice="1", comment="it keeps the question")
    assert "it keeps the question" in rosa.open(f"/review/tasks/{path.split('/')[-1]}").text
    assert rosa.post("/review/tasks/nothing", data={"csrf": rosa.hidden("csrf")}).status_code == 404


def test_a_note_goes_to_its_labeler_alone_and_is_answered(site):
    ana, bo, rosa = join(site, "Ana"), join(site, "Bo"), join(site, "Rosa", "researcher")
    path = better(ana, "north", "4")
    desk = f"/review/people/{worker(site.store, 'Ana')}"
    rosa.open(desk)
    task = path.split("/")[-1]
    rosa.submit(desk, text="Look at this again", task=task)
    assert "Messages (1 new)" in ana.open("/").text and "Messages (1 new)" not in bo.open("/").text
    assert "Look at this again" in ana.open("/messages").text and f'href="/task/{task}"' in ana.page
    assert "Look at" not in bo.open("/messages").text and "Messages (1 new)" not in ana.open("/").text
    ana.open("/messages")
    ana.submit("/messages", text="I did")
    assert "1 new" in rosa.open("/review").text
    assert "I did" in rosa.open(desk).text and "1 new" not in rosa.open("/review").text
    rosa.open(desk)
    assert rosa.submit(desk, text="x", task="0" * 20).status_code == 404  # a task that Ana does not have
    bo.open("/messages")
    assert bo.submit(desk, text="as a researcher").status_code == 404

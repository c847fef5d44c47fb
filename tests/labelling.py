"""What the tests of the labelling site share: invented tasks, a site, and people who use it."""

import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa
from starlette.testclient import TestClient

from rlhf_jax.data.record_json import write_jsonl
from rlhf_jax.feedback import answering, people, serve, work
from rlhf_jax.feedback.app import make_app
from rlhf_jax.feedback.pages import Site
from rlhf_jax.feedback.schema import answers, assignments, questions
from rlhf_jax.feedback.store import Store
from rlhf_jax.feedback.study import KINDS, Study
from rlhf_jax.feedback.tasks import Task, read_tasks

ROOT = Path(__file__).parents[1]
URL = "http://testserver"
ALL_KINDS = Study(kinds=KINDS, calibration=0.0)


def post(i: int) -> dict:
    """A post whose every line names its number, so that a test can tell where a text comes from."""
    return {
        "id": f"post{i}",
        "subreddit": "pets",
        "title": f"Title {i}: the cat and the neighbour",
        "post": f"Body {i}. My cat sleeps at the neighbour's house.\n\nShe feeds him. Should I talk to her?",
    }


def pair(i: int, **values) -> dict:
    """A comparison without a choice; the policies' names must never show."""
    summaries = [
        {"text": f"Summary {i} north: the neighbour feeds my cat.", "policy": "hidden_ppo"},
        {"text": f"Summary {i} south: cat moved out, should I talk?", "policy": "hidden_ref"},
    ]
    return {"info": post(i), "summaries": summaries, **values}


def single(i: int) -> dict:
    """An axis record without axes."""
    summary = {"text": f"Summary {i} alone: the neighbour stole the cat.", "policy": "hidden_sft"}
    return {"info": post(i), "summary": summary}


def tasks_of(folder: Path, records: list[dict], study: Study) -> list[Task]:
    write_jsonl(folder / "tasks.jsonl", records)
    return read_tasks(folder / "tasks.jsonl", study)


def answered(
    folder: Path, records: list[dict], answer: Callable[[Task], dict], flipped=False, study=ALL_KINDS
) -> Store:
    """A store in which one labeler, Ana, did every task."""
    store = Store(folder / "s.sqlite")
    with store.write() as db:
        work.add_tasks(db, tasks_of(folder, records, study), [], study)
    answer_all(store, "Ana", answer, flipped, study)
    return store


def answer_all(
    store: Store, name: str, answer: Callable[[Task], dict], flipped=False, study=ALL_KINDS
) -> None:
    """Somebody new does every task there is for them, filling in the fields `answer(task)`."""
    with store.write() as db:
        person, _ = people.add(db, name, "labeler")
        while task := work.next_task(db, person, study):
            db.execute(assignments.update().where(assignments.c.task == task).values(flipped=flipped))
            own = answering.open_task(db, person, task)
            assert own
            answering.save(db, person, own, answer(own.task), task)
            assert answering.submit(db, person, own, task, study)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def sample(i: int) -> dict:
    """A post with two policies' summaries, as the evaluation writes it."""
    written = {policy: {"text": f"Sample {i} of {policy}.", "score": 0.5} for policy in ("sft", "ppo")}
    return {"post": post(i) | {"summary": f"Reference {i}."}, "summaries": written}


def make_site(
    folder: Path, records: list[dict], study: Study | None = None, onboarding=(), samples: int = 0
) -> Site:
    """With `samples` posts in the staff's viewer, if any."""
    study = study or Study(calibration=0.0)
    files = {}
    if samples:
        write_jsonl(folder / "samples.jsonl", [sample(i) for i in range(samples)])
        files = serve.viewer_files(folder / "samples.jsonl")
    site = Site(Store(folder / "feedback.sqlite"), study, URL, files)
    with site.store.write() as db:
        work.add_tasks(db, tasks_of(folder, records, study), onboarding, study)
    return site


class Visitor(TestClient):
    """A browser without JavaScript: keeps cookies, follows redirects, posts the forms it was shown."""

    def __init__(self, site: Site):
        super().__init__(make_app(site, ["testserver"]), raise_server_exceptions=False)
        self.page = ""

    def open(self, path: str):
        response = self.get(path)
        self.page = response.text
        return response

    def hidden(self, name: str) -> str:
        """A hidden field of the last page opened."""
        found = re.search(rf'name="{name}" value="([^"]*)"', self.page)
        assert found, f"no field {name} on the page"
        return found[1]

    def submit(self, path: str, **fields):
        """Posts fields with the page's CSRF token and key."""
        response = self.post(path, data={"csrf": self.hidden("csrf"), "key": self.hidden("key")} | fields)
        self.page = response.text
        return response

    def next_task(self) -> str:
        """Opens the next task; returns its path."""
        return str(self.open("/task").url.path)

    def compare(self, choice: int | str, **fields) -> str:
        """Answers the next task, a comparison, whole; returns its path."""
        path = self.next_task()
        if self.hidden("step") == "interpret":
            self.submit(path, step="interpret", interpretation_first="one", interpretation_second="two")
        response = self.submit(path, step="choose", choice=str(choice), **fields)
        assert response.status_code == 200, response.text
        return path


def join(site: Site, name: str, role: str = "labeler", standing: str = "passed") -> Visitor:
    """Somebody new, signed in, on a page with a form."""
    with site.store.write() as db:
        _, token = people.add(db, name, role, standing)
    visitor = Visitor(site)
    assert visitor.post(f"/join/{token}").status_code == 200
    visitor.open("/questions")  # a page with a form
    return visitor


def session(visitor: Visitor, site: Site) -> str:
    """The cookie of who is signed in."""
    return f"{site.address.cookie}={visitor.cookies[site.address.cookie]}"


class Crowd(NamedTuple):
    """A site that stays as it is whatever its three people try."""

    site: Site
    labeler: Visitor
    researcher: Visitor
    administrator: Visitor


@contextmanager
def crowd(folder: Path) -> Iterator[Crowd]:
    site = make_site(folder, [pair(i) for i in range(6)])
    roles = "labeler", "researcher", "administrator"
    found = Crowd(site, *(join(site, f"The {role}", role) for role in roles))
    yield found
    with site.store.read() as db:
        present = [(person.role, person.paused) for person in people.everybody(db)]
    assert present == [(role, False) for role in roles]
    assert count(site, questions) == count(site, answers) == 0
    assert all(visitor.get("/").status_code == 200 for visitor in found[1:])


def count(site: Site, table) -> int:
    """The rows of one of the store's tables."""
    with site.store.read() as db:
        return db.scalar(sa.select(sa.func.count()).select_from(table))


class Server:
    """`rlhf-jax serve` in a process of its own."""

    def __init__(self, folder: Path, *options: str):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "rlhf_jax", "serve", f"--port={self.port}"]
        self.command = [
            *command,
            f"--tasks={folder / 'tasks.jsonl'}",
            f"--store={folder / 's.sqlite'}",
            *options,
        ]
        self.folder = folder
        self.start()

    def start(self) -> None:
        log = self.folder / "serve.log"
        with open(log, "a") as out:
            self.process = subprocess.Popen(self.command, cwd=ROOT, stdout=out, stderr=out)
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{self.url}/static/site.css", timeout=1).close()
                return
            except (urllib.error.URLError, OSError):
                assert self.process.poll() is None, log.read_text()
                time.sleep(0.1)
        raise AssertionError(f"the site did not start: {log.read_text()}")

    def link(self) -> str:
        """The administrator's link, as printed on the first start."""
        found = re.search(r"http://\S+/join/\S+", (self.folder / "serve.log").read_text())
        assert found
        return found[0]

    def kill(self) -> None:
        """As the kernel does when memory is short: no chance to tidy up."""
        self.process.kill()
        self.process.wait()

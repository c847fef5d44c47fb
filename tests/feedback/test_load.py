"""Many labelers at once, and a server that is killed under them: no answer is lost or doubled."""

import json
import random
import re
import threading
import time

import httpx2
import labelling
import numpy as np
import pytest
import sqlalchemy as sa

from rlhf_jax.data.record_json import write_jsonl
from rlhf_jax.feedback import people
from rlhf_jax.feedback.schema import answers, assignments, tasks
from rlhf_jax.feedback.store import Store


class Labeler(threading.Thread):
    """Works until `stop`; sends what was not answered again, as the page's script does."""

    def __init__(self, url: str, token: str, pause: float, stop: threading.Event):
        super().__init__()
        self.url, self.token, self.pause, self.stop = url, token, pause, stop
        self.random = random.Random(token)
        self.told: dict[str, str] = {}  # task → the comment of the answer that the server acknowledged
        self.seconds: list[float] = []  # of each answered request
        self.retries = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            with httpx2.Client(base_url=self.url, follow_redirects=True, timeout=10) as self.client:
                self.call("POST", f"/join/{self.token}")
                while not self.stop.is_set():
                    self.label()
        except BaseException as error:
            self.error = error

    def label(self) -> None:
        page = self.call("GET", "/task").text
        task = re.search(r'action="/task/(\w+)"', page)
        assert task, "no task left"
        path = f"/task/{task[1]}"
        hidden = {name: re.search(f'name="{name}" value="([^"]+)"', page)[1] for name in ("csrf", "key")}
        comment = f"{task[1]} {hidden['key']}"
        if 'value="interpret"' in page:
            typed = hidden | {"step": "interpret", "interpretation_first": comment}
            self.think()
            self.post(f"{path}/draft", typed)
            self.think()
            self.post(path, typed | {"interpretation_second": "x"})
        self.think()
        choice = str(self.random.choice([1, 2, 3, 4, 6, 7, 8, 9]))
        self.post(path, hidden | {"step": "choose", "choice": choice, "comment": comment})
        self.told[task[1]] = comment

    def think(self) -> None:
        time.sleep(self.pause * self.random.uniform(0.5, 1.5))

    def post(self, path: str, fields: dict[str, str]) -> None:
        answer = self.call("POST", path, data=fields, headers={"accept": "application/json"}).json()
        assert answer.keys() & {"next", "saved"}, answer

    def call(self, method: str, path: str, **values) -> httpx2.Response:
        while True:
            started = time.perf_counter()
            try:
                response = self.client.request(method, path, **values)
            except httpx2.TransportError:
                self.retries += 1
                time.sleep(0.05)
                continue
            self.seconds.append(time.perf_counter() - started)
            assert response.status_code == 200, response.text
            return response


def work_through_kills(tmp_path, labelers: int, records: int, seconds: float, kills: int, pause: float):
    """Lets people work and kills the server; returns them and the store."""
    write_jsonl(tmp_path / "tasks.jsonl", [labelling.pair(i) for i in range(records)])
    store = Store(tmp_path / "s.sqlite")
    with store.write() as db:
        tokens = [people.add(db, f"Labeler {i}", "labeler")[1] for i in range(labelers)]
    server = labelling.Server(tmp_path)
    stop = threading.Event()
    workers = [Labeler(server.url, token, pause, stop) for token in tokens]
    try:
        for worker in workers:
            worker.start()
        # A link works once, so nobody should be joining when the server dies.
        while not all(worker.told or worker.error for worker in workers):
            time.sleep(0.05)
        for _ in range(kills):
            time.sleep(seconds / (kills + 1))
            server.kill()
            server.start()
        time.sleep(seconds / (kills + 1))
        stop.set()
        for worker in workers:
            worker.join()
    finally:
        stop.set()
        server.kill()
    errors = [worker.error for worker in workers if worker.error]
    assert not errors, errors
    return workers, store


def check(workers: list[Labeler], store: Store, kills: int) -> None:
    told = {task_key: comment for worker in workers for task_key, comment in worker.told.items()}
    # Without calibration a task goes to one person, so nobody's answers hide another's.
    with store.read() as db:
        parts = dict(db.execute(sa.select(tasks.c.id, tasks.c.part)).all())
        kept = db.execute(sa.select(answers.c.person, answers.c.task, answers.c.answer)).all()
        done = db.scalar(sa.select(sa.func.count()).where(assignments.c.done))
    expected = sorted(comment for worker in workers for comment in worker.told.values())
    assert sorted(answer["comment"] for *_, answer in kept) == expected
    assert len({(person, task) for person, task, _ in kept}) == len(kept) == done
    once = [task for _, task, _ in kept if parts[task] == "work"]
    assert len(once) == len(set(once)), "a task of one person was given to two"
    assert all(comment.split()[0] == task for task, comment in told.items())
    assert (sum(worker.retries for worker in workers) > 0) == (kills > 0)


def test_a_server_killed_under_four_labelers_loses_and_doubles_nothing(tmp_path):
    workers, store = work_through_kills(tmp_path, labelers=4, records=400, seconds=3, kills=1, pause=0.05)
    check(workers, store, kills=1)
    assert sum(len(worker.told) for worker in workers) > 8


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [600])
def test_twenty_labelers_for_ten_minutes(tmp_path, seconds):
    workers, store = work_through_kills(
        tmp_path, 20, records=12 * seconds, seconds=seconds, kills=3, pause=0.8
    )
    check(workers, store, kills=3)
    times = np.array([second for worker in workers for second in worker.seconds])
    figures = {
        "requests": len(times),
        "answers": sum(len(worker.told) for worker in workers),
        "retries": sum(worker.retries for worker in workers),
        "milliseconds": {q: round(1000 * np.quantile(times, q / 100), 1) for q in (50, 95, 99)},
    }
    print(json.dumps(figures))
    assert figures["milliseconds"][95] < 100

"""What requests themselves may try on the labelling site: forms, sizes, paths, SQL; none of it succeeds."""

import asyncio
import dataclasses
import json
import re
import socket
import threading
import time
from urllib.parse import unquote

import labelling
import pytest
import sqlalchemy as sa
import uvicorn
from labelling import Visitor, count, join, make_site, pair
from starlette.testclient import TestClient

from rlhf_jax.feedback import guard, people, people_pages
from rlhf_jax.feedback.app import make_app
from rlhf_jax.feedback.schema import answers, assignments, metadata, questions
from rlhf_jax.feedback.study import Study

INJECTIONS = (
    "'; DROP TABLE answers; --",
    '" OR "1"="1',
    "1); DELETE FROM people; --",
    "%' UNION SELECT * FROM people--",
)


@pytest.fixture
def site(tmp_path):
    return make_site(tmp_path, [pair(i) for i in range(6)])


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    with labelling.crowd(tmp_path_factory.mktemp("crowd")) as found:
        yield found


# Forms


POSTS = [
    *("/leave", "/questions", "/questions/x", "/task/x", "/task/x/draft", "/task/x/skip", "/admin/people"),
    *("/messages", "/review/people/WORKER", "/review/tasks/x"),
    *(f"/admin/people/WORKER/{what}" for what in people_pages.ACTS),
]


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("token", [None, "", "wrong", "another's"])
def test_a_form_without_its_csrf_token_does_nothing(crowd, path, token):
    boss = crowd.administrator
    with crowd.site.store.read() as db:
        path = path.replace("WORKER", people.everybody(db)[0].worker)
    fields = {"name": "Eve", "role": "administrator", "key": "0" * 16, "text": "x"}
    fields |= {"paused": "yes", "excluded": "yes", "answers": "yes", "reason": "other"}
    if token is not None:
        fields["csrf"] = crowd.labeler.hidden("csrf") if token == "another's" else token
    assert boss.post(path, data=fields).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"},
     {"sec-fetch-site": "same-site"}, {"origin": "http://testserver.evil.example"}],
)  # fmt: skip
def test_a_form_of_another_site_is_refused_even_with_the_token(crowd, headers):
    ana = crowd.labeler
    fields = {"csrf": ana.hidden("csrf"), "key": "0" * 16, "text": "x"}
    assert ana.post("/questions", data=fields, headers=headers).status_code == 403


PUBLIC = "https://label.example.org"
OWN = {"origin": PUBLIC, "sec-fetch-site": "same-origin"}


@pytest.mark.parametrize("host", ["testserver", "testserver:8000", "label.example.org"])
@pytest.mark.parametrize(
    "headers, status",
    [
        (OWN, 200),
        ({"origin": PUBLIC}, 200),  # of a browser that says no more
        ({"origin": "http://HOST"}, 200),  # opened on the machine itself
        (OWN | {"sec-fetch-site": "cross-site"}, 403),
        (OWN | {"sec-fetch-site": "same-site"}, 403),
        (OWN | {"origin": "https://evil.example"}, 403),
        ({"origin": f"{PUBLIC}.evil.example"}, 403),
        ({"origin": f"{PUBLIC}:8443"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"origin": "http://[evil"}, 403),
    ],
)
def test_the_address_of_the_site_decides_what_is_another_site(crowd, host, headers, status):
    """Whatever a proxy makes of the Host."""
    site = dataclasses.replace(crowd.site, url=PUBLIC)
    cookie = crowd.labeler.cookies[crowd.site.address.cookie]
    ana = TestClient(make_app(site, ["testserver", "label.example.org"]))
    headers = headers | {"host": host, "cookie": f"{site.address.cookie}={cookie}"}
    headers["origin"] = headers["origin"].replace("HOST", host)
    fields = {"csrf": crowd.labeler.hidden("csrf"), "task": "", "key": "0" * 16, "text": "\u200b"}
    found = ana.post("/questions", data=fields, headers=headers).status_code
    assert found == (400 if status == 200 else status)  # let in, where it finds no text to ask


@pytest.mark.parametrize("headers", [{"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}])
def test_another_site_cannot_sign_somebody_in(site, headers):
    with site.store.write() as db:
        _, token = people.add(db, "Eve", "labeler")
    victim = Visitor(site)
    assert victim.post(f"/join/{token}", headers=headers).status_code == 403 and not victim.cookies


def test_a_large_body_is_refused(site):
    ana = join(site, "Ana")
    path = ana.next_task()
    body = {"step": "interpret", "interpretation_first": "x" * guard.LARGEST}
    assert ana.submit(path, **body).status_code == 413


def test_a_pause_is_a_yes_or_a_no(crowd):
    boss = crowd.administrator
    with crowd.site.store.read() as db:
        worker = people.everybody(db)[0].worker
    for paused in ("", "maybe", "Yes"):
        fields = {"csrf": boss.hidden("csrf"), "paused": paused}
        assert boss.post(f"/admin/people/{worker}/pause", data=fields).status_code == 400


def test_a_body_that_never_ends_is_cut(site):
    """Sent in pieces, without a length: read no further than the limit."""
    server = uvicorn.Server(
        uvicorn.Config(make_app(site, ["127.0.0.1"]), port=0, log_config=None, log_level="critical")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        cookie = labelling.session(join(site, "Ana"), site)
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            head = f"POST /questions HTTP/1.1\r\nhost: 127.0.0.1\r\ncookie: {cookie}\r\n"
            kind = f"content-type: {guard.FORM}\r\ntransfer-encoding: chunked\r\n\r\n"
            connection.sendall((head + kind).encode())
            sent = 0
            connection.settimeout(0.05)
            answer = b""
            while not answer and sent < 100 * guard.LARGEST:
                try:
                    connection.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")
                    sent += 4096
                    answer = connection.recv(100)
                except TimeoutError:
                    continue
            assert answer.startswith(b"HTTP/1.1 413") and sent < 4 * guard.LARGEST
    finally:
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize("name", ["interpretation_first", "text", "name"])
def test_a_long_field_is_refused(site, name):
    boss = join(site, "Boss", "administrator")
    path = {"text": "/questions", "name": "/admin/people"}.get(name)
    if path is None:
        ana = join(site, "Ana")
        path = ana.next_task()
        fields = {"step": "interpret", "interpretation_second": "b", name: "x" * 5001}
        assert ana.submit(path, **fields).status_code == 422
        ana.open(path)
        assert ana.submit(f"{path}/draft", **fields).status_code == 400
    else:
        fields = {"csrf": boss.hidden("csrf"), "key": "0" * 16, "role": "labeler", name: "x" * 5001}
        assert boss.post(path, data=fields).status_code == 400
    with site.store.read() as db:
        assert not any(fields for fields in db.scalars(sa.select(assignments.c.fields)))


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x", "text/plain", ""])
def test_other_types_of_body_are_refused(crowd, kind):
    ana = crowd.labeler
    body = json.dumps({"csrf": ana.hidden("csrf"), "text": "x"})
    assert ana.post("/questions", content=body, headers={"content-type": kind}).status_code == 415


@pytest.mark.parametrize(
    "body", [b"text=%ff%fe", b"\xff\xfe", b"&".join(b"a%d=1" % i for i in range(200)), b"text=a&text=b"]
)
def test_a_broken_form_is_an_error_of_the_sender(crowd, body):
    ana = crowd.labeler
    assert ana.post("/questions", content=body, headers={"content-type": guard.FORM}).status_code == 400


@pytest.mark.parametrize("choice", ["0", "10", "-1", "5.0", "٣", "1e0", "", " ", "nan", "1; DROP", "[]"])
def test_a_choice_outside_the_scale_is_no_answer(site, choice):
    ana = join(site, "Ana")
    path = ana.next_task()
    ana.submit(path, step="interpret", interpretation_first="a", interpretation_second="b")
    assert ana.submit(path, step="choose", choice=choice).status_code == 422
    assert count(site, answers) == 0


@pytest.mark.parametrize("key", ["", "short", "x" * 65, "' OR 1=1 --aaaaaa", "../../../etc/pass", "é" * 20])
def test_a_form_needs_a_proper_key(site, key):
    ana = join(site, "Ana")
    path = ana.next_task()
    assert ana.submit(path, key=key, step="interpret").status_code == 400


def test_a_key_answers_one_task_only(site):
    ana = join(site, "Ana")
    first = ana.next_task()
    key = ana.hidden("key")
    ana.submit(first, step="interpret", interpretation_first="a", interpretation_second="b")
    ana.submit(first, step="choose", choice="2", key=key)
    second = ana.next_task()
    ana.submit(second, step="interpret", interpretation_first="a", interpretation_second="b")
    assert ana.submit(second, step="choose", choice="8", key=key).status_code == 409
    assert count(site, answers) == 1


def test_a_replayed_answer_changes_nothing(site):
    ana = join(site, "Ana")
    path = ana.compare(2, comment="first thought")
    ana.open("/task")
    for choice in ("9", "2"):
        ana.submit(path, step="choose", choice=choice, comment="changed")
    with site.store.read() as db:
        (kept,) = db.scalars(sa.select(answers.c.answer))
    assert kept["comment"] == "first thought" and kept["confidence"] in (2, 8)


def test_a_draft_cannot_smuggle_a_field_past_the_checks(tmp_path):
    """What a draft kept is checked again when the task is answered."""
    site = make_site(tmp_path, [labelling.single(0)], Study(kinds=("explanation",)))
    ana = join(site, "Ana")
    path = ana.next_task()
    ana.submit(f"{path}/draft", step="explanation", invented="words that stand nowhere")
    ana.open(path)
    assert ana.submit(path, step="explanation", why="because").status_code == 422
    assert count(site, answers) == 0


# Addresses


PATHS = [
    "/static/../store.py", "/static/..%2fstore.py", "/static/%2e%2e/%2e%2e/store.py", "/static/..\\store.py",
    "/static/site.css%00.js", "/static/%00", "/static/", "/static", "/static//etc/passwd", "//etc/passwd",
    "/task/..", "/task/%2e%2e/admin", "/task/%00", "/task/..\\..", "/task/x%2fdraft", "/questions/%00",
    "/learned/%2e%2e%2fadmin", "/learned/%00", "/join/..", "/join/%2e%2e%2fadmin", "/join/%00", "/join/a/b",
    "/admin/..;/", "/admin/people/%00/link", "/admin/people/1%2f..%2f2/link", "/admin/people/-1/link",
    "/admin/people/99999999999999999999999999/link", "/admin//export", "/.git/config", "/feedback.sqlite",
    "/%2e%2e/%2e%2e/etc/passwd", "/\\..\\..\\etc\\passwd", "/admin/export/../../feedback.sqlite",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_tricks_in_a_path_find_nothing(crowd, path):
    """Sent as they are, since a client would tidy them up."""
    boss = crowd.administrator
    found = []

    async def ask(method):
        async def receive():
            body = f"csrf={boss.hidden('csrf')}&key={'0' * 16}&text=x".encode()
            return {"type": "http.request", "body": body if method == "POST" else b"", "more_body": False}

        async def send(message):
            found.append(message)

        headers = [
            ("host", "testserver"),
            ("cookie", labelling.session(boss, crowd.site)),
            ("content-type", guard.FORM),
        ]
        scope = {
            "type": "http", "http_version": "1.1", "scheme": "http", "method": method,
            "path": unquote(path), "raw_path": path.encode(), "root_path": "", "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers],
            "server": ("testserver", 80), "client": ("stranger", 1),
        }  # fmt: skip
        await boss.app(scope, receive, send)

    for method in ("GET", "POST"):
        found.clear()
        asyncio.run(ask(method))
        assert found[0]["status"] in (404, 405), (method, path)
        body = b"".join(message.get("body", b"") for message in found[1:])
        assert b"import" not in body and b"SQLite" not in body and b"Traceback" not in body


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"])
@pytest.mark.parametrize("path", ["/", "/task", "/admin", "/static/site.css", "/join/x"])
def test_other_methods_do_nothing(crowd, method, path):
    assert crowd.administrator.request(method, path).status_code == 405


@pytest.mark.parametrize("path", ["/task/x", "/questions", "/admin/people", "/leave"])
def test_forms_do_not_work_as_addresses(crowd, path):
    boss = crowd.administrator
    fields = {"csrf": boss.hidden("csrf"), "key": "0" * 16, "text": "x", "name": "Eve", "role": "labeler"}
    assert boss.get(path, params=fields).status_code in (200, 404, 405)


def test_a_false_host_is_refused_and_never_stands_in_a_link(site):
    boss = join(site, "Boss", "administrator")
    boss.open("/admin")
    fields = {"csrf": boss.hidden("csrf"), "name": "Ana", "role": "labeler"}
    for host in ("evil.example", "testserver.evil.example", "evil.example:80", "testserver\\@evil.example"):
        assert boss.post("/admin/people", data=fields, headers={"host": host}).status_code == 400
    forwarded = {"x-forwarded-host": "evil.example", "forwarded": "host=evil.example"}
    page = boss.post("/admin/people", data=fields, headers=forwarded).text
    assert "http://testserver/join/" in page and "evil" not in page


@pytest.mark.parametrize("text", ["Ana\r\nSet-Cookie: session=x", "Ana\nLocation: //evil.example", "Ana\0"])
def test_a_name_cannot_inject_a_header(site, text):
    boss = join(site, "Boss", "administrator")
    response = boss.post(
        "/admin/people",
        data={"csrf": boss.hidden("csrf"), "name": text, "role": "labeler"},
        follow_redirects=False,
    )
    assert response.headers["location"] == "/admin" and "set-cookie" not in response.headers
    with site.store.read() as db:
        assert not any(c in person.name for person in people.everybody(db) for c in "\r\n\0")


# SQL


@pytest.mark.parametrize("text", INJECTIONS)
def test_sql_in_every_field_is_only_text(site, text):
    tables = set(metadata.tables)
    boss, ana = join(site, "Boss", "administrator"), join(site, "Ana")
    path = ana.next_task()
    ana.submit(path, step="interpret", interpretation_first=text, interpretation_second=text)
    ana.submit(path, step="choose", choice="1", comment=text)
    ana.open("/questions")
    ana.submit("/questions", text=text)
    ana.open("/questions")
    ana.submit("/questions", text="x", task=text)
    boss.open("/questions")
    boss.submit(re.search(r'action="(/questions/[^"]+)"', boss.page)[1], text=text)
    boss.post("/admin/people", data={"csrf": boss.hidden("csrf"), "name": text, "role": "labeler"})
    boss.post("/admin/people", data={"csrf": boss.hidden("csrf"), "name": "x", "role": text})
    for tried in (f"/task/{text}", f"/learned/{text}", f"/join/{text}", f"/questions/{text}"):
        assert ana.get(tried).status_code in (404, 405)
    with site.store.read() as db:
        assert set(sa.inspect(db).get_table_names()) == tables
        (kept,) = db.scalars(sa.select(answers.c.answer))
        assert kept["comment"] == text and kept["notes"] == [text, text]
        assert [person.name for person in people.everybody(db)] == ["Boss", "Ana", text]
        assert db.scalar(sa.select(questions.c.text)) == text


# Strangers


@pytest.mark.parametrize(
    "path", ["/", "/task", "/task/x", "/questions", "/admin", "/admin/export", "/admin/agreement"]
)
def test_a_stranger_sees_nothing(crowd, path):
    stranger = Visitor(crowd.site)
    response = stranger.get(path)
    assert response.status_code == 403 and "Summary" not in response.text
    assert stranger.post(path, data={"text": "x"}).status_code in (403, 405)


def test_false_links_keep_nobody_from_coming_in_by_a_right_one(site):
    """However many there are: all who are behind one proxy may have one address."""
    with site.store.write() as db:
        _, token = people.add(db, "Ana", "labeler")
    stranger = Visitor(site)
    assert {stranger.get(f"/join/guess{i}").status_code for i in range(100)} == {404}
    assert Visitor(site).post(f"/join/{token}").status_code == 200


def test_one_person_cannot_flood_the_site(site, monkeypatch):
    ana, bo = join(site, "Ana"), join(site, "Bo")
    now = time.monotonic()
    monkeypatch.setattr("rlhf_jax.feedback.guard.monotonic", lambda: now)
    found = {ana.post("/leave", data={"csrf": "wrong"}).status_code for _ in range(320)}
    assert found == {403, 429}
    assert bo.post("/leave", data={"csrf": "wrong"}).status_code == 403
    now += 1
    assert ana.post("/leave", data={"csrf": "wrong"}).status_code == 403


def test_a_mistake_of_ours_tells_a_stranger_nothing(site, monkeypatch):
    def broken(*_):
        raise RuntimeError("the secret reason")

    ana = join(site, "Ana")
    monkeypatch.setattr("rlhf_jax.feedback.work.progress", broken)
    response = ana.get("/")
    assert response.status_code == 500
    assert "secret" not in response.text and "Traceback" not in response.text and ".py" not in response.text
    assert response.headers["x-content-type-options"] == "nosniff"

"""The judge behind an endpoint, against a server of our own that errs in every way a real one does."""

import json
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from rlhf_jax.config import DataConfig
from rlhf_jax.data.records import Post
from rlhf_jax.data.tasks.tldr import Tldr
from rlhf_jax.evaluation import endpoint
from rlhf_jax.evaluation.endpoint import Endpoint, EndpointError, judge, verdict

POSTS = [Post(str(i), "pets", "title", f"post {i}") for i in range(4)]
TASK = Tldr(DataConfig())
KEY = "secret-key-of-the-test"


class Server(ThreadingHTTPServer):
    """Prefers summaries that say "good". `faults` are played first, one a request."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults, self.asked, self.keys, self.lock = [], [], [], threading.Lock()
        self.under_way, self.most, self.delay, self.by_place = 0, 0, 0.0, False

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.asked.append((self.path, body))
            server.keys.append(self.headers.get("Authorization"))
            fault = server.faults.pop(0) if server.faults else None
            server.under_way += 1
            server.most = max(server.most, server.under_way)
        time.sleep(server.delay)
        with server.lock:
            server.under_way -= 1
        if fault:
            return fault(self)
        text = body["messages"][0]["content"]
        first = text.split("Summary A:")[1].split("Summary B:")[0]
        letter = "A" if server.by_place or "good" in first else "B"
        usage = {"prompt_tokens": 1000, "completion_tokens": 100}
        reply = {"choices": [{"message": {"content": f"It says more.\n{letter}"}}], "usage": usage}
        self.send(200, json.dumps(reply))

    def send(self, status, text, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


def status(code, text="{}", **headers):
    return lambda handler: handler.send(code, text, **headers)


@pytest.fixture
def server():
    running = Server()
    threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(endpoint, "LONGEST_WAIT", 0.02)


def ask(server, tmp_path, posts=POSTS, first="good", second="bad", **fields):
    asked = judge(Endpoint(server.url, "m", **fields), tmp_path / "cache.jsonl", TASK)
    return asked(posts, [first] * len(posts), [second] * len(posts))


def test_both_orders_are_asked_and_agree(server, tmp_path):
    np.testing.assert_array_equal(ask(server, tmp_path), [1, 1, 1, 1])
    np.testing.assert_array_equal(ask(server, tmp_path, first="bad", second="good"), [0, 0, 0, 0])
    assert len(server.asked) == 8  # the second judgment is the first with its orders exchanged
    path, body = server.asked[0]
    assert path == "/v1/chat/completions" and body["model"] == "m" and body["temperature"] == 0
    shown = {body["messages"][0]["content"].split("\n\nSummary A:")[0] for _, body in server.asked}
    assert {text.split("Text:\n")[1] for text in shown} == {TASK.prompt(post).text for post in POSTS}
    assert {key for key in server.keys} == {f"Bearer {KEY}"}


def test_a_model_that_chooses_by_place_ties(server, tmp_path):
    server.by_place = True
    np.testing.assert_array_equal(ask(server, tmp_path), [0.5] * 4)


def test_what_was_answered_is_never_asked_again(server, tmp_path):
    ask(server, tmp_path, POSTS[:2])
    with (tmp_path / "cache.jsonl").open("a") as file:
        file.write('{"key": "cut o')  # killed while it wrote
    np.testing.assert_array_equal(ask(server, tmp_path), [1] * 4)
    assert len(server.asked) == 8
    np.testing.assert_array_equal(ask(server, tmp_path), [1] * 4)
    assert len(server.asked) == 8
    assert KEY not in (tmp_path / "cache.jsonl").read_text()


def test_another_model_or_prompt_is_another_question(server, tmp_path):
    ask(server, tmp_path, POSTS[:1])
    asked = judge(Endpoint(server.url, "other"), tmp_path / "cache.jsonl", TASK)
    asked(POSTS[:1], ["good"], ["bad"])
    ask(server, tmp_path, POSTS[:1], prompt=endpoint.PROMPT + " Please.")
    assert len(server.asked) == 6


@pytest.mark.parametrize(
    "fault",
    [
        status(429, Retry_After="0"),
        status(429, Retry_After=formatdate(0, usegmt=True)),
        status(500),
        status(503),
        status(200, "no JSON"),
        status(200, '{"choices": []}'),
        status(200, '{"choices": [{"message": {"content": null}}]}'),
        lambda handler: handler.connection.close(),
    ],
)
def test_what_passes_is_asked_again(server, tmp_path, fault):
    server.faults = [fault, fault]
    np.testing.assert_array_equal(ask(server, tmp_path, POSTS[:1]), [1])
    assert len(server.asked) == 4


def test_a_silent_endpoint_is_asked_again(server, tmp_path):
    server.faults = [lambda handler: time.sleep(0.5)]
    np.testing.assert_array_equal(ask(server, tmp_path, POSTS[:1], timeout=0.15, at_once=1), [1])
    assert len(server.asked) == 3


def test_retry_after_is_waited_for(server, tmp_path):
    server.faults = [status(429, Retry_After="0.4")]
    start = time.monotonic()
    ask(server, tmp_path, POSTS[:1], at_once=1)
    assert 0.4 <= time.monotonic() - start < 2


def test_attempts_have_an_end_and_keep_what_was_answered(server, tmp_path):
    server.faults = [None, *[status(500)] * 3]
    with pytest.raises(EndpointError, match="127.0.0.1.*status 500; 3 attempts"):
        ask(server, tmp_path, POSTS[:1], attempts=3, at_once=1)
    assert len(endpoint.read_cache(tmp_path / "cache.jsonl")) == 1


def test_a_refusal_ends_it_at_once_without_the_key(server, tmp_path):
    server.faults = [status(401, f"wrong key {KEY}")]
    with pytest.raises(EndpointError, match="status 401: wrong key …") as error:
        ask(server, tmp_path, POSTS[:1], at_once=1)
    assert KEY not in str(error.value) and len(server.asked) == 1


def test_the_key_follows_no_redirect(server, tmp_path):
    server.faults = [status(302, Location=f"{server.url}/elsewhere")]
    with pytest.raises(EndpointError, match="status 302"):
        ask(server, tmp_path, POSTS[:1], at_once=1)
    assert len(server.asked) == 1


def test_requests_under_way_are_limited(server, tmp_path):
    server.delay = 0.03
    ask(server, tmp_path, at_once=3)
    assert 2 <= server.most <= 3


def test_nothing_is_sent_that_would_cost_too_much(server, tmp_path, capsys):
    # 2 requests of 128 answer tokens at $1,000 a million are $0.26 and the questions.
    with pytest.raises(EndpointError, match=r"2 requests would cost about \$0\.26, more than the \$0\.20"):
        ask(server, tmp_path, POSTS[:1], price_out=1000.0, max_cost=0.2)
    assert server.asked == []
    ask(server, tmp_path, POSTS[:1], price_out=1000.0, max_cost=0.3)
    assert "m: 2 requests, 0 kept, about $0.26" in capsys.readouterr().out


def test_the_cost_is_held_while_it_comes(server, tmp_path):
    # Every reply uses 1,000 tokens of the question at $1,000 a million: the third passes $2.50.
    with pytest.raises(EndpointError, match=r"\$3\.00 are spent.*3 replies are kept"):
        ask(server, tmp_path, price_in=1000.0, max_cost=2.5, at_once=1)
    assert len(endpoint.read_cache(tmp_path / "cache.jsonl")) == 3


@pytest.mark.parametrize(
    "reply, says",
    [
        ("A", 1),
        ("Both are fine.\nB.", 0),
        ("A is long.\n**B**\n", 0),
        ("A or B", 0.5),
        ("neither", 0.5),
        ("", 0.5),
    ],
)
def test_the_last_line_decides(reply, says):
    assert verdict(reply) == says


def test_a_text_that_names_a_place_stays_as_it_is():
    body = endpoint.request(
        Endpoint("http://x", "m", "{text}|{first}|{second}"), "a {second}", "{text} b", "c"
    )
    assert body["messages"][0]["content"] == "a {second}|{text} b|c"


@pytest.mark.parametrize(
    "fields, message",
    [({"url": "ftp://x"}, "no address"), ({"prompt": "{text} {first}"}, "place for {second}")],
)
def test_what_cannot_be_asked_is_told_before(tmp_path, fields, message):
    with pytest.raises(EndpointError, match=message):
        judge(Endpoint(**{"url": "http://x", "model": "m"} | fields), tmp_path / "cache.jsonl", TASK)

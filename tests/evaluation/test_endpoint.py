"""The judge behind an endpoint, against a server of our own that errs in every way a real one does."""

import json
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from rlhf_jax.config import DataConfig
from rlhf_jax.data.records import Post, RecordError
from rlhf_jax.data.tasks.tldr import Tldr
from rlhf_jax.evaluation import asking, endpoint
from rlhf_jax.evaluation.endpoint import Endpoint, EndpointError, EndpointJudge

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
    monkeypatch.setattr(asking, "LONGEST_WAIT", 0.02)


def ask(server, tmp_path, posts=POSTS, first="good", second="bad", **fields):
    asked = EndpointJudge(Endpoint(server.url, "m", **fields), tmp_path / "cache.jsonl", TASK)
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
    asked = EndpointJudge(Endpoint(server.url, "other"), tmp_path / "cache.jsonl", TASK)
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
        status(200, "[]"),
        status(200, '{"error": {"message": "overloaded"}}'),
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


def answering(content, finish="stop", **more):
    message = {"message": {"content": content}, "finish_reason": finish}
    return status(200, json.dumps({"choices": [message], **more}))


@pytest.mark.parametrize(
    "fault, reason",
    [
        (answering("<think>\nOkay, A is better", "length"), "cut off"),
        (answering("Summary A", "length"), "cut off"),
        (answering("<think>hm</think>", "length"), "empty"),
        (answering(""), "empty"),
        (answering(None, "length"), "empty"),
        (answering("I cannot say."), "another wording"),
        (status(200, '{"choices": []}'), "no answer"),
        (status(200, '{"choices": null, "usage": null}'), "no answer"),
        (status(200, "{}"), "no answer"),
        (status(200, '{"choices": [null]}'), "no answer"),
        (status(200, '{"choices": [{"finish_reason": "stop"}]}'), "no answer"),
        (status(200, '{"choices": [{"message": {}}]}'), "empty"),
    ],
)
def test_a_reply_without_a_verdict_is_counted_and_its_pair_is_no_tie(server, tmp_path, capsys, fault, reason):
    """Of two posts' four replies the first has none: the other post counts, and nothing is asked again."""
    server.faults = [fault]
    asked = EndpointJudge(Endpoint(server.url, "m", at_once=1), tmp_path / "cache.jsonl", TASK)
    np.testing.assert_array_equal(asked(POSTS[:2], ["good"] * 2, ["bad"] * 2), [np.nan, 1])
    assert list(asked.unread.values()) == [reason] and len(server.asked) == 4
    assert f"m: 1 of 4 replies have no verdict (1 {reason})" in capsys.readouterr().out
    asked(POSTS[:2], ["good"] * 2, ["bad"] * 2)
    assert len(server.asked) == (5 if reason == "no answer" else 4)  # no answer is not kept


@pytest.mark.parametrize(
    "fault",
    [
        answering("It is fine.\nA", "length"),  # all of its tokens, the last of them the letter
        answering("<think>B?\nB</think>\n\n**A**"),
        answering("A", None, usage=None),
        answering("A", usage={"prompt_tokens": None, "completion_tokens": None}),
        status(200, '{"choices": [{"message": {"content": "A"}}], "usage": []}'),
    ],
)
def test_a_verdict_is_read_whatever_else_is_left_out(server, tmp_path, fault):
    server.faults = [fault]
    np.testing.assert_array_equal(ask(server, tmp_path, POSTS[:1], at_once=1), [1])


@pytest.mark.parametrize(
    "usage, dollars",
    [
        # 4,000 characters are about 1,000 tokens, and an answer has at most 128: at $1,000 a million.
        ({}, 1.128),
        ({"prompt_tokens": None, "completion_tokens": "many"}, 1.128),
        ({"prompt_tokens": 500}, 0.628),
        ({"prompt_tokens": 500, "completion_tokens": 8}, 0.508),
    ],
)
def test_what_the_endpoint_does_not_tell_costs_what_was_estimated(usage, dollars):
    asked = Endpoint("http://x", "m", price_in=1000.0, price_out=1000.0)
    body = {"messages": [{"role": "user", "content": "x" * 4000}]}
    assert endpoint._cost(asked, body, usage) == pytest.approx(dollars)


def test_a_wait_is_told_and_one_without_end_ends_it(server, tmp_path, capsys):
    server.faults = [status(429, Retry_After="0"), status(429, Retry_After="86400")]
    with pytest.raises(
        EndpointError, match="status 429; it asks to wait 86,400 s, longer than --max_wait=600"
    ):
        ask(server, tmp_path, POSTS[:1], at_once=1)
    assert "m: status 429; attempt 2 of 6 in 0.0 s" in capsys.readouterr().out
    assert len(server.asked) == 2


def test_the_limit_of_tokens_is_sent_by_the_name_asked_for(server, tmp_path):
    limit = {"answer_tokens": 4000, "tokens_parameter": "max_completion_tokens"}
    ask(server, tmp_path, POSTS[:1], temperature=1.0, **limit)
    for _, body in server.asked:
        assert body["max_completion_tokens"] == 4000 and "max_tokens" not in body and body["temperature"] == 1
    server.faults = [status(400, "'max_tokens' is not supported. Use 'max_completion_tokens' instead.")]
    with pytest.raises(EndpointError, match="status 400.*; try --tokens_parameter=max_completion_tokens"):
        ask(server, tmp_path, POSTS[:1], at_once=1)


def test_a_cache_of_before_is_read_and_a_damaged_line_is_named(server, tmp_path):
    body = endpoint.request(Endpoint("", "m"), TASK.prompt(POSTS[0]).text, "good", "bad")
    cache = tmp_path / "cache.jsonl"
    cache.write_text(json.dumps({"key": endpoint.digest(body), "reply": "A"}) + "\n")
    ask(server, tmp_path, POSTS[:1])
    assert len(server.asked) == 1
    for line in ("{", "3", '{"key": "x"}'):
        cache.write_text(line + "\n")
        with pytest.raises(RecordError, match="cache.jsonl, line 1"):
            ask(server, tmp_path, POSTS[:1])


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
        EndpointJudge(Endpoint(**{"url": "http://x", "model": "m"} | fields), tmp_path / "cache.jsonl", TASK)

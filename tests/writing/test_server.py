"""Answers over HTTP: OpenAI's shape, requests written together, nothing asked that is left out in silence."""

import json
import threading
import time

import pytest
from starlette.testclient import TestClient

from rlhf_jax.writing import batching
from rlhf_jax.writing.batching import Batcher, Busy, Job
from rlhf_jax.writing.server import Server

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def client_of(opened):
    _, prompts, writer = opened
    server = Server(writer, prompts, "robin", temperature=0.0, seed=0)
    return TestClient(server.app(["testserver"]), raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client(plain):
    with client_of(plain) as client:
        yield client


@pytest.fixture(scope="module")
def chat_client(chat):
    with client_of(chat) as client:
        yield client


def message(text="hi", **more):
    return {"model": "robin", "messages": [{"role": "user", "content": text}], **more}


def prompt(text="the robin", **more):
    return {"model": "robin", "prompt": text, **more}


def events(response):
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_a_message_is_answered_as_the_network_does(client, plain):
    network, _, _ = plain
    answer = client.post(CHAT, json=message()).json()
    (choice,) = answer["choices"]
    ((ids, _),) = [network.task.encode_prompts([network.task.record_of("hi")], network.tokenizer)]
    assert answer["object"] == "chat.completion" and answer["model"] == "robin"
    assert choice["message"]["role"] == "assistant" and choice["finish_reason"] in ("stop", "length")
    usage = answer["usage"]
    assert usage["prompt_tokens"] == len(ids[0]) and 1 <= usage["completion_tokens"] <= 12
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_a_conversation_is_answered_by_a_chat_model(chat_client):
    said = [("system", "Be short."), ("user", "a"), ("assistant", "b"), ("user", "c")]
    messages = [{"role": role, "content": content} for role, content in said]
    answer = chat_client.post(CHAT, json={"model": "robin", "messages": messages, "max_tokens": 3}).json()
    assert answer["usage"]["completion_tokens"] <= 3


def test_several_prompts_and_samples_in_order_and_the_same_from_a_seed(client):
    asked = prompt(["the robin", "it was"], n=2, temperature=1.0, seed=-4)
    first, again = (client.post(TEXT, json=asked).json()["choices"] for _ in range(2))
    assert first == again and [choice["index"] for choice in first] == [0, 1, 2, 3]
    texts = [choice["text"] for choice in first]
    assert len(set(texts)) == 4
    assert client.post(TEXT, json=asked | {"seed": 5}).json()["choices"] != first


def test_without_a_seed_two_answers_differ(client):
    asked = prompt(temperature=2.0)
    assert client.post(TEXT, json=asked).json()["choices"] != client.post(TEXT, json=asked).json()["choices"]


def test_a_stream_is_the_answer_in_pieces(client):
    asked = message(temperature=1.0, seed=3, n=2, max_tokens=30)
    whole = client.post(CHAT, json=asked).json()
    told = events(client.post(CHAT, json=asked | {"stream": True, "stream_options": {"include_usage": True}}))
    assert told.pop()["usage"] == whole["usage"] and len({event["id"] for event in told}) == 1
    texts, finishes = ["", ""], [None, None]
    for event in told:
        (choice,) = event["choices"]
        assert event["object"] == "chat.completion.chunk" and finishes[choice["index"]] is None
        texts[choice["index"]] += choice["delta"]["content"]
        finishes[choice["index"]] = choice["finish_reason"]
    assert texts == [choice["message"]["content"] for choice in whole["choices"]]
    assert finishes == [choice["finish_reason"] for choice in whole["choices"]]


def test_log_probabilities_are_of_the_tokens_of_the_text(client):
    told = client.post(TEXT, json=prompt(logprobs=0, max_tokens=5)).json()["choices"][0]
    of_tokens = told["logprobs"]
    assert "".join(of_tokens["tokens"]) == told["text"] and all(x <= 0 for x in of_tokens["token_logprobs"])
    content = client.post(CHAT, json=message(logprobs=True)).json()["choices"][0]["logprobs"]["content"]
    assert all(bytes(one["bytes"]).decode() == one["token"] for one in content)


def test_it_stops_before_a_stop_text(client):
    text = client.post(TEXT, json=prompt(max_tokens=12)).json()["choices"][0]["text"]
    stop = text[len(text) // 2 :][:1]
    told = client.post(TEXT, json=prompt(max_tokens=12, stop=stop)).json()["choices"][0]
    assert (told["text"], told["finish_reason"]) == (text[: text.index(stop)], "stop")


@pytest.mark.parametrize(
    "more",
    [
        {"top_p": 1.0, "frequency_penalty": 0, "logit_bias": {}, "tools": [], "user": "me", "suffix": None},
        {"n": 1, "presence_penalty": 0.0, "function_call": "none", "prompt_cache_key": "x"},
        {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "ignore_eos": False, "min_tokens": 0},
        {"top_p": 0.9, "top_k": 50, "min_p": 0.1},
    ],
)
def test_fields_that_change_nothing_are_let_pass(client, more):
    """The most likely token, which is written at temperature 0, is among the most likely ones."""
    plain, told = (client.post(CHAT, json=message(temperature=0, **some)).json() for some in ({}, more))
    assert told["choices"] == plain["choices"]


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "words"),
    [
        (CHAT, message(top_p=0.5, temperature=1), 400, "top_p", "top_p=0.5 is not supported"),
        (CHAT, message(top_p=1.5, temperature=0), 400, "top_p", "from 0 to 1, not 1.5"),
        (CHAT, message(top_k=50, temperature=1), 400, "top_k", "top_k=50 is not supported"),
        (CHAT, message(repetition_penalty=1.1), 400, "repetition_penalty", "=1.1 is not supported"),
        (CHAT, message(presence_penalty=1), 400, "presence_penalty", "presence_penalty=1 is not supported"),
        (CHAT, message(tools=[{"type": "function"}]), 400, "tools", "is not supported"),
        (CHAT, message(min_p=0.1, temperature=1), 400, "min_p", "min_p=0.1 is not supported"),
        (CHAT, message(typical_p=1), 400, "typical_p", "there is no field typical_p"),
        (CHAT, message(model="gpt-4"), 404, "model", "there is 'robin'"),
        (CHAT, message(model=None), 400, "model", "model should be a string"),
        (CHAT, message(temperature=2.5), 400, "temperature", "from 0 to 2, not 2.5"),
        (CHAT, message(temperature="hot"), 400, "temperature", "should be a number"),
        (CHAT, message(temperature=True), 400, "temperature", "should be a number"),
        (CHAT, message(max_tokens=0), 400, "max_tokens", "whole number from 1"),
        (CHAT, message(max_tokens=9999), 400, "messages", "the model reads 256"),
        (CHAT, message(n=500), 400, "n", "from 1 to 128"),
        (CHAT, message(stop=["a"] * 5), 400, "stop", "at most 4"),
        (CHAT, message(stop=""), 400, "stop", "none empty"),
        (CHAT, message(seed=1.5), 400, "seed", "whole number"),
        (CHAT, message(stream="yes"), 400, "stream", "true or false"),
        (CHAT, message(stream_options={"include_usage": True}), 400, "stream_options", "with stream"),
        (CHAT, message(stream=True, logprobs=True), 400, "logprobs", "not supported in a stream"),
        (CHAT, message(logprobs=True, top_logprobs=5), 400, "top_logprobs", "not supported"),
        (CHAT, message("the robin sang " * 50), 400, "messages", "shorten it"),
        (CHAT, {"model": "robin"}, 400, "messages", "list of messages"),
        (CHAT, message(messages=[{"role": "system", "content": "a"}]), 400, "messages", "no chat template"),
        (CHAT, message(""), 400, "messages", "nothing that can be seen"),
        (TEXT, prompt([1, 2]), 400, "prompt", "token ids are not supported"),
        (TEXT, prompt(["a"] * 100, n=2), 400, "n", "at most 128 responses"),
        (TEXT, prompt(logprobs=5), 400, "logprobs", "logprobs should be 0, not 5"),
        (TEXT, prompt(echo=True), 400, "echo", "not supported"),
        (TEXT, prompt("a" * 300), 400, "prompt", "the prompt takes 300 tokens"),
        (TEXT, [], 400, None, "should be a JSON object"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_in_openai_s_shape(client, path, body, status, param, words):
    refused = client.post(path, json={k: v for k, v in body.items() if v is not None} if body else body)
    error = refused.json()["error"]
    assert (refused.status_code, error["param"]) == (status, param) and words in error["message"], error
    assert error["type"] == "invalid_request_error"


def test_what_is_no_request_is_refused(client):
    for content, kind, status in [
        (b"{", "application/json", 400),
        (b'{"a": NaN}', "application/json", 400),
        (b"{}", "text/plain", 415),
        (b" " * (2**20 + 1), "application/json", 413),
    ]:
        refused = client.post(TEXT, content=content, headers={"Content-Type": kind})
        assert refused.status_code == status and refused.json()["error"]["message"]
    for half in (rb'{"model": "robin", "prompt": "\ud800"}', rb'{"\ud800": 1}'):
        refused = client.post(TEXT, content=half, headers={"Content-Type": "application/json"})
        assert refused.status_code == 400 and "surrogate" in refused.json()["error"]["message"]
    assert client.get("/v2").status_code == 404 and client.get(TEXT).status_code == 405
    assert client.get("/v1/models", headers={"Host": "evil.example"}).status_code == 400


def test_the_model_is_listed(client):
    (model,) = client.get("/v1/models").json()["data"]
    assert client.get("/v1/models/robin").json() == model and model["id"] == "robin"
    assert client.get("/v1/models/other").json()["error"]["code"] == "model_not_found"


class Recording:
    """A writer that keeps what was written together; it waits until it is let go, and can fail."""

    most_rows = 4

    def __init__(self, failing=False):
        self.batches, self.go, self.failing = [], threading.Event(), failing

    def write(self, responses):
        self.batches.append(list(responses))
        self.go.wait(10)
        if self.failing:
            raise MemoryError
        for response in responses:
            response.finish = response.finish or "stop"
        yield


class Asked:
    def __init__(self):
        self.finish = ""

    def cancel(self):
        self.finish = self.finish or "cancelled"


@pytest.fixture
def batcher():
    made = []

    def make(writer):
        made.append(Batcher(writer))
        made[0].start()
        return made[0]

    yield make
    made[0]._writer.go.set()
    made[0].stop()


def until(condition):
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come")


def test_what_waits_is_written_together_in_the_order_of_asking(batcher):
    writer = Recording()
    running = batcher(writer)
    done = []
    jobs = [Job([Asked() for _ in range(rows)], lambda: done.append(1), None) for rows in (1, 1, 2, 2, 9)]
    running.submit(jobs[0])
    until(lambda: writer.batches)
    for job in jobs[1:]:
        running.submit(job)
    writer.go.set()
    until(lambda: len(done) == 5)
    expected = [jobs[:1], jobs[1:3], jobs[3:4], jobs[4:]]  # at most four rows, but one request is not split
    assert writer.batches == [[one for job in together for one in job.responses] for together in expected]


def test_a_failure_is_told_to_those_of_its_batch_and_the_next_is_tried(batcher):
    writer = Recording(failing=True)
    running, failures = batcher(writer), []
    writer.go.set()
    for _ in range(2):
        running.submit(Job([Asked()], lambda: None, failures.append))
        until(lambda: len(failures) == len(writer.batches) > 0)
        time.sleep(0.05)
    assert [type(error) for error in failures] == [MemoryError] * 2


def test_too_many_are_sent_away_and_an_end_cancels_all(batcher, monkeypatch):
    monkeypatch.setattr(batching, "MOST_WAITING", 3)
    writer = Recording()
    running = batcher(writer)
    first, waiting, late = ([Asked()] for _ in range(3))
    running.submit(Job(first, lambda: None, None))
    until(lambda: writer.batches)
    running.submit(Job(waiting, lambda: None, None))
    with pytest.raises(Busy):
        running.submit(Job([Asked()] * 3, lambda: None, None))
    running.end()
    running.submit(Job(late, lambda: None, None))
    assert [one.finish for one in (*first, *waiting, *late)] == ["cancelled"] * 3

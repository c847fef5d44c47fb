"""A reward of one's own gives numbers, or one line that names it: whatever it does instead."""

import itertools
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from rlhf_jax.evaluation.scorer_process import ScorerError, is_address, values
from rlhf_jax.evaluation.scorers import Scorer

FUNCTIONS = """
import os, random, re, signal

def length(prompts, responses, rows):
    print("what is printed is for people")
    return [len(text) for text in responses]

def chance(prompts, responses, rows):
    return [random.random() + len(repr({"a", "b", text})) + hash(text) % 7 for text in responses]

def known(prompts, responses, rows):
    return [prompt + text == row["both"] for prompt, text, row in zip(prompts, responses, rows)]

def forks(prompts, responses, rows):
    return [float(os.fork() == 0)] * len(responses)

def crashes(prompts, responses, rows): return [1 / 0]
def leaves(prompts, responses, rows): raise SystemExit("enough")
def dies(prompts, responses, rows): os.kill(os.getpid(), signal.SIGSEGV)
def forgets(prompts, responses, rows): return [1.0]
def returns_nothing(prompts, responses, rows): pass
def repeats(prompts, responses, rows): return responses
def has_no_number(prompts, responses, rows): return [0.0, float("nan")]
def is_huge(prompts, responses, rows): return [1e300] * 2
def is_unordered(prompts, responses, rows): return {0.5, 1.5}
def gives_up(prompts, responses, rows): raise KeyboardInterrupt
def hangs(prompts, responses, rows): return [bool(re.match("(a+)+$", "a" * 50 + "b"))] * 2
"""
BATCH = ["p", "q"], ["ab", "c"], [{"both": "pab"}, {"both": "?"}]


@pytest.fixture
def file(tmp_path):
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    return tmp_path / "mine.py"


def asked(place, timeout=60.0, seed="0/1"):
    with Scorer(str(place), timeout) as scorer:
        return scorer(*BATCH, seed=seed)


def test_numbers_come_in_the_order_of_the_responses(file):
    with Scorer(f"{file}:length", 60) as length:
        assert length(*BATCH, seed="0/1").tolist() == [2, 1]
        assert length(*BATCH, seed="0/2").dtype == np.float32  # asked again, the same process answers
    assert asked(f"{file}:known").tolist() == [1, 0]


def test_what_a_function_forks_does_not_answer_for_it(file):
    with Scorer(f"{file}:forks", 60) as forks:
        assert [forks(*BATCH, seed=f"0/{i}").tolist() for i in range(3)] == [[0, 0]] * 3


def test_a_step_repeats_itself_in_another_process(file):
    first = asked(f"{file}:chance")
    np.testing.assert_array_equal(asked(f"{file}:chance"), first)
    assert (asked(f"{file}:chance", seed="0/2") != first).all()


@pytest.mark.parametrize(
    "name, told",
    [
        ("crashes", "ZeroDivisionError: division by zero (mine.py, line 17)"),
        ("leaves", "SystemExit: enough (mine.py, line 18)"),
        ("dies", "its process ended by SIGSEGV"),
        ("forgets", "it gave 1 numbers for 2 responses"),
        ("returns_nothing", "it gave None, not a list of numbers"),
        ("repeats", "it gave 'ab' for a response, which is no number"),
        ("has_no_number", "it gave nan for 'c', which is no finite number"),
        ("is_huge", "it gave 1e+300 for 'ab', which is no finite number"),
        ("is_unordered", "it gave {{0.5, 1.5}}, not a list of numbers"),
        ("gives_up", "KeyboardInterrupt (mine.py, line 26)"),
        ("is_nowhere", "there is no function is_nowhere in {folder}/mine.py"),
    ],
)
def test_whatever_else_it_does_is_told_in_a_line_that_names_it(file, name, told):
    with pytest.raises(ScorerError) as error:
        asked(f"{file}:{name}")
    assert str(error.value) == f"{file}:{name}: {told.format(folder=file.parent)}"


def test_one_that_never_ends_is_ended(file):
    """A regular expression, which neither a signal nor a thread could leave."""
    began = time.monotonic()
    with Scorer(f"{file}:hangs", 0.5) as scorer:
        with pytest.raises(
            ScorerError, match=r"mine.py:hangs: no answer within 0.5 s \(ppo.reward_timeout\)"
        ):
            scorer(*BATCH, seed="0/1")
        assert scorer._process.poll() is not None
    assert time.monotonic() - began < 120


@pytest.mark.parametrize("place, told", [("gone.py:f", "there is no file gone.py"), ("gone:f", "No module")])
def test_a_file_or_a_module_that_is_not_there_is_named(place, told):
    with pytest.raises(ScorerError, match=f"^{place}: .*{told}"):
        asked(place)


def test_values_may_be_anything_that_is_a_number():
    assert values(lambda *batch: np.array([1, 2.5]), "0", [], [], []) == [1, 2.5]
    assert values(lambda *batch: (x for x in (True, 0)), "0", *BATCH) == [1, 0]


def test_numbers_that_never_end_are_too_many():
    assert len(values(lambda *batch: itertools.repeat(1), "0", *BATCH)) == 3


# A server ------------------------------------------------------------------------------------


@pytest.fixture
def server():
    """`answers` are given one after another, (status, JSON); `asked` are the bodies that came."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            running.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            running.keys.append(self.headers["Authorization"])
            status, answer = running.answers.pop(0)
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Retry-After", "0.01")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.asked, running.keys, running.answers = [], [], []
    running.address = f"http://127.0.0.1:{running.server_port}/score"
    threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


def test_a_server_gets_the_batch_and_one_that_is_busy_is_asked_again(server, monkeypatch):
    monkeypatch.setenv("REWARD_API_KEY", "secret")
    server.answers = [(503, {}), (200, [0.5, -1])]
    assert asked(server.address).tolist() == [0.5, -1]
    prompts, responses, rows = BATCH
    assert server.asked == [{"prompts": prompts, "responses": responses, "rows": rows}] * 2
    assert server.keys == ["Bearer secret"] * 2
    server.answers = [(200, {"rewards": [1, 2]})]
    assert asked(server.address).tolist() == [1, 2]


@pytest.mark.parametrize(
    "answers, told",
    [
        ([(429, {})] * 5, "status 429; 5 attempts"),
        ([(404, "no such model")], 'status 404: "no such model"'),
        ([(200, {"scores": [1, 2]})], "it gave None, not a list of numbers"),
        ([(200, [1])], "it gave 1 numbers for 2 responses"),
    ],
)
def test_a_server_that_gives_no_numbers_is_named(server, answers, told):
    server.answers = answers
    with pytest.raises(ScorerError) as error:
        asked(server.address)
    assert str(error.value) == f"{server.address}: {told}"


def test_an_address_is_no_file():
    assert is_address("http://localhost:1/x") and not is_address("http.py:f")

import json
from typing import ClassVar

import numpy as np
import pytest

from rlhf_jax.config import Config, DataConfig
from rlhf_jax.data.record_json import write_jsonl
from rlhf_jax.data.records import Comparison, Post, Summary
from rlhf_jax.data.tasks.tldr import Tldr
from rlhf_jax.evaluation import endpoint
from rlhf_jax.experiments import judged
from rlhf_jax.experiments.judged import main, measure
from rlhf_jax.run import workdir as runs

POSTS = [Post(str(i), "pets", "title", f"the cat of post {i} sat", f"cat {i}") for i in range(6)]


def sample(post):
    texts = {"reference": post.summary, "sft": "dog", "ppo": f"the cat of post {post.id}"}
    fields = {name: getattr(post, name) for name in ("id", "subreddit", "title", "post", "summary")}
    summaries = {name: {"text": text, "score": len(text), "gold": None} for name, text in texts.items()}
    return {"post": fields, "summaries": summaries}


@pytest.fixture
def workdir(tmp_path):
    workdir = runs.open_workdir(tmp_path / "run", Config())
    write_jsonl(workdir / "samples" / "test.jsonl", [sample(post) for post in POSTS])
    return workdir


def longer(infos, first, second):
    lengths = np.array([[len(a), len(b)] for a, b in zip(first, second, strict=True)])
    return (1 + np.sign(lengths[:, 0] - lengths[:, 1])) / 2


def test_rates_and_agreement():
    found = measure(Tldr(DataConfig()), longer, [sample(post) for post in POSTS], [])
    rates = found["preference_over_reference"]
    assert rates["ppo"] == {"pairs": 6, "value": 1, "low": 1, "high": 1} and rates["sft"]["value"] == 0
    assert found["agreement"]["reward_model"]["value"] == 1  # which goes by length here
    assert "gold_judge" not in found["agreement"] and found["posts"] == 6


def test_people_who_saw_some_of_the_pairs(workdir):
    answers = [
        Comparison(post, (Summary(post.summary, "ref"), Summary(text, "x")), 1, "w", "b", "train")
        for post, text in [
            (POSTS[0], "the cat of post 0"),
            (POSTS[1], "the cat of post 1"),
            (POSTS[2], "dog"),
        ]
    ]
    write_jsonl(workdir / "collected.jsonl", answers)
    assert main(["rlhf-jax judged", f"--workdir={workdir}", f"--people={workdir / 'collected.jsonl'}"]) == 0
    found = json.loads((workdir / "judged_people.json").read_text())
    rates = found["preference_over_reference"]
    assert (rates["ppo"]["pairs"], rates["sft"]["pairs"]) == (2, 1)
    assert rates["ppo"]["value"] == 1


def test_an_endpoint_is_asked_about_the_policies_named(workdir, monkeypatch):
    asked = []

    class Judge:
        """Of whose replies two have no verdict."""

        unread: ClassVar = {"a": "cut off", "b": "cut off"}

        def __init__(self, settings, cache, task):
            asked.append((settings, str(cache), task))

        def __call__(self, *summaries):
            return np.array([np.nan, *longer(*summaries)[1:]])

    monkeypatch.setattr(judged, "EndpointJudge", Judge)
    arguments = ["--url=http://x/v1", "--model=org/some model", "--policies=ppo", "--posts=3", "--max_cost=2"]
    assert main(["rlhf-jax judged", f"--workdir={workdir}", *arguments]) == 0
    found = json.loads((workdir / "judged_org_some_model.json").read_text())
    assert found["preference_over_reference"] == {"ppo": {"pairs": 2, "value": 1, "low": 1, "high": 1}}
    assert found["posts"] == 3 and found["without_verdict"] == {"cut off": 2}
    ((settings, cache, task),) = asked
    assert task == Tldr(Config().data, Config().seed)
    assert (settings.url, settings.max_cost, settings.prompt) == ("http://x/v1", 2, endpoint.PROMPT)
    assert cache == str(workdir / "judged_cache.jsonl")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "name one judge"),
        (["--url=http://x", "--model=m", "--people=f"], "name one judge"),
        (["--url=x", "--model=m"], "no address"),
        (["--url=http://x", "--model=m", "--policies=best"], "no summaries of best"),
        (["--people=missing.jsonl"], "missing.jsonl"),
        (["--url=http://x", "--model=m", "--prompt=PROMPT"], "prompt.txt is not UTF-8 text"),
        (["--url=http://x", "--model=m", "--tokens_parameter=tokens"], "tokens_parameter"),
        (["--url=http://x", "--model=org/m"], "judged_org_m.json has the figures of the judge org m"),
    ],
)
def test_what_cannot_be_judged_is_told_in_one_line(workdir, capsys, arguments, message):
    (workdir / "prompt.txt").write_bytes(b"\xff{text}")
    (workdir / "judged_org_m.json").write_text('{"judge": "org m"}')
    arguments = [argument.replace("PROMPT", str(workdir / "prompt.txt")) for argument in arguments]
    assert main(["rlhf-jax judged", f"--workdir={workdir}", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "lines, message",
    [
        ([], "no samples there"),
        (["3"], "line 1: field post should be an object"),
        (
            [sample(POSTS[0]), sample(POSTS[1]) | {"summaries": {"sft": {"score": 1}}}],
            "line 2: field summaries",
        ),
        ([sample(POSTS[0]), sample(POSTS[1]) | {"summaries": {}}], "no summaries of"),
    ],
)
def test_samples_that_cannot_be_judged_are_named(workdir, capsys, lines, message):
    write_jsonl(workdir / "samples" / "test.jsonl", lines)
    assert main(["rlhf-jax judged", f"--workdir={workdir}", "--url=http://x", "--model=m"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1

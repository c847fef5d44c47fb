import json
import math
import re

import numpy as np
import pytest

from rlhf_jax.config import Config
from rlhf_jax.data.record_json import write_jsonl
from rlhf_jax.data.records import Comparison, Post, Summary
from rlhf_jax.feedback import viewer
from rlhf_jax.pipeline.evaluate import write_samples
from rlhf_jax.run import workdir as runs

ATTACK = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u2028"


def sample(i=0, summary="the reference", **texts):
    """A post of i + 1 words; `texts` are a policy's text and score, or text, score and gold rating."""
    post = {
        "id": f"p{i}",
        "subreddit": "advice",
        "title": f"title {i}",
        "post": "word " * (i + 1),
        "summary": summary,
    }
    fields = {
        policy: dict(zip(("text", "score", "gold"), values, strict=False)) for policy, values in texts.items()
    }
    return {"post": post, "summaries": fields}


def compared(better, other, worker="ana", post="p0", policies=("x", "y")):
    summaries = Summary(better, policies[0]), Summary(other, policies[1])
    return Comparison(Post(post, "advice", "t", "a post"), summaries, 0, worker, "b", "valid2", {})


def write(tmp_path, samples, comparisons=None):
    """The folder of a viewer written by the command."""
    write_jsonl(tmp_path / "test.jsonl", samples)
    arguments = [f"--samples={tmp_path / 'test.jsonl'}", f"--out={tmp_path / 'out'}"]
    if comparisons is not None:
        write_jsonl(tmp_path / "comparisons.jsonl", comparisons)
        arguments.append(f"--comparisons={tmp_path / 'comparisons.jsonl'}")
    assert viewer.main(["rlhf-jax view", *arguments]) == 0
    return tmp_path / "out"


def read(out):
    """(index, texts by chunk) from the scripts of a viewer, which hold one JSON value each."""
    first, second = (out / "data" / "index.js").read_text().split(";\n", 1)
    index = json.loads(first.removeprefix("const samples = "))
    assert second == "samples.texts = [];\n"
    chunks = []
    for i in range(index["chunks"]):
        script = (out / "data" / f"{i}.js").read_text()
        assert script.startswith(f"samples.texts[{i}] = ") and script.endswith(";\n")
        chunks.append(json.loads(script.removeprefix(f"samples.texts[{i}] = ")[:-2]))
    return index, chunks


def texts_of(out):
    """(entry in the index, texts) of every post."""
    index, chunks = read(out)
    return [(post, chunks[post["place"][0]][post["place"][1]]) for post in index["posts"]]


def test_everything_the_evaluation_wrote_is_there(tmp_path):
    posts = [Post(f"t3_{i}", f"sub{i % 3}", f"title {i}", f"post {i}", f"reference {i}") for i in range(20)]
    texts = {"reference": [post.summary for post in posts], "ppo": [f"ppo {i}" for i in range(20)]}
    texts |= {"best_of_16": [f"best {i}" for i in range(20)]}
    scores = {name: np.linspace(-1, 1, 20) for name in texts}
    judged = {name: {"overall": np.full(20, 3.5), "key_fact": np.arange(20) > 9} for name in texts}
    write_samples(tmp_path / "test.jsonl", posts, texts, scores, judged)
    samples = viewer.read_samples(tmp_path / "test.jsonl")
    viewer.write_viewer(tmp_path / "out", *viewer.contents(samples, "run", by_people=False))
    index, _ = read(tmp_path / "out")
    assert index["policies"] == ["Reference", "PPO", "Best of 16"] and index["ppo"] == 1
    assert index["kinds"] == ["score", "gold", "key_fact"] and index["judge"] == "gold judge"
    shown = texts_of(tmp_path / "out")
    for i, (entry, found) in enumerate(shown):
        assert (entry["id"], entry["source"], entry["title"]) == (f"t3_{i}", f"r/sub{i % 3}", f"title {i}")
        assert found["post"] == f"post {i}"
        assert found["summaries"] == [
            {"policy": k, "text": texts[name][i], "score": scores[name][i], "gold": 3.5, "key_fact": i > 9}
            for k, name in enumerate(texts)
        ]
    assert len(shown) == 20


def test_policies_are_called_what_their_run_calls_them(tmp_path):
    """The samples of a run stand in its folder, one below."""
    folder = runs.open_workdir(tmp_path / "run", Config())
    runs.record_stage(folder, "distill", networks={"student": "a small student", "ppo": "PPO, longer"})
    (folder / "samples").mkdir()
    write(folder / "samples", [sample(0, student=("s", 0.5), ppo=("p", 0.1), sft=("t", 0.2))])
    assert read(folder / "samples" / "out")[0]["policies"] == [
        "Reference",
        "A small student",
        "PPO, longer",
        "SFT",
    ]


def test_samples_of_prompts_and_of_articles_are_shown_too(tmp_path):
    records = [
        {"id": "q", "prompt": "2 + 3 =", "reference": "5"},
        {"id": "n", "site": "cnn", "title": "News", "article": "It rained.", "summary": "Rain."},
    ]
    write(tmp_path, [{"post": one, "summaries": {"ppo": {"text": "?", "score": 1.0}}} for one in records])
    (prompt, its_texts), (article, texts) = texts_of(tmp_path / "out")
    assert (prompt["source"], prompt["title"], prompt["words"]) == ("", "2 + 3 =", 4)
    assert its_texts["post"] == "2 + 3 =" and its_texts["summaries"][0]["text"] == "5"
    assert (article["source"], article["title"], texts["post"]) == ("cnn", "News", "It rained.")


def test_without_gold_scores_or_comparisons_there_is_no_judge(tmp_path):
    index, [[texts]] = read(write(tmp_path, [sample(ppo=(" a summary", 0.5))]))
    assert index["judge"] is None and index["kinds"] == ["score"] and index["title"] == "test"
    assert texts["summaries"] == [
        {"policy": 0, "text": "the reference", "score": None},
        {"policy": 1, "text": " a summary", "score": 0.5},
    ]


def test_the_title_is_the_run_and_its_split(tmp_path):
    path = tmp_path / "mini" / "samples" / "test.jsonl"
    assert viewer.title_of(path) == "mini, test"


def test_no_text_is_in_the_page_and_scripts_hold_json(tmp_path):
    record = sample(ppo=(ATTACK, 1.0))
    record["post"] |= {"id": ATTACK, "title": ATTACK, "post": ATTACK, "subreddit": ATTACK}
    record["summaries"] |= {ATTACK: {"text": ATTACK}, "__proto__": {"text": "proto"}}
    out = write(tmp_path, [record])
    for file in viewer.PAGE.iterdir():
        assert (out / file.name).read_bytes() == file.read_bytes()
    index, [[texts]] = read(out)
    assert index["policies"] == ["Reference", "PPO", ATTACK, "__proto__"]
    assert index["posts"][0]["title"] == texts["post"] == texts["summaries"][2]["text"] == ATTACK


def test_the_page_makes_no_markup_of_text_and_loads_nothing_from_elsewhere():
    script = (viewer.PAGE / "app.js").read_text()
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval|Function\(|DOMParser", script
    )
    page = (viewer.PAGE / "index.html").read_text()
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in page
    assert not re.search(r"<style|<script>| style=| on\w+=", page)
    for file in viewer.PAGE.iterdir():
        assert not re.search(r"https?:|url\(|@import", file.read_text())
    assert all(not target.startswith("/") for target in re.findall(r'(?:src|href)="([^"]*)"', page))


def test_what_the_filters_read_is_right(tmp_path):
    out = write(tmp_path, [sample(i, ppo=("a", 1.0, 2.0), sft=("b", 0.0, 3.0)) for i in (4, 1)])
    entries = [entry for entry, _ in texts_of(out)]
    assert [entry["words"] for entry in entries] == [5, 2]
    assert [entry["disagreement"] for entry in entries] == [1, 1]
    assert [entry["id"] for entry in entries] == ["p4", "p1"]


@pytest.mark.parametrize(
    "summaries, share",
    [
        ({"a": ("a", 1.0, 5.0), "b": ("b", 2.0, 6.0)}, 0),
        ({"a": ("a", 3.0, 5.0), "b": ("b", 2.0, 6.0)}, 1),
        # Gold c > b > a, scores b > c > a: wrong about one pair of three.
        ({"a": ("a", 0.0, 1.0), "b": ("b", 2.0, 2.0), "c": ("c", 1.0, 3.0)}, 1 / 3),
        # Equal ratings, equal scores and missing ones say nothing.
        ({"a": ("a", 1.0, 5.0), "b": ("b", 2.0, 5.0)}, None),
        ({"a": ("a", 1.0, 5.0), "b": ("b", 1.0, 6.0)}, None),
        ({"a": ("a", None, 5.0), "b": ("b", 1.0, 6.0)}, None),
    ],
)
def test_disagreement_with_the_gold_judge_by_hand(tmp_path, summaries, share):
    [(entry, _)] = texts_of(write(tmp_path, [sample(**summaries)]))
    assert entry["disagreement"] == share


def test_disagreement_with_people_by_hand(tmp_path):
    samples = [sample(i, ppo=(" from ppo", 2.0, 1.0), sft=("from sft", 1.0, 7.0)) for i in range(3)]
    comparisons = [
        compared("from ppo", " from sft", "ana"),
        compared("from ppo", "from sft", "bo"),
        compared("from sft", "from ppo", "cem-the-labeler"),
        compared("from sft", "the reference", "dee"),  # the reference has no score
        compared("from sft", "from ppo", "dee", post="p1"),
        compared("from ppo", "from sft", "dee", post="elsewhere"),
    ]
    out = write(tmp_path, samples, comparisons)
    index, _ = read(out)
    assert index["judge"] == "people"
    (first, texts), (second, _), (third, none) = texts_of(out)
    assert (first["disagreement"], second["disagreement"], third["disagreement"]) == (1 / 3, 1, None)
    assert sorted(texts["verdicts"]) == [[0, 2, 0, 1], [1, 2, 2, 1]]
    assert none["verdicts"] == []
    assert not any("cem-the-labeler" in file.read_text() for file in (out / "data").iterdir())


def test_summaries_that_only_people_read_are_added_without_score(tmp_path):
    comparisons = [
        compared("from ppo", "another", policies=("ppo", "rl7")),
        compared("old", "from ppo", policies=("ref", "ppo")),
    ]
    out = write(tmp_path, [sample(ppo=("from ppo", 2.0))], comparisons)
    index, [[texts]] = read(out)
    assert index["policies"] == ["Reference", "PPO", "rl7"]
    assert [(s["policy"], s["text"], s["score"]) for s in texts["summaries"]] == [
        (0, "the reference", None),
        (1, "from ppo", 2.0),
        (2, "another", None),
        (0, "old", None),
    ]
    assert index["posts"][0]["disagreement"] is None


def test_the_same_text_of_two_policies_goes_to_the_one_compared(tmp_path):
    record = sample(sft=("same", 1.0), ppo=("same", 1.0))
    _, [[texts]] = read(
        write(tmp_path, [record], [compared("same", "the reference", policies=("ppo", "ref"))])
    )
    assert texts["verdicts"] == [[0, 2, 0, 1]]


def test_comparisons_of_other_posts_leave_the_gold_judge(tmp_path, capsys):
    record = sample(a=("a", 3.0, 5.0), b=("b", 2.0, 6.0))
    index, _ = read(write(tmp_path, [record], [compared("a", "b", post="elsewhere")]))
    assert index["judge"] == "gold judge" and index["posts"][0]["disagreement"] == 1
    assert "0 comparisons are about posts of the samples" in capsys.readouterr().out


def test_many_samples_come_in_files_of_bounded_size(tmp_path):
    samples = [sample(i, ppo=("é" * 400, 1.0)) for i in range(1500)]
    out = write(tmp_path, samples)
    index, chunks = read(out)
    sizes = [len((out / "data" / f"{i}.js").read_text()) for i in range(index["chunks"])]
    assert len(sizes) > 20
    assert max(sizes) < viewer.CHUNK * 1.05 and min(sizes[:-1]) > viewer.CHUNK * 0.9
    assert [entry["id"] for entry, _ in texts_of(out)] == [f"p{i}" for i in range(1500)]
    assert all(texts["post"] == "word " * (i + 1) for i, (_, texts) in enumerate(texts_of(out)))
    assert sum(map(len, chunks)) == 1500


def test_a_viewer_is_replaced_and_nothing_else_is(tmp_path):
    write(tmp_path, [sample(i, ppo=("x" * 150_000, 1.0)) for i in range(3)])
    out = write(tmp_path, [sample(ppo=("short", 1.0))])
    assert sorted(path.name for path in (out / "data").iterdir()) == ["0.js", "index.js"]
    (out / "thesis.txt").write_text("years of work")
    arguments = [f"--samples={tmp_path / 'test.jsonl'}", f"--out={out}"]
    assert viewer.main(["rlhf-jax view", *arguments]) == 2
    assert (out / "thesis.txt").exists() and (out / "index.html").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "test.jsonl"]


def test_a_failed_write_leaves_what_was_there(tmp_path):
    out = write(tmp_path, [sample(ppo=("short", 1.0))])
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="JSON"):
        viewer.write_viewer(out, {"score": float("nan")}, [])
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "test.jsonl"]


@pytest.mark.parametrize(
    "lines, complaint",
    [
        ("", "samples.jsonl: no samples there"),
        ("{}", "samples.jsonl, line 1: field post should be an object"),
        ('{"post": {"id": "a"}, "summaries": {}}', "line 1: field post.subreddit is missing"),
        (json.dumps(sample(ppo=(7, 1.0))), "line 1: field summaries.ppo.text should be a string"),
        (json.dumps(sample(ppo=("a", "high"))), 'summaries.ppo.score should be a finite number, not "high"'),
        (json.dumps(sample(ppo=("a", float("nan")))), "not JSON (NaN is no number of JSON)"),
        (
            json.dumps(sample(ppo=("a", -math.inf))).replace("-Infinity", "-1e999"),
            "summaries.ppo.score should be a finite number, not -Infinity",
        ),
        (json.dumps(sample() | {"summaries": {"ppo": "text"}}), "summaries.ppo should be a JSON object"),
        (json.dumps(sample()) + "\n" + json.dumps(sample()), "post 'p0' stands there twice"),
    ],
)
def test_errors_of_use_are_one_line(tmp_path, capsys, lines, complaint):
    (tmp_path / "samples.jsonl").write_text(lines)
    status = viewer.main(
        ["rlhf-jax view", f"--samples={tmp_path / 'samples.jsonl'}", f"--out={tmp_path / 'out'}"]
    )
    out, err = capsys.readouterr()
    assert (status, out, err.count("\n")) == (2, "", 1) and complaint in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["--out=x"], "--samples"),
        (["--samples=missing.jsonl", "--out=x"], "missing.jsonl: cannot be read"),
        (["--samples=a", "--out=x", "more"], "unexpected argument 'more'"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, monkeypatch, capsys, arguments, complaint):
    monkeypatch.chdir(tmp_path)
    assert viewer.main(["rlhf-jax view", *arguments]) == 2
    err = capsys.readouterr().err
    assert complaint in err and err.count("\n") == 1

"""Comparisons of the miniature: made once, always the same, holding nothing that people do not give."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest
import tiny

from rlhf_jax.config import Config, DataConfig, MeshConfig, ModelConfig
from rlhf_jax.data import task as tasks
from rlhf_jax.data.comparisons import comparisons_of_run, load_comparisons
from rlhf_jax.data.record_json import read_comparisons, write_jsonl
from rlhf_jax.data.records import RecordError
from rlhf_jax.mesh import make_mesh
from rlhf_jax.model import transformer
from rlhf_jax.pipeline import beforehand, collect
from rlhf_jax.run import checkpoint

CONFIG = Config(
    mesh=MeshConfig(1, 1, 1),
    model=ModelConfig(width=16, layers=1, heads=2, positions="rotary"),
    data=DataConfig(
        source="mini",
        vocabulary=400,
        query_tokens=96,
        query_buckets=(96,),
        response_tokens=6,
        mini_posts=30,
        mini_pairs=60,
        mini_sampled=10,
        mini_test=12,
    ),
)
POSTS = tasks.find(CONFIG.data, CONFIG.seed).records()
HELD_OUT = 500  # the least number of pairs that a held-out split has


@pytest.fixture(scope="module")
def tokenizer():
    return tasks.find(CONFIG.data, 0).make_tokenizer(POSTS["train"], None)


@pytest.fixture(scope="module")
def made(tokenizer, tmp_path_factory):
    """Two runs of the same configuration, collected apart: their folders and what they returned."""
    weights = tiny.parameters(transformer.specs(CONFIG.model, tokenizer.vocab_size))
    runs = []
    with jax.set_mesh(make_mesh(CONFIG.mesh)):
        for name in ("one", "two"):
            workdir = tmp_path_factory.mktemp(name)
            tokenizer.save(workdir)
            arrays = {"params": weights, "rest": {"step": jnp.int32(1)}}
            checkpoint.save(workdir / "checkpoints" / "sft", 1, **arrays, meta={})
            collect.run(CONFIG, workdir)
            runs.append((workdir, list(read_comparisons(workdir / "comparisons.jsonl"))))
    return runs


def test_two_runs_collect_the_same(made):
    (one, first), (two, second) = made
    assert first == second
    assert (one / "comparisons.jsonl").read_bytes() == (two / "comparisons.jsonl").read_bytes()


def test_a_second_call_leaves_what_the_first_wrote(made, tmp_path, capsys):
    text = (made[0][0] / "comparisons.jsonl").read_text(encoding="utf-8")
    (tmp_path / "comparisons.jsonl").write_text("".join(text.splitlines(keepends=True)[:3]), encoding="utf-8")
    collect.run(CONFIG, tmp_path)
    assert capsys.readouterr().out == "collect: 3 comparisons in train\n"
    assert comparisons_of_run(CONFIG, tmp_path) == made[0][1][:3]


def test_splits_have_their_sizes_and_share_no_post(made):
    posts, sizes = {}, {}
    for comparison in made[0][1]:
        posts.setdefault(comparison.split, set()).add(comparison.info.id)
        sizes[comparison.split] = sizes.get(comparison.split, 0) + 1
    assert sizes == {"train": 60, "valid1": HELD_OUT, "valid2": HELD_OUT}
    assert posts["train"] <= {post.id for post in POSTS["train"]}
    assert posts["valid1"] == {post.id for post in POSTS["valid"][:6]}
    assert posts["valid2"] == {post.id for post in POSTS["valid"][6:]}


def test_the_policys_own_summaries_are_compared(made):
    sampled = {post.id for post in POSTS["train"][: CONFIG.data.mini_sampled]}
    compared = [c for c in made[0][1] if "sft" in {summary.policy for summary in c.summaries}]
    assert {c.split for c in compared} == {"train", "valid1", "valid2"}
    assert {c.info.id for c in compared if c.split == "train"} <= sampled


def test_records_hold_what_people_give_and_nothing_of_the_judge(made):
    """No score, no rating, no reference: a summary, who wrote it, and which one a labeler preferred."""
    records = [json.loads(line) for line in (made[0][0] / "comparisons.jsonl").open(encoding="utf-8")]
    for record in records:
        assert record.keys() == {"info", "summaries", "choice", "worker", "batch", "split", "extra"}
        assert record["info"].keys() == {"id", "subreddit", "title", "post"}
        assert record["extra"].keys() == {"confidence"} and record["extra"]["confidence"] in range(1, 10)
        for summary in record["summaries"]:
            assert summary.keys() <= {"text", "policy", "note"}


def test_real_comparisons_are_read_from_their_own_place(tmp_path, capsys):
    config = Config(data=tiny.write_data(tmp_path))
    assert comparisons_of_run(config, tmp_path / "run") == load_comparisons(config.data)
    collect.run(config, tmp_path / "run")
    assert "comparisons in train, " in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_comparisons_in_the_work_folder_go_before_the_published_ones(tmp_path):
    config = Config(data=tiny.write_data(tmp_path))
    own = tiny.comparisons("train", 3, 9)
    write_jsonl(tmp_path / "run" / "comparisons.jsonl", own)
    assert comparisons_of_run(config, tmp_path / "run") == own


def test_the_miniature_asks_nobody_where_people_were_asked(tmp_path, capsys):
    """Their file is read, nothing is made beside it, and a file that holds no comparison is an error."""
    file = tmp_path / "collected.jsonl"
    write_jsonl(file, tiny.comparisons("train", 3, 9))
    data = dataclasses.replace(CONFIG.data, comparisons=str(file))
    collect.run(dataclasses.replace(CONFIG, data=data), tmp_path / "run")
    assert "collect: 3 comparisons in train" in capsys.readouterr().out
    assert not (tmp_path / "run" / "comparisons.jsonl").exists()
    file.write_text("{}\n")
    with pytest.raises(RecordError, match="collected.jsonl, line 1: field info is missing"):
        beforehand.look(dataclasses.replace(CONFIG, data=data), ["reward"])

"""Comparisons of the miniature: made once, always the same, holding nothing that people do not give.

And the command that samples pairs for people.
"""

import json
from collections import Counter

import jax
import jax.numpy as jnp
import pytest
import tiny

from rlhf_jax.config import Config, DataConfig, MeshConfig, ModelConfig
from rlhf_jax.data import sources
from rlhf_jax.data.comparisons import comparisons_of_run, load_comparisons
from rlhf_jax.data.records import read_posts, write_jsonl
from rlhf_jax.mesh import make_mesh
from rlhf_jax.model import transformer
from rlhf_jax.pipeline import collect
from rlhf_jax.run import checkpoint
from rlhf_jax.run import workdir as runs

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
POSTS = sources.load_posts(CONFIG.data, CONFIG.seed)
HELD_OUT = 500  # the least number of pairs that a held-out split has


@pytest.fixture(scope="module")
def tokenizer():
    return sources.make_tokenizer(POSTS["train"], CONFIG.data, None)


@pytest.fixture(scope="module")
def made(tokenizer, tmp_path_factory):
    """Two runs of the same configuration, collected apart: their folders and what they returned."""
    weights = tiny.parameters(transformer.specs(CONFIG.model, tokenizer.vocab_size))
    runs = []
    with jax.set_mesh(make_mesh(CONFIG.mesh)):
        for name in ("one", "two"):
            workdir = tmp_path_factory.mktemp(name)
            checkpoint.save(
                workdir / "checkpoints" / "sft", 1, params=weights, rest={"step": jnp.int32(1)}, meta={}
            )
            runs.append((workdir, collect.collect(CONFIG, workdir, CONFIG.model, tokenizer)))
    return runs


def test_two_runs_collect_the_same(made):
    (one, first), (two, second) = made
    assert first == second
    assert (one / "comparisons.jsonl").read_bytes() == (two / "comparisons.jsonl").read_bytes()


def test_a_second_call_reads_what_the_first_wrote(made, tokenizer, tmp_path):
    text = (made[0][0] / "comparisons.jsonl").read_text(encoding="utf-8")
    (tmp_path / "comparisons.jsonl").write_text("".join(text.splitlines(keepends=True)[:3]), encoding="utf-8")
    assert collect.collect(CONFIG, tmp_path, CONFIG.model, tokenizer) == made[0][1][:3]
    assert comparisons_of_run(CONFIG, made[0][0]) == made[0][1]


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


def test_real_comparisons_are_read_from_their_own_place(tmp_path):
    config = Config(data=tiny.write_data(tmp_path))
    assert comparisons_of_run(config, tmp_path / "run") == load_comparisons(config.data)
    assert collect.collect(config, tmp_path / "run", config.model, None) == load_comparisons(config.data)
    assert not (tmp_path / "run").exists()


def test_comparisons_in_the_work_folder_go_before_the_published_ones(tmp_path):
    config = Config(data=tiny.write_data(tmp_path))
    own = tiny.comparisons("train", 3, 9)
    write_jsonl(tmp_path / "run" / "comparisons.jsonl", own)
    assert comparisons_of_run(config, tmp_path / "run") == own


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on real records whose SFT policy has random weights: (its folder, its data, config file)."""
    folder = tmp_path_factory.mktemp("real")
    config = tiny.run_config(tiny.write_data(folder))
    made = f"tiny.run_config(tiny.write_data(Path({str(folder)!r})))"
    source = f"from pathlib import Path\n\nimport tiny\n\n\ndef get_config():\n    return {made}\n"
    (folder / "config.py").write_text(source)
    workdir = runs.open_workdir(folder / "run", config)
    tokenizer = sources.make_tokenizer(tiny.posts(40, 0), config.data, None)
    tokenizer.save(workdir)
    weights = tiny.parameters(transformer.specs(config.model, tokenizer.vocab_size))
    checkpoint.save(workdir / "checkpoints" / "sft", 1, params=weights, rest={"n": jnp.int32(1)}, meta={})
    return folder


def command(run, out, *options) -> int:
    common = [f"--config={run / 'config.py'}", f"--workdir={run / 'run'}", f"--out={out}"]
    return collect.main(["collect", *common, *options])


def records_in(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def texts(record) -> tuple:
    return record["info"]["id"], frozenset(summary["text"].strip() for summary in record["summaries"])


def test_the_command_writes_pairs_that_are_new(run, tmp_path, capsys):
    options = "--policies=sft,sft,reference", "--pairs=20"
    assert command(run, tmp_path / "a.jsonl", *options) == 0
    assert "20 pairs" in capsys.readouterr().out
    assert command(run, tmp_path / "again.jsonl", *options) == 0
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "again.jsonl").read_bytes()
    assert command(run, tmp_path / "b.jsonl", *options, f"--not_again={tmp_path / 'a*.jsonl'}") == 0
    first, second = records_in(tmp_path / "a.jsonl"), records_in(tmp_path / "b.jsonl")
    assert len({texts(record) for record in first + second}) == 40
    policies = Counter("".join(sorted(s["policy"] for s in record["summaries"])) for record in first)
    assert policies == {"sftsft": 10, "refsft": 10}


def test_a_split_is_of_its_posts_and_named(run, tmp_path):
    valid = [post.id for post in read_posts(run / "posts" / "valid.jsonl")]
    for split, posts in (("valid1", valid[:4]), ("valid2", valid[4:])):
        assert (
            command(run, tmp_path / split, "--policies=sft,reference", "--pairs=9", f"--posts={split}") == 0
        )
        found = records_in(tmp_path / split)
        assert {record["split"] for record in found} == {split}
        assert {record["info"]["id"] for record in found} == set(posts)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--policies=sft"], "name two or more"),
        (["--policies=sft,ppo"], "stage 'ppo'"),
        (["--policies=sft,x:nowhere"], "nowhere is neither"),
        (["--policies=sft,reference", "--posts=test"], "no posts in test"),
        (["--policies=sft,reference", "--config.data.filters=True"], "no posts in train"),  # of r/pets
        (["--policies=sft,reference", "--not_again=nowhere/*.jsonl"], "there is no file nowhere/*.jsonl"),
        (["--policies=sft,reference", "--pairs=0"], "pairs"),
        (["--policies=sft,reference", "--temperature=-1"], "temperature"),
        (["--policies=sft,sft", "--temperature=0"], "only 0 of 1,000 pairs"),
        (["--policies=sft,reference", "--config.sead=1"], "sead: no such field"),
        (["--policies=sft,reference", "extra"], "unexpected argument 'extra'"),
        ([], "policies"),
    ],
)
def test_an_error_of_use_is_one_line_and_writes_nothing(run, tmp_path, capsys, options, message):
    assert command(run, tmp_path / "tasks.jsonl", *options) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("rlhf-jax collect: ") and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_stays_as_it_is(run, tmp_path, capsys):
    (tmp_path / "tasks.jsonl").write_text("answers may belong to this")
    assert command(run, tmp_path / "tasks.jsonl", "--policies=sft,reference") == 2
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "tasks.jsonl").read_text() == "answers may belong to this"

"""Comparisons of the miniature: of what the run's policies and people write, made once, always the same."""

import dataclasses
import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
import tiny

from rlhf_jax.config import Config, DataConfig, MeshConfig, ModelConfig
from rlhf_jax.data import task as tasks
from rlhf_jax.data.comparisons import comparisons_of_run, load_comparisons
from rlhf_jax.data.record_json import read_comparisons, write_jsonl
from rlhf_jax.data.records import Comparison, RecordError
from rlhf_jax.data.tasks.mini import MiniLabelers
from rlhf_jax.inference import Network
from rlhf_jax.mesh import make_mesh
from rlhf_jax.model import transformer
from rlhf_jax.pipeline import beforehand, collect
from rlhf_jax.pipeline.ask import TaskError, pair_of
from rlhf_jax.run import checkpoint
from rlhf_jax.run.workdir import open_workdir

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
        mini_policies=("sft", "sft", "reference", "editor"),
        mini_test=12,
    ),
)
TASK = tasks.find(CONFIG.data, CONFIG.seed)
POSTS = TASK.records()
SIZES = {"train": 60, "valid1": 40, "valid2": 40}


@dataclass(frozen=True)
class Made:
    """A work folder, its comparisons, and what was written for them: samples, and revisions of a text."""

    workdir: Path
    comparisons: list[Comparison]
    samples: set[str]
    revisions: set[tuple[str, str, str]]  # post, text, the text revised


@pytest.fixture(scope="module")
def tokenizer():
    return TASK.make_tokenizer(POSTS["train"], None)


def start(tokenizer, folder) -> Path:
    """A work folder with what stage sft leaves: a policy of random weights."""
    workdir = open_workdir(folder, CONFIG)
    tokenizer.save(workdir)
    weights = tiny.parameters(transformer.specs(CONFIG.model, tokenizer.vocab_size))
    arrays = {"params": weights, "rest": {"step": jnp.int32(1)}}
    checkpoint.save(workdir / "checkpoints" / "sft", 1, **arrays, meta={})
    return workdir


@pytest.fixture(scope="module")
def made(tokenizer, tmp_path_factory):
    """Two runs of the same configuration, collected apart."""
    write, revise, runs = Network.write, MiniLabelers.revise, []
    for name in ("one", "two"):
        samples, revisions = set(), set()

        def writing(self, *arguments, samples=samples):
            texts = write(self, *arguments)
            samples.update(texts)
            return texts

        def revising(self, post, text, rng, revisions=revisions):
            revised = revise(self, post, text, rng)
            revisions.add((post.id, text, revised))
            return revised

        with pytest.MonkeyPatch.context() as patch, jax.set_mesh(make_mesh(CONFIG.mesh)):
            patch.setattr(collect, "LEAST_HELD_OUT", SIZES["valid1"])
            patch.setattr(Network, "write", writing)
            patch.setattr(MiniLabelers, "revise", revising)
            workdir = start(tokenizer, tmp_path_factory.mktemp(name))
            collect.run(CONFIG, workdir)
        runs.append(Made(workdir, list(read_comparisons(workdir / "comparisons.jsonl")), samples, revisions))
    return runs


def test_two_runs_collect_the_same(made):
    one, two = made
    assert one.comparisons == two.comparisons
    files = [run.workdir / "comparisons.jsonl" for run in made]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_second_call_leaves_what_the_first_wrote(made, tmp_path, capsys):
    write_jsonl(tmp_path / "comparisons.jsonl", made[0].comparisons[:3])
    before = (tmp_path / "comparisons.jsonl").read_bytes()
    collect.run(CONFIG, tmp_path)  # where there is no policy that could write anew
    assert capsys.readouterr().out == "collect: 3 comparisons in train\n"
    assert (tmp_path / "comparisons.jsonl").read_bytes() == before
    assert comparisons_of_run(CONFIG, tmp_path) == made[0].comparisons[:3]


def test_splits_have_their_sizes_and_share_no_post(made):
    found: dict[str, set[str]] = {}
    for comparison in made[0].comparisons:
        found.setdefault(comparison.split, set()).add(comparison.info.id)
    assert Counter(comparison.split for comparison in made[0].comparisons) == SIZES
    assert found["train"] == {post.id for post in POSTS["train"]}
    assert found["valid1"] == {post.id for post in POSTS["valid"][:6]}
    assert found["valid2"] == {post.id for post in POSTS["valid"][6:]}


def test_every_two_policies_meet_equally_often_in_every_split(made):
    for split, size in SIZES.items():
        asked = [one for one in made[0].comparisons if one.split == split]
        met = Counter(tuple(sorted(summary.policy for summary in one.summaries)) for one in asked)
        kinds = [("editor", "ref"), ("editor", "sft"), ("ref", "sft"), ("sft", "sft")]
        assert met == dict.fromkeys(kinds, size // 4)


def test_no_pair_is_asked_twice_or_of_one_text(made):
    pairs = [pair_of(one.info.id, [each.text for each in one.summaries]) for one in made[0].comparisons]
    assert len(set(pairs)) == len(pairs) and all(len(texts) == 2 for _, texts in pairs)


def test_all_texts_are_what_policies_people_and_the_editor_wrote(made):
    references = {post.id: post.reference for split in POSTS.values() for post in split}
    for one in made[0].comparisons:
        for summary, other in (one.summaries, one.summaries[::-1]):
            if summary.policy == "ref":
                assert summary.text == references[one.info.id]
            elif summary.policy == "editor":
                assert (one.info.id, other.text, summary.text) in made[0].revisions
            else:
                assert summary.policy == "sft" and summary.text in made[0].samples


def test_the_labelers_of_the_task_are_asked(made):
    asked = [replace(one, choice=0, worker="", extra={}) for one in made[0].comparisons]
    assert TASK.labelers.answer(asked) == made[0].comparisons


def test_records_hold_what_people_give_and_nothing_of_the_judge(made):
    """No score, no rating, no reference: a summary, who wrote it, and which one a labeler preferred."""
    lines = (made[0].workdir / "comparisons.jsonl").read_text(encoding="utf-8").splitlines()
    for record in map(json.loads, lines):
        assert record.keys() == {"info", "summaries", "choice", "worker", "batch", "split", "extra"}
        assert record["info"].keys() == {"id", "subreddit", "title", "post"}
        assert record["extra"].keys() == {"confidence"} and record["extra"]["confidence"] in range(1, 10)
        for summary in record["summaries"]:
            assert summary.keys() <= {"text", "policy", "note"}


def test_a_policy_that_is_not_there_is_told_with_the_setting_that_names_it(tokenizer, tmp_path):
    config = replace(CONFIG, data=replace(CONFIG.data, mini_policies=DataConfig().mini_policies))
    told = r"data\.mini_policies: 'base' is none of reference, sft, editor;"  # without model.pretrained
    with jax.set_mesh(make_mesh(CONFIG.mesh)), pytest.raises(TaskError, match=told):
        collect.run(config, start(tokenizer, tmp_path))
    assert not (tmp_path / "comparisons.jsonl").exists()


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

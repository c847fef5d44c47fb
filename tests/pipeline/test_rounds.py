"""Rounds: who is asked about what, what the reward model then reads, and stops at any point.

A whole small run, trained for real, is `pytest -m slow tests/pipeline/test_rounds.py`.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from rlhf_jax import main
from rlhf_jax.config import Config, ConfigError, DataConfig, MeshConfig, RoundsConfig
from rlhf_jax.data import task as tasks
from rlhf_jax.data.mini import labelers
from rlhf_jax.data.record_json import read_comparisons, read_jsonl, write_jsonl
from rlhf_jax.data.records import RecordError
from rlhf_jax.feedback.tasks import comparison_of
from rlhf_jax.files import write_text
from rlhf_jax.pipeline import ask, rounds, stages
from rlhf_jax.pipeline.ask import Policy, asked_in
from rlhf_jax.pipeline.rounds import COLLECTED, folder_of
from rlhf_jax.run import checkpoint
from rlhf_jax.run import workdir as runs
from rlhf_jax.run.checkpoint import CheckpointError
from rlhf_jax.validation import validate

MINI = Config(
    mesh=MeshConfig(1, 1, 1),
    data=DataConfig(source="mini", vocabulary=400, mini_posts=30, mini_test=12),
    rounds=RoundsConfig((30, 20, 40)),
)


@pytest.fixture(scope="module")
def supervised(tmp_path_factory):
    """What stage sft leaves; neither its policy nor what its tokenizer says is read here."""
    folder = tmp_path_factory.mktemp("supervised")
    task = tasks.find(MINI.data, 0)
    task.make_tokenizer(task.records()["train"], None).save(folder)
    arrays = {"params": {"w": jnp.ones(2)}, "rest": {"n": jnp.int32(1)}}
    checkpoint.save(folder / "checkpoints" / "sft", 1, **arrays, meta={})
    runs.record_stage(folder, "sft", 5.0, done=True)
    return folder


@pytest.fixture
def started(supervised, tmp_path):
    """Makes a work folder of a configuration, whose stage sft is finished; `place` tells several apart."""

    def make(config, place="one"):
        return runs.open_workdir(shutil.copytree(supervised, tmp_path / place / "run"), config)

    return make


@pytest.fixture
def named(monkeypatch):
    """Stands in for the networks; returns the policies that each round asked for, in order."""
    found = []

    def writer(name):
        def write(posts, seed):
            if name == "reference":
                return [post.summary for post in posts]
            return [f"{name} {i}" for i in np.random.default_rng(seed).integers(10**6, size=len(posts))]

        return Policy("ref" if name == "reference" else name, write)

    def find_policies(specs, config, workdir, temperature):
        found.append(list(specs))
        return [writer(spec.partition(":")[0]) for spec in specs]

    monkeypatch.setattr(ask, "find_policies", find_policies)
    return found


@pytest.fixture(autouse=True)
def pipeline(request, monkeypatch):
    if "slow" not in request.keywords:
        monkeypatch.setattr(stages, "run_stages", run_stages)


def run_stages(config, folder):
    """Stands in for reward, ppo and eval: the rate is the share of a thousand comparisons there are."""
    assert checkpoint.latest_step(folder / "checkpoints" / "sft") == 1
    assert runs.stage_done(folder, "sft") and not runs.stage_done(folder, "eval")
    rate = len(list(read_comparisons(folder / "comparisons.jsonl"))) / 1000
    results = {
        "judge": "gold judge",
        "posts": 12,
        "preference_over_reference": {
            "ppo": {"rate": rate, "stderr": 0.1},
            "sft": {"rate": 0.25, "stderr": 0.1},
        },
        "reward_model": {"valid_accuracy": 0.75, "gold_accuracy": 0.8},
        "policies": {"ppo": {"key_fact": 0.5}},
        "ppo": {"kl": 1.5},
    }
    write_text(folder / "results.json", json.dumps(results))
    runs.record_stage(folder, "eval", 1.0, done=True)


def written(workdir) -> dict[str, bytes]:
    """The files that rounds leave, by name, but for the checkpoints."""
    files = (path for path in Path(workdir).rglob("*") if path.is_file() and "checkpoints" not in path.parts)
    return {path.relative_to(workdir).as_posix(): path.read_bytes() for path in files}


def test_later_rounds_ask_about_the_policy_of_the_round_before(started, named):
    workdir = started(MINI)
    rounds.run(MINI, workdir)
    assert named[0] == ["sft", "sft", "reference"]
    for number in (2, 3):
        newest = f"ppo_round{number - 1}:{folder_of(workdir, number - 1) / 'checkpoints' / 'ppo'}"
        assert named[number - 1] == [newest, newest, "sft", "reference"]


def test_nothing_is_asked_twice_and_all_answers_so_far_are_trained_on(started, named):
    workdir = started(MINI)
    rounds.run(MINI, workdir)
    asked = [asked_in([folder_of(workdir, number) / "tasks.jsonl"]) for number in (1, 2, 3)]
    assert [len(pairs) for pairs in asked] == [30, 20, 40] and len(frozenset.union(*asked)) == 90
    for number, batches in ((1, [30]), (2, [30, 20]), (3, [30, 20, 40])):
        trained = list(read_comparisons(folder_of(workdir, number) / "comparisons.jsonl"))
        wanted = [f"round{i}" for i, count in enumerate(batches, 1) for _ in range(count)]
        assert [comparison.batch for comparison in trained] == wanted


def test_simulated_people_answer_what_a_round_asks(started, named):
    workdir = started(MINI)
    rounds.run(MINI, workdir)
    folder = folder_of(workdir, 2)
    asked = list(read_jsonl(folder / "tasks.jsonl", lambda line: comparison_of(line, choice=0)))
    found, wanted = list(read_comparisons(folder / COLLECTED)), labelers.answer(asked, MINI.seed)
    assert {one.batch for one in found} == {"round2"} and len(found) == 20
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours.info, ours.summaries) == (theirs.info, theirs.summaries)
        assert (ours.choice, ours.worker, ours.extra) == (theirs.choice, theirs.worker, theirs.extra)


def test_a_post_is_held_out_in_all_rounds_or_in_none(started, named):
    workdir = started(MINI)
    rounds.run(MINI, workdir)
    splits = {}
    for comparison in read_comparisons(folder_of(workdir, 3) / "comparisons.jsonl"):
        splits.setdefault(comparison.info.id, set()).add(comparison.split)
    assert len(splits) == 30 and all(len(found) == 1 for found in splits.values())
    assert {"train"} in splits.values()


@pytest.mark.parametrize("step", ["draw", "simulate", "gather", "write_rounds_report"])
def test_stopped_at_any_point_and_started_again_it_ends_the_same(started, named, monkeypatch, step):
    undisturbed = started(MINI, "two")
    rounds.run(MINI, undisturbed)
    workdir, left, real = started(MINI), [2], getattr(rounds, step)  # in round 2

    def stopping(*arguments):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(rounds, step, stopping)
        rounds.run(MINI, workdir)
    rounds.run(MINI, workdir)
    assert written(workdir) == written(undisturbed)


def test_a_stop_within_a_round_s_stages_leaves_them_to_resume(started, named, monkeypatch):
    workdir, folders = started(MINI), []

    def stopped(config, folder):
        folders.append(folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "run_stages", stopped)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            rounds.run(MINI, workdir)
    assert folders == [folder_of(workdir, 1)] * 2 and len(named) == 1


def test_a_round_waits_for_people_and_goes_on_with_their_answers(started, tmp_path, named, capsys):
    config = dataclasses.replace(tiny.run_config(tiny.write_data(tmp_path)), rounds=RoundsConfig((8, 6)))
    workdir = started(config)
    everything = []
    for number, count in ((1, 8), (2, 6)):
        folder = folder_of(workdir, number)
        for _ in range(2):  # asked once, however often the command runs
            rounds.run(config, workdir)
            told = capsys.readouterr().out
            assert f"round {number} waits for people" in told
            assert f"--tasks={folder / 'tasks.jsonl'}" in told and f"--out={folder / 'collected'}" in told
        tasks = [json.loads(line) for line in (folder / "tasks.jsonl").open(encoding="utf-8")]
        assert len(tasks) == count and len(named) == number
        everything += [task | {"choice": 1, "worker": "w", "split": "train"} for task in tasks]
        write_jsonl(folder / COLLECTED, everything)  # the site's store holds the earlier rounds, too
    rounds.run(config, workdir)
    assert "all 2 rounds are finished" in capsys.readouterr().out
    assert len(list(read_comparisons(folder_of(workdir, 2) / "comparisons.jsonl"))) == 14


def test_the_export_of_another_round_is_refused(started, tmp_path, named):
    config = dataclasses.replace(tiny.run_config(tiny.write_data(tmp_path)), rounds=RoundsConfig((8,)))
    workdir = started(config)
    rounds.run(config, workdir)
    write_jsonl(folder_of(workdir, 1) / COLLECTED, tiny.comparisons("train", 3, 0))
    with pytest.raises(RecordError, match=r"rounds/1/collected.*no comparisons of batch round1"):
        rounds.run(config, workdir)


def test_without_a_supervised_policy_there_is_no_round(tmp_path):
    workdir = runs.open_workdir(tmp_path / "run", MINI)
    with pytest.raises(CheckpointError, match="no whole checkpoint in .*sft"):
        rounds.run(MINI, workdir)
    assert not (workdir / "rounds").exists()


@pytest.mark.parametrize("without", ["train", "test"])
def test_without_references_there_is_no_round(started, tmp_path, without):
    rows = [{"prompt": f"{i}?", "completion": "a"} for i in range(40)]
    parts = {"train": rows[:20], "valid": rows[20:30], "test": rows[30:]}
    parts[without] = [{"prompt": row["prompt"]} for row in parts[without]]
    for split, rows in parts.items():
        write_jsonl(tmp_path / f"{split}.jsonl", rows)
    files = ",".join(f"{split}:{tmp_path / split}.jsonl" for split in parts)
    config = dataclasses.replace(MINI, data=DataConfig(source="plain", files=files))
    workdir = started(config)
    with pytest.raises(ask.TaskError, match=f"round compares .* no record of {without} has one: add some"):
        rounds.run(config, workdir)
    assert not (workdir / "rounds").exists()


def test_the_page_shows_every_round(started, named):
    workdir = started(MINI)
    rounds.run(MINI, workdir)
    page = (workdir / "rounds.html").read_text()
    assert "After 3 rounds, PPO is preferred over the reference on 9.0 ± 10.0% of 12 posts" in page
    for number, rate in ((1, "3.0"), (2, "5.0"), (3, "9.0")):
        assert f'href="rounds/{number}/report.html"' in page and f"{rate} ± 10.0%" in page
    assert "<svg" in page and "src=" not in page
    rates = [one["ppo"]["rate"] for one in json.loads((workdir / "rounds.json").read_text())]
    assert rates == [0.03, 0.05, 0.09]


def test_a_round_without_pairs_is_no_configuration():
    for pairs in ((), (100, 0)):
        with pytest.raises(ConfigError, match=r"rounds\.pairs: "):
            validate(Config(rounds=RoundsConfig(pairs)))


@pytest.mark.slow
def test_two_rounds_trained_for_real_stopped_and_resumed(tmp_path):
    """Through rlhf_jax.main, on the miniature with a tiny network: twice the same numbers."""
    source = """
import dataclasses

import tiny

from rlhf_jax.config import DataConfig, EvalConfig, RoundsConfig


def get_config():
    data = DataConfig(source="mini", vocabulary=400, query_tokens=96, query_buckets=(96,), response_tokens=8,
        reward_response_tokens=24, mini_posts=60, mini_test=20)
    config = tiny.run_config(data)
    model = dataclasses.replace(config.model, context=128)
    few = EvalConfig(posts=20, best_of=2)
    return dataclasses.replace(config, model=model, eval=few, rounds=RoundsConfig((80, 60)))
"""
    (tmp_path / "config.py").write_text(source)

    def run(name, *options):
        return main.main(
            ["main", f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / name}", *options]
        )

    assert run("a", "--stage=sft") == 0
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert run("a", "--stage=round") == 0
    gather = rounds.gather

    def stopped(workdir, number):
        if number == 2:
            raise KeyboardInterrupt
        return gather(workdir, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds, "gather", stopped)
        assert run("b", "--stage=round") == 130
    assert run("b", "--stage=round") == 0
    assert (tmp_path / "a" / "rounds.json").read_bytes() == (tmp_path / "b" / "rounds.json").read_bytes()
    assert (folder_of(tmp_path / "a", 2) / "report.html").exists()

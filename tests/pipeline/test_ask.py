"""Pairs for people: every two policies equally often, no pair twice, the policies those that were named."""

import dataclasses
import json
import re
from collections import Counter
from itertools import count

import experimenting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from rlhf_jax import inference
from rlhf_jax.data import task as tasks
from rlhf_jax.data.record_json import read_posts, write_jsonl
from rlhf_jax.data.tasks.mini import MiniLabelers
from rlhf_jax.feedback.study import Study
from rlhf_jax.feedback.tasks import read_tasks
from rlhf_jax.mesh import make_mesh
from rlhf_jax.model import heads, transformer
from rlhf_jax.pipeline import ask
from rlhf_jax.pipeline.ask import Policy, TaskError, asked_in, draw, find_policies, pair_of
from rlhf_jax.pipeline.export import export
from rlhf_jax.run import checkpoint
from rlhf_jax.run import workdir as runs

POSTS = [dataclasses.replace(post, id=f"post{i}") for i, post in enumerate(tiny.posts(12, seed=0))]


def writer(name: str, texts: int = 10**6) -> Policy:
    """A policy that draws one of so many texts."""

    def write(posts, seed):
        return [f"{name} {i}" for i in np.random.default_rng(seed).integers(texts, size=len(posts))]

    return Policy(name, write)


REFERENCE = Policy("ref", lambda posts, seed: [post.summary for post in posts])


def pairs_in(records) -> list:
    return [pair_of(r["info"]["id"], [s["text"] for s in r["summaries"]]) for r in records]


def meetings(records) -> Counter:
    return Counter(tuple(sorted(s["policy"] for s in record["summaries"])) for record in records)


@pytest.mark.parametrize("number", [1, 50, 301])
def test_every_two_policies_meet_equally_often(number):
    sft = writer("sft")
    met = meetings(draw([sft, writer("ppo"), sft, REFERENCE], POSTS, number, seed=0))
    kinds = [("ppo", "sft"), ("sft", "sft"), ("ref", "sft"), ("ppo", "ref")]
    assert met.keys() <= set(map(lambda kind: tuple(sorted(kind)), kinds)) and met.total() == number
    assert max(met.values()) - min(met[tuple(sorted(kind))] for kind in kinds) <= 1


def test_no_pair_comes_twice_or_is_of_one_text():
    """Of 3 texts each for 12 posts, nearly all of the 3·3·12 pairs are wanted."""
    records = draw([writer("sft", 3), writer("ppo", 3)], POSTS, 100, seed=0)
    pairs = pairs_in(records)
    assert len(set(pairs)) == len(pairs) == 100 and all(len(texts) == 2 for _, texts in pairs)
    posts = Counter(post for post, _ in pairs)
    assert len(posts) == 12 and max(posts.values()) <= 9


def test_texts_that_differ_in_blanks_alone_are_one_text():
    blank = Policy("ppo", lambda posts, seed: [f" {post.summary}\n" for post in posts])
    with pytest.raises(TaskError, match="only 0 of 5 pairs"):
        draw([REFERENCE, blank], POSTS, 5, seed=0)


def test_nobody_is_asked_about_an_empty_text():
    fresh = count()
    either = Policy("sft", lambda posts, seed: [f"{n}" if (n := next(fresh)) % 3 else " " for _ in posts])
    records = draw([either, REFERENCE], POSTS, 60, seed=0)
    assert all(summary["text"].strip() for record in records for summary in record["summaries"])


def test_what_was_asked_is_not_asked_again(tmp_path):
    policies = [writer("sft", 4), writer("ppo", 4)]
    first = draw(policies, POSTS, 90, seed=0)
    for record in first[:45]:
        record["summaries"].reverse()
    write_jsonl(tmp_path / "a.jsonl", first[:50] + [{"id": "x", "subreddit": "", "title": "", "post": "p"}])
    answered = [
        record | {"choice": 1, "worker": "w", "batch": "b", "split": "train"} for record in first[50:]
    ]
    write_jsonl(tmp_path / "b.jsonl", answered)
    asked = asked_in([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])
    assert asked == set(pairs_in(first))
    second = draw(policies, POSTS, 90, seed=0, asked=asked)
    assert not asked & set(pairs_in(second))
    with pytest.raises(TaskError, match=r"only \d+ of 90 pairs.*asked before"):  # of 12·4·4 in all
        draw(policies, POSTS, 90, seed=0, asked=asked | frozenset(pairs_in(second)))


def test_posts_take_turns():
    records = draw([writer("sft"), REFERENCE], POSTS, 120, seed=0)
    assert set(Counter(record["info"]["id"] for record in records).values()) <= {9, 10, 11}


def test_the_first_summary_is_either_s_half_of_the_time():
    records = draw([writer("sft"), REFERENCE], POSTS, 400, seed=0)
    first = sum(record["summaries"][0]["policy"] == "ref" for record in records)
    assert 150 < first < 250  # outside, once in two million


def test_the_same_seed_asks_the_same_and_another_does_not():
    policies = [writer("sft"), REFERENCE]
    assert draw(policies, POSTS, 30, seed=3) == draw(policies, POSTS, 30, seed=3)
    assert pairs_in(draw(policies, POSTS, 30, seed=3)) != pairs_in(draw(policies, POSTS, 30, seed=4))


def test_the_site_reads_them_and_learns_no_reference(tmp_path):
    records = draw([writer("sft"), writer("ppo")], POSTS, 20, seed=0)
    write_jsonl(tmp_path / "tasks.jsonl", records)
    assert len(read_tasks(tmp_path / "tasks.jsonl", Study())) == 20
    assert all(record.keys() == {"info", "summaries"} for record in records)
    assert all(record["info"].keys() == {"id", "subreddit", "title", "post"} for record in records)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with a policy of random weights, and its configuration."""
    config = tiny.run_config(tiny.write_data(tmp_path_factory.mktemp("data")))
    workdir = runs.open_workdir(tmp_path_factory.mktemp("run"), config)
    tokenizer = tasks.find(config.data, 0).make_tokenizer(tiny.posts(40, 0), None)
    tokenizer.save(workdir)
    weights = tiny.parameters(transformer.specs(config.model, tokenizer.vocab_size))
    single_bytes = [i for i in range(tokenizer.vocab_size) if "�" in tokenizer.decode([i])]
    tokens = weights["embed"]["tokens"].at[jnp.array(single_bytes)].set(0.0)  # they are never written:
    weights["embed"]["tokens"] = tokens  # tokenizers differ in how they show what is no text
    for stage in ("sft", "ppo"):
        checkpoint.save(workdir / "checkpoints" / stage, 1, params=weights, rest={"n": jnp.int32(1)}, meta={})
    scorer = tiny.parameters(heads.specs(config.model, tokenizer.vocab_size))
    about = inference.describe(config.model, scalar=True)
    checkpoint.save(workdir / "checkpoints" / "judge", 1, params=scorer, rest={"n": jnp.int32(1)}, meta=about)
    return config, workdir


def test_a_policy_is_a_stage_a_checkpoint_of_another_run_or_an_exported_model(trained, tmp_path):
    """Three names of one network: without noise they write the same, with it each its own."""
    config, workdir = trained
    export(workdir, "sft", tmp_path / "exported")
    specs = ["sft", f"old:{workdir}/checkpoints/ppo", f"model:{tmp_path / 'exported'}"]
    with jax.set_mesh(make_mesh(config.mesh)):
        greedy = find_policies(specs, config, workdir, temperature=0.0)
        assert [policy.name for policy in greedy] == ["sft", "old", "model"]
        first, *others = [policy.write(POSTS, 0) for policy in greedy]
        assert others == [first, first] and len(set(first)) > 1
        noisy = find_policies(["sft", "sft"], config, workdir, temperature=1.0)
        assert noisy[0] is noisy[1]
        assert noisy[0].write(POSTS, 0) == noisy[0].write(POSTS, 0) != noisy[0].write(POSTS, 1)


@pytest.mark.parametrize(
    "specs, message",
    [
        (["sft"], "two or more"),
        (["reference", "reference"], "reference is not compared with itself"),
        (["sft", "editor", "editor"], "editor is not compared with itself"),
        (["sft", "base"], "'base' is none of reference, ppo, sft; another one needs"),  # no model.pretrained
        (["sft", "editor"], "'editor' is none of reference, ppo, sft;"),  # a task without simulated people
        (["sft", "sft_10x"], "'sft_10x' is none of reference, ppo, sft;"),
        (["sft", "sft:RUN/checkpoints/ppo"], "'sft:RUN.*' needs a name of its own"),
        (["sft", "reference:RUN/checkpoints/ppo"], "needs a name of its own"),
        (["reference", "ref:RUN/checkpoints/ppo"], "needs a name of its own"),
        (["sft", ":RUN/checkpoints/ppo"], "needs a name of its own"),
        (
            ["sft", "x:RUN/checkpoints/judge"],
            "RUN/checkpoints/judge is of a reward model, which writes nothing",
        ),
        (["sft", "x:RUN/nowhere"], "RUN/nowhere is neither"),
    ],
)
def test_a_wrong_policy_is_told(trained, specs, message):
    config, workdir = trained
    specs = [spec.replace("RUN", str(workdir)) for spec in specs]
    with jax.set_mesh(make_mesh(config.mesh)), pytest.raises(TaskError) as told:
        find_policies(specs, config, workdir, 1.0)
    assert re.search(message, str(told.value).replace(str(workdir), "RUN"))


def test_the_policies_of_an_empty_folder_are_those_that_need_none(trained, tmp_path):
    config, _ = trained
    for name in ("base", "editor", "ppo"):
        with pytest.raises(TaskError, match="is none of reference;"):
            find_policies(["reference", name], config, tmp_path, 1.0, "data.mini_policies")
    with pytest.raises(TaskError, match="^data.mini_policies: name two or more"):
        find_policies(["reference"], config, tmp_path, 1.0, "data.mini_policies")


@pytest.fixture(scope="module")
def miniature(tmp_path_factory):
    """A run of the miniature with an exported policy for its base, and its configuration."""
    workdir = experimenting.finished_run(tmp_path_factory.mktemp("miniature"))
    export(workdir, "sft", workdir / "exported")
    config = experimenting.config()
    config.model.pretrained = str(workdir / "exported")
    return config, workdir


def test_base_is_the_pretrained_model_with_examples_in_its_prompt(miniature):
    config, workdir = miniature
    task = tasks.find(config.data, config.seed)
    posts = task.records()["valid"]
    shown = task.few_shot(task.records()["train"][: config.eval.shots])
    with jax.set_mesh(make_mesh(config.mesh)):
        base, sft = find_policies(["base", "sft"], config, workdir, 0.0)
        found, unprompted = base.write(posts, 0), sft.write(posts, 0)
        network = inference.load(config.model.pretrained, config=config, task=task)
        whole = network.on(shown).write(posts, 0.0, 0)
    assert base.name == "base" and found == [text.split("\n")[0] for text in whole]
    assert found != unprompted  # of the same weights


def test_the_editor_revises_the_text_that_it_meets(miniature, monkeypatch):
    config, workdir = miniature
    posts = tasks.find(config.data, config.seed).records()["train"]
    monkeypatch.setattr(MiniLabelers, "revise", lambda self, post, text, rng: f"{post.id}: {text}")
    with jax.set_mesh(make_mesh(config.mesh)):
        policies = find_policies(["sft", "reference", "editor"], config, workdir, 1.0)
        records = draw([*policies, writer("another")], posts, 60, seed=0)
    assert [policy.name for policy in policies] == ["sft", "ref", "editor"]
    met: Counter[str] = Counter()
    for record in records:
        told = {summary["policy"]: summary["text"] for summary in record["summaries"]}
        if revised := told.pop("editor", None):
            ((name, text),) = told.items()
            assert revised == f"{record['info']['id']}: {text}"
            met[name] += 1
    assert met == {"sft": 10, "ref": 10, "another": 10}


def test_a_context_too_short_for_the_texts_is_told(trained):
    config, workdir = trained
    longer = dataclasses.replace(
        config, data=dataclasses.replace(config.data, query_tokens=60, query_buckets=(60,))
    )
    with jax.set_mesh(make_mesh(config.mesh)), pytest.raises(TaskError, match="reads 64 tokens.*69"):
        find_policies(["sft", "reference"], longer, workdir, 1.0)


# --- the command ---


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A run on real records whose SFT policy has random weights: (its folder, its data, config file)."""
    folder = tmp_path_factory.mktemp("real")
    config = tiny.run_config(tiny.write_data(folder))
    made = f"tiny.run_config(tiny.write_data(Path({str(folder)!r})))"
    source = f"from pathlib import Path\n\nimport tiny\n\n\ndef get_config():\n    return {made}\n"
    (folder / "config.py").write_text(source)
    workdir = runs.open_workdir(folder / "run", config)
    tokenizer = tasks.find(config.data, 0).make_tokenizer(tiny.posts(40, 0), None)
    tokenizer.save(workdir)
    weights = tiny.parameters(transformer.specs(config.model, tokenizer.vocab_size))
    checkpoint.save(workdir / "checkpoints" / "sft", 1, params=weights, rest={"n": jnp.int32(1)}, meta={})
    return folder


def command(real, out, *options) -> int:
    common = [f"--config={real / 'config.py'}", f"--workdir={real / 'run'}", f"--out={out}"]
    return ask.main(["rlhf-jax ask", *common, *options])


def records_in(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def texts(record) -> tuple:
    return record["info"]["id"], frozenset(summary["text"].strip() for summary in record["summaries"])


def test_the_command_writes_pairs_that_are_new(real, tmp_path, capsys):
    options = "--policies=sft,sft,reference", "--pairs=20"
    assert command(real, tmp_path / "a.jsonl", *options) == 0
    assert "20 pairs" in capsys.readouterr().out
    assert command(real, tmp_path / "again.jsonl", *options) == 0
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "again.jsonl").read_bytes()
    assert command(real, tmp_path / "b.jsonl", *options, f"--not_again={tmp_path / 'a*.jsonl'}") == 0
    first, second = records_in(tmp_path / "a.jsonl"), records_in(tmp_path / "b.jsonl")
    assert len({texts(record) for record in first + second}) == 40
    policies = Counter("".join(sorted(s["policy"] for s in record["summaries"])) for record in first)
    assert policies == {"sftsft": 10, "refsft": 10}


def test_a_split_is_of_its_posts_and_named(real, tmp_path):
    valid = [post.id for post in read_posts(real / "posts" / "valid.jsonl")]
    for split, posts in (("valid1", valid[:4]), ("valid2", valid[4:])):
        assert (
            command(real, tmp_path / split, "--policies=sft,reference", "--pairs=9", f"--posts={split}") == 0
        )
        found = records_in(tmp_path / split)
        assert {record["split"] for record in found} == {split}
        assert {record["info"]["id"] for record in found} == set(posts)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--policies=sft"], "name two or more"),
        (["--policies=sft,ppo"], "'ppo' is none of reference, sft;"),
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
def test_an_error_of_use_is_one_line_and_writes_nothing(real, tmp_path, capsys, options, message):
    assert command(real, tmp_path / "tasks.jsonl", *options) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("rlhf-jax ask: ") and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_stays_as_it_is(real, tmp_path, capsys):
    (tmp_path / "tasks.jsonl").write_text("answers may belong to this")
    assert command(real, tmp_path / "tasks.jsonl", "--policies=sft,reference") == 2
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "tasks.jsonl").read_text() == "answers may belong to this"

"""A run goes on only with what it has read; where that lies does not matter."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import pytest
import tiny
from etils.epath import Path

from rlhf_jax.config import Config
from rlhf_jax.data.records import Post
from rlhf_jax.data.tokenizer import train_tokenizer
from rlhf_jax.model import pretrained, transformer
from rlhf_jax.pipeline.stages import STAGES
from rlhf_jax.run import checkpoint, steps
from rlhf_jax.run import workdir as runs
from rlhf_jax.run.fork import fork
from rlhf_jax.run.workdir import WorkdirError
from rlhf_jax.training import inputs
from rlhf_jax.training.inputs import InputError

POSTS = [Post(str(i), "pets", "A cat", f"It sat {i}.", "Cat.") for i in range(3)]


def save_step(workdir, network, step=1, value=0.0):
    arrays = {"params": {"w": jnp.full(3, value)}, "rest": {"n": jnp.int32(step)}}
    checkpoint.save(workdir / "checkpoints" / network, step, **arrays, meta={})


@pytest.fixture
def workdir(tmp_path):
    return runs.open_workdir(tmp_path / "run", Config())


def test_a_stage_that_has_trained_goes_on_with_the_same_texts_alone(workdir):
    inputs.hold(workdir, "sft", posts=POSTS)
    inputs.hold(workdir, "sft", posts=POSTS[:2])  # nothing has come of the first ones
    save_step(workdir, "sft")
    inputs.hold(workdir, "sft", posts=POSTS[:2])
    for other in (POSTS, POSTS[:2][::-1], [POSTS[0], dataclasses.replace(POSTS[1], summary="A cat.")]):
        with pytest.raises(InputError, match=r"data.posts: .* \(2 records, \w+ then, \d records, \w+ now\)"):
            inputs.hold(workdir, "sft", posts=other)


def test_later_stages_read_what_finished_ones_read(workdir):
    ours, theirs = (train_tokenizer([text] * 9, 300) for text in ("the cat sat", "a dog ran"))
    inputs.hold(workdir, "sft", ours, posts=POSTS)
    save_step(workdir, "sft")
    runs.record_stage(workdir, "sft", done=True)
    inputs.hold(workdir, "reward", ours, ("sft",), posts=POSTS)
    with pytest.raises(InputError, match="tokenizer: what stage reward reads has changed"):
        inputs.hold(workdir, "reward", theirs)
    with pytest.raises(InputError, match="data.posts: what stage reward reads has changed"):
        inputs.hold(workdir, "reward", posts=POSTS[:1])


def test_a_network_that_was_trained_again_is_another(workdir):
    save_step(workdir, "sft")
    inputs.hold(workdir, "ppo", networks=("sft",))
    save_step(workdir, "ppo")
    inputs.hold(workdir, "ppo", networks=("sft",))
    save_step(workdir, "sft", value=1.0)
    with pytest.raises(InputError, match="checkpoints/sft: what stage ppo reads has changed .*step 1"):
        inputs.hold(workdir, "ppo", networks=("sft",))


def test_a_base_is_known_by_its_weights_and_not_by_its_place(tmp_path):
    for name, seed in (("base", 0), ("other", 1)):
        weights = tiny.parameters(transformer.specs(tiny.LLAMA, tiny.VOCABULARY), seed)
        pretrained.save(tmp_path / name, weights, tiny.LLAMA)
    config = Config()
    config.model.pretrained = str(tmp_path / "base")
    workdir = runs.open_workdir(tmp_path / "run", config)
    inputs.hold(workdir, "sft", bases={"model.pretrained": config.model.pretrained})
    save_step(workdir, "sft")
    shutil.move(tmp_path / "base", tmp_path / "moved")
    config.model.pretrained = str(tmp_path / "other")
    with pytest.raises(WorkdirError, match="model.pretrained: .*base → .*other"):
        runs.open_workdir(workdir, config, same=inputs.same(config))
    config.model.pretrained = str(tmp_path / "moved")
    runs.open_workdir(workdir, config, same=inputs.same(config))
    assert runs.read_config(workdir).model.pretrained == str(tmp_path / "moved")


def test_a_base_is_read_once_until_it_changes(tmp_path, monkeypatch):
    read, digest = [], steps.sha256
    monkeypatch.setattr(steps, "sha256", lambda file: read.append(file.name) or digest(file))
    weights = tiny.parameters(transformer.specs(tiny.LLAMA, tiny.VOCABULARY))
    pretrained.save(tmp_path, weights, tiny.LLAMA)
    first = inputs.of_base(tmp_path)
    assert inputs.of_base(tmp_path) == first and read == ["config.json", "model.safetensors"]
    pretrained.save(tmp_path, jax.tree.map(lambda x: -x, weights), tiny.LLAMA)  # of the same size
    assert inputs.of_base(tmp_path) != first


def test_texts_may_lie_elsewhere_and_may_not_be_others(tmp_path):
    config = tiny.run_config(tiny.write_data(tmp_path / "data"))
    workdir = runs.open_workdir(tmp_path / "run", config)
    posts = inputs.CONTENTS["data.posts"](config)
    runs.record_stage(workdir, "sft", read={"data.posts": posts}, done=True)
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    places = {name: str(tmp_path / "copy" / name) for name in ("posts", "comparisons")}
    moved = dataclasses.replace(config, data=dataclasses.replace(config.data, **places))
    runs.open_workdir(workdir, moved, same=inputs.same(moved))  # its comparisons nobody has read yet
    assert runs.read_config(workdir) == moved
    file = tmp_path / "data" / "posts" / "train.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(WorkdirError, match=r"\(data.posts: .*copy/posts → .*data/posts\)"):
        runs.open_workdir(workdir, config, same=inputs.same(config))


def test_a_fork_may_read_other_texts_but_knows_the_same_token_ids(workdir, tmp_path):
    ours, theirs = (train_tokenizer([text] * 9, 300) for text in ("the cat sat", "a dog ran"))
    inputs.hold(workdir, "sft", ours, posts=POSTS)
    save_step(workdir, "sft")
    runs.record_stage(workdir, "sft", done=True)
    forked = Path(tmp_path / "forked")
    fork(Config(), Path(workdir), forked, STAGES)
    inputs.hold(forked, "reward", ours, posts=POSTS[:1])
    with pytest.raises(InputError, match="tokenizer"):
        inputs.hold(forked, "reward", theirs)


def test_a_fork_trains_anew_what_read_other_texts(tmp_path):
    """Comparisons that were changed where they lie: the reward model is not taken over, and it is told."""
    config = tiny.run_config(tiny.write_data(tmp_path / "data"))
    source, forked = Path(runs.open_workdir(tmp_path / "run", config)), Path(tmp_path / "forked")
    for stage, field in (("sft", "data.posts"), ("reward", "data.comparisons")):
        save_step(source, stage)
        runs.record_stage(source, stage, read={field: inputs.CONTENTS[field](config)}, done=True)
    assert inputs.others(config, source) == []
    file = tmp_path / "data" / "comparisons" / "pairs.json"
    file.write_text(file.read_text().replace('"choice": 0', '"choice": 1'))
    (line,) = inputs.others(config, source)
    assert line.startswith("data.comparisons: 40 records, ") and " → 40 records, " in line
    fork(config, source, forked, STAGES, others=lambda folder: inputs.others(config, folder))
    assert runs.stage_done(forked, "sft") and not runs.stage_done(forked, "reward")


def test_unseen_texts_may_move_but_not_become_others(tmp_path):
    config = tiny.run_config(tiny.write_data(tmp_path / "data"))
    workdir = runs.open_workdir(tmp_path / "run", config)
    for name in ("data.posts", "data.posts (valid)"):
        runs.record_stage(
            workdir, "eval", read=runs.inputs(workdir).get("eval", {}) | {name: inputs.CONTENTS[name](config)}
        )
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    moved = dataclasses.replace(
        config, data=dataclasses.replace(config.data, posts=str(tmp_path / "copy" / "posts"))
    )
    assert inputs.same(moved)(workdir, "data.posts")
    file = tmp_path / "copy" / "posts" / "valid.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    assert not inputs.same(moved)(workdir, "data.posts")


def test_what_nobody_has_read_may_lie_anywhere_unless_the_folder_is_older_than_digests(workdir, tmp_path):
    config = Config()
    config.data.posts = str(tmp_path)
    runs.record_stage(workdir, "sft")
    assert inputs.same(config)(workdir, "data.posts")
    config.data.posts = ""  # OpenAI's, which would have to be downloaded
    assert not inputs.same(config)(workdir, "data.posts")
    config.data.posts = str(tmp_path)
    progress = json.loads((workdir / "progress.json").read_text())
    del progress["sft"]["read"]
    (workdir / "progress.json").write_text(json.dumps(progress))
    assert not inputs.same(config)(workdir, "data.posts")

"""What the tests of experiments share: a run of the miniature whose networks are random."""

import dataclasses

import jax
import jax.numpy as jnp
import tiny

from rlhf_jax import inference
from rlhf_jax.config import Config, DataConfig, EvalConfig, ModelConfig
from rlhf_jax.data import task as tasks
from rlhf_jax.data.mini.judge import ideal
from rlhf_jax.data.mini.posts import posts
from rlhf_jax.data.record_json import write_jsonl
from rlhf_jax.data.records import Comparison, Summary
from rlhf_jax.data.tokenizer import load_tokenizer
from rlhf_jax.mesh import make_mesh
from rlhf_jax.model import heads, transformer
from rlhf_jax.model.pretrained import SHIPPED
from rlhf_jax.pipeline import stages
from rlhf_jax.run import checkpoint
from rlhf_jax.run import workdir as runs
from rlhf_jax.validation import validate

MODEL = ModelConfig(width=16, layers=1, heads=2, positions="rotary")
POSTS = 12  # in valid and in test
COMPARED = 16  # pairs of each split, two a post


def config() -> Config:
    data = DataConfig(
        source="mini",
        tokenizer=str(SHIPPED / "small"),
        query_tokens=80,
        query_buckets=(80,),
        response_tokens=8,
        reward_response_tokens=24,
        mini_posts=24,
        mini_test=POSTS,
    )
    small = dataclasses.replace(tiny.run_config(data), model=MODEL, eval=EvalConfig(posts=POSTS, best_of=2))
    return validate(dataclasses.replace(small, ppo=dataclasses.replace(small.ppo, kl_controller="fixed")))


def save(folder, name: str, seed: int) -> None:
    """Random weights as the network that the stage `name` leaves, which is done."""
    vocabulary = load_tokenizer(SHIPPED / "small").vocab_size
    specs = heads.specs(MODEL, vocabulary) if name == "reward" else transformer.specs(MODEL, vocabulary)
    meta = inference.describe(MODEL, scalar=name == "reward")
    with jax.set_mesh(make_mesh(config().mesh)):
        weights = tiny.parameters(specs, seed)
        checkpoint.save(folder / "checkpoints" / name, 5, params=weights, rest={"n": jnp.int32(1)}, meta=meta)
    finish(folder, name)


def finish(folder, name: str) -> None:
    """Has the folder say that stage `name` is done."""
    runs.record_stage(folder, name, 1.0, done=True, **stages.find(name).about(Config()))


def finished_run(folder):
    """The work folder of a run with all stages but eval finished."""
    workdir = runs.open_workdir(folder / "run", config())
    load_tokenizer(SHIPPED / "small").save(workdir)
    save(workdir, "sft", 0)
    labelers = tasks.find(config().data, 0).labelers
    asked = [
        Comparison(post, (Summary(text, "x"), Summary(ideal(post), "ideal")), 0, "", "mini", split)
        for split, name in (("train", "train"), ("valid1", "valid"), ("valid2", "valid"))
        for post in posts(0, name, COMPARED // 2)
        for text in (post.summary, post.post)
    ]
    write_jsonl(workdir / "comparisons.jsonl", labelers.answer(asked))
    finish(workdir, "collect")
    for seed, name in enumerate(("reward", "ppo"), 1):
        save(workdir, name, seed)
    return workdir

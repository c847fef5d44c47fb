"""Runs whose checkpoints hold large random weights, so that an export that lost something would show it."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest
import tiny
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from rlhf_jax.config import Config, DataConfig, MeshConfig, ModelConfig
from rlhf_jax.data import task as tasks
from rlhf_jax.data.records import Post
from rlhf_jax.data.task import Task
from rlhf_jax.data.tasks.tldr import Tldr
from rlhf_jax.data.tokenizer import JSON_FILE, Tokenizer
from rlhf_jax.mesh import make_mesh
from rlhf_jax.model import heads, pretrained, transformer
from rlhf_jax.pipeline.export import export
from rlhf_jax.run import checkpoint
from rlhf_jax.run import workdir as runs

DATA = DataConfig(
    vocabulary=320, query_tokens=160, query_buckets=(160,), response_tokens=12, reward_response_tokens=24
)
POSTS = [
    dataclasses.replace(post, id=str(i), post=post.post + " and ran" * (i % 4))
    for i, post in enumerate(tiny.posts(7, seed=0))
]


class Run(NamedTuple):
    """A folder with checkpoints of the stages ppo and reward, what is in it, and both exported."""

    workdir: Path
    config: Config
    model: ModelConfig
    tokenizer: Tokenizer
    policy: dict
    reward: dict
    exported: dict[str, Path]  # by stage
    task: Task


@pytest.fixture(scope="session", params=["gpt2", "neox", "llama"])
def run(request, tmp_path_factory) -> Run:
    """GPT-2 and GPT-NeoX with a tokenizer trained here; Llama from a pretrained folder with its own."""
    workdir, base = tmp_path_factory.mktemp(request.param), None
    model = dataclasses.replace(tiny.FAMILIES[request.param], context=192)
    chosen = model
    if request.param == "llama":
        base = tmp_path_factory.mktemp("base")
        write_base_model(base, model)
        chosen = ModelConfig(pretrained=str(base))
        model = pretrained.architecture(chosen)
    config = dataclasses.replace(tiny.run_config(DATA), model=chosen)
    runs.open_workdir(workdir, config)
    tokenizer = tasks.find(DATA, 0).make_tokenizer(POSTS, base)
    tokenizer.save(workdir)
    policy = tiny.parameters(transformer.specs(model, tokenizer.vocab_size))
    write_eos_often(policy, tokenizer.eos_id)
    reward = tiny.parameters(heads.specs(model, tokenizer.vocab_size), seed=1)
    for stage, weights in {"ppo": policy, "reward": reward}.items():
        folder = workdir / "checkpoints" / stage
        checkpoint.save(folder, 1, params=weights, rest={"step": jnp.int32(1)}, meta={})
    exported = {stage: workdir / "exported" / stage for stage in ("ppo", "reward")}
    for stage, folder in exported.items():
        export(workdir, stage, folder)
    task = tasks.find(config.data, 0)
    return Run(workdir, config, model, tokenizer, policy, reward, exported, task)


@pytest.fixture(autouse=True)
def one_device():
    with jax.set_mesh(make_mesh(MeshConfig(1, 1, 1))):
        yield


def write_base_model(folder: Path, model: ModelConfig) -> None:
    """A pretrained model: byte-level tokenizer that begins texts with BOS, more rows than tokens."""
    tokenizer = byte_level([Tldr(DATA).prompt(post).text for post in POSTS])
    tokenizer.save(str(folder / JSON_FILE))
    special = {"bos_token_id": 0, "eos_token_id": 1}
    specs = transformer.specs(model, tokenizer.get_vocab_size() + 5)
    pretrained.save(folder, tiny.parameters(specs, seed=2), model, extra=special)


def byte_level(texts: list[str]) -> tokenizers.Tokenizer:
    """Byte-level BPE of 300 tokens: 0 begins a text, 1 ends it."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|begin|>", "<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", 0)]
    )
    return made


def write_eos_often(policy: dict, eos_id: int) -> None:
    """Makes EOS the likeliest token now and then, so that rows end at different times."""
    if "head" in policy:
        policy["head"] = policy["head"].at[:, eos_id].multiply(3.0)
    else:
        table = policy["embed"]["tokens"]
        policy["embed"]["tokens"] = table.at[eos_id].multiply(3.0)


@pytest.fixture(scope="session")
def posts() -> list[Post]:
    return POSTS

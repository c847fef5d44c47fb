"""What the tests of models and stages share: tiny networks and an invented data set in OpenAI's formats."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.config import (
    Config,
    DataConfig,
    DistillConfig,
    DpoConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    PpoConfig,
    RewardConfig,
    RotaryConfig,
    SftConfig,
)
from rlhf_jax.data.record_json import write_jsonl
from rlhf_jax.data.records import Comparison, Post, Summary
from rlhf_jax.model import params
from rlhf_jax.pipeline import stages

VOCABULARY, EOS, PAD = 40, 1, 40  # all widths divide by 8, the most devices along one axis

GPT2 = ModelConfig(width=32, layers=2, heads=8, ff=64, context=32)
NEOX = dataclasses.replace(
    GPT2,
    positions="rotary",
    rotary=RotaryConfig(0.5),
    activation="gelu",
    parallel_residual=True,
    tied_head=False,
)
LLAMA = dataclasses.replace(
    GPT2,
    kv_heads=2,
    norm="rms",
    positions="rotary",
    activation="silu",
    gated=True,
    attention_bias=False,
    mlp_bias=False,
    tied_head=False,
)
FAMILIES = {"gpt2": GPT2, "neox": NEOX, "llama": LLAMA}


def parameters(specs, seed: int = 0):
    """Values so large that every tensor matters, biases and scales too; made without compiling anything."""
    rng = np.random.default_rng(seed)

    def draw(path, spec: params.ParamSpec):
        mean = 1.0 if jax.tree_util.keystr(path[-1:], simple=True) == "scale" else 0.0
        return jnp.asarray(rng.normal(mean, 0.5, spec.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, specs, is_leaf=lambda x: isinstance(x, params.ParamSpec))


def placed(weights, specs, mesh):
    """The values in the layout that `specs` declare; from the host, as to move them on devices compiles."""
    like = params.abstract(specs, mesh)
    return jax.tree.map(lambda x, to: jax.device_put(np.asarray(x), to.sharding), weights, like)


def rounding(additions: float, dtype="float32") -> float:
    """How far two results of `additions` operations may lie apart, as a part of the largest number in them.

    An operation rounds by half an eps at most, up as often as down, so that √additions of them add up. Four
    times that covers the unluckiest of many entries, and what a softmax or a norm magnifies. Which orders of
    adding, instructions and approximations of exp a processor or a compiler takes makes no more difference.
    """
    return 4 * float(jnp.finfo(dtype).eps) * additions**0.5


def additions(config: ModelConfig, tokens: int, rows: int = 0) -> int:
    """How many sums stand behind a log-probability or a score of `tokens` tokens, one upon the other.

    With `rows`, behind a gradient: forward, back through activations and weights, and over all tokens.
    """
    attention = config.width // config.heads + 2 * tokens  # scores; the softmax and the mean of values
    layer = 5 * config.width + config.ff + attention  # two norms; into and out of attention, into the MLP
    forward = config.layers * layer + 2 * config.width + VOCABULARY
    return 3 * forward + rows * tokens if rows else forward


def largest(tree) -> float:
    """The largest absolute value in any array of the tree."""
    return max(float(np.abs(np.asarray(leaf, np.float64)).max()) for leaf in jax.tree.leaves(tree))


def assert_close(ours, theirs, additions: float, scale: float = 0.0, dtype="float32") -> None:
    """Trees of equal structure whose arrays differ by rounding alone; the message names the leaf.

    `additions` as in `rounding`. An array is measured by its own largest entry, or by `scale` where that is
    more: by the size of what was added up to it, where terms cancel.
    """
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(theirs))
    for (path, b), a in zip(leaves, jax.tree.leaves(jax.device_get(ours)), strict=True):
        if np.asarray(b).dtype.kind in "biu":
            np.testing.assert_array_equal(a, b, jax.tree_util.keystr(path))
            continue
        allowed = rounding(additions, dtype) * max(largest(b), scale)
        np.testing.assert_allclose(a, b, 0.0, allowed, err_msg=jax.tree_util.keystr(path))


def assert_close_to_a_step(ours, theirs, optimizer: OptimizerConfig) -> None:
    """Parameters after a few of AdamW's updates, which differ by a hundredth of the learning rate at most.

    A step is the rate times a gradient over its own size, or over ε where that is more: so the rounding of
    the largest gradients counts against the smallest, and an error is a share of the rate.
    """
    for (path, b), a in zip(jax.tree_util.tree_leaves_with_path(theirs), jax.tree.leaves(ours), strict=True):
        allowed = optimizer.learning_rate / 100
        np.testing.assert_allclose(a, b, 0.0, allowed, err_msg=jax.tree_util.keystr(path))


def assert_same(ours, theirs) -> None:
    """Trees equal bit for bit, random keys included."""

    def same(path, a, b):
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), jax.tree_util.keystr(path))

    jax.tree_util.tree_map_with_path(same, ours, theirs)


def random_tokens(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Ids [rows, columns] that are neither EOS nor padding."""
    return np.random.default_rng(seed).integers(2, VOCABULARY, (rows, columns)).astype(np.int32)


def random_queries(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Left-padded queries [rows, columns] of all lengths from 2."""
    lengths = 2 + np.arange(rows) % (columns - 1)
    padding = np.arange(columns) < columns - lengths[:, None]
    return np.where(padding, PAD, random_tokens(rows, columns, seed)).astype(np.int32)


def posts(count: int, seed: int) -> list[Post]:
    """Invented posts of one sentence; queries of about 33 tokens of the tokenizer trained on them."""
    rng = np.random.default_rng(seed)
    animals, actions = "cat dog hen ant bee fox".split(), "sat ran hid ate dug".split()
    out = []
    for i in range(count):
        animal, action = rng.choice(animals), rng.choice(actions)
        body = f"my {animal} {action} and {rng.choice(actions)}"
        out.append(Post(f"t{seed}{i}", "pets", f"the {animal}", body, f"{animal} {action}"))
    return out


def comparisons(split: str, count: int, seed: int) -> list[Comparison]:
    """The summary against the title."""
    return [
        Comparison(post, (Summary(post.title, "a"), Summary(post.summary, "b")), i % 2, "w", "batch1", split)
        for i, post in enumerate(posts(count, seed))
    ]


def write_data(folder: Path) -> DataConfig:
    """Writes posts and comparisons in OpenAI's formats; the configuration that reads them."""
    for seed, (split, count) in enumerate({"train": 40, "valid": 8}.items()):
        write_jsonl(folder / "posts" / f"{split}.jsonl", posts(count, seed))
    pairs = comparisons("train", 32, 2) + comparisons("valid1", 8, 3)
    write_jsonl(folder / "comparisons" / "pairs.json", pairs)
    return DataConfig(
        posts=str(folder / "posts"),
        comparisons=str(folder / "comparisons"),
        vocabulary=320,
        query_tokens=44,
        query_buckets=(44,),
        response_tokens=9,
        reward_response_tokens=9,
    )


def run_config(data: DataConfig) -> Config:
    """A whole run of a few steps a stage on one device, each with a checkpoint in its midst."""
    fast, linear = OptimizerConfig(1e-3), OptimizerConfig(1e-3, "linear")
    return Config(
        mesh=MeshConfig(1, 1, 1),
        model=ModelConfig(width=16, layers=1, heads=2, context=64),
        data=data,
        sft=SftConfig(batch_size=8, optimizer=fast, save_every=2, microbatches=2),
        reward=RewardConfig(batch_size=8, optimizer=fast, save_every=2),
        dpo=DpoConfig(batch_size=8, optimizer=fast, save_every=2),
        distill=DistillConfig(batch_size=8, optimizer=fast, save_every=2, pack=False, best_of=2),
        ppo=PpoConfig(
            episodes=40,
            batch_size=8,
            epochs=2,
            minibatches=2,
            optimizer=linear,
            kl_controller="adaptive",
            save_every=2,
        ),
    )


def config_with(name, value):
    config = Config()
    *groups, leaf = name.split(".")
    owner = config
    for group in groups:
        owner = getattr(owner, group)
    setattr(owner, leaf, value)
    return config


CONFIG_FILE = """
from pathlib import Path

import tiny


def get_config():
    return tiny.run_config(tiny.write_data(Path({data!r})))
"""


def stand_in(patch, name: str, run) -> None:
    """Has stage `name` do something else."""
    rows = [dataclasses.replace(stage, run=run) if stage.name == name else stage for stage in stages.STAGES]
    patch.setattr(stages, "STAGES", rows)

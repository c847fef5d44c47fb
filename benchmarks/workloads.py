"""What is measured: models with random weights and rows of random tokens, in a folder that both sides read.

*fixed*: every prompt has 512 tokens and no response ends before its 53rd. *real*: lengths of posts and of
their authors' summaries. Each side gets the same rows; ours batched by length as the product does, the
peer's in the order drawn, padded to the longest of a batch.

How responses end at lengths drawn beforehand, on both sides and whatever is sampled: EOS has a direction of
its own in the embedding, and the position embedding carries it, positive at every 53rd position, where EOS
is then all but certain, negative at all others, where it is impossible. A prompt is cut or filled by at
most 26 tokens so that the drawn length of its response ends at such a position.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.worker import WORKLOAD, Arrays
from rlhf_jax.config import DataConfig, ModelConfig
from rlhf_jax.data import task as tasks
from rlhf_jax.data.batches import Plan, left_pad, pack_rows, right_pad
from rlhf_jax.model import heads, params, pretrained, transformer
from rlhf_jax.run.stored_config import to_dict

EOS = 1
NETWORKS = {
    "generation": ("policy",),
    "sft": ("policy",),
    "reward": ("reward",),
    "update": ("policy", "value"),
    "ppo": ("policy", "reference", "value", "reward"),
}
SCALAR = {"value", "reward"}
EOS_STRENGTH = 4.0  # of its direction in the position embedding; embeddings elsewhere have norms below 1
NOISE = 0.005
POSTS_MEASURED = 1024  # whose lengths are counted


class Example(NamedTuple):
    """Token ids without padding; a response ends with EOS, or in *fixed* does not end."""

    query: np.ndarray
    response: np.ndarray
    other: np.ndarray  # response, for reward models to compare


@dataclasses.dataclass(frozen=True)
class Workload:
    name: str
    model: ModelConfig
    vocabulary: int
    rows: int  # of a batch
    real: bool
    query_tokens: int = 512
    response_tokens: int = 53
    epochs: int = 4  # of updates on one rollout
    temperature: float = 0.7
    learning_rate: float = 1e-5

    @property
    def pad(self) -> int:
        return self.vocabulary


SMALL, GPT2 = ModelConfig(width=256, layers=4, heads=4), ModelConfig(width=768, layers=12, heads=12)
WORKLOADS = {
    workload.name: workload
    for real, kind in ((False, "fixed"), (True, "real"))
    for workload in (
        Workload(f"small-{kind}", SMALL, vocabulary=8192, rows=16, real=real),
        Workload(f"124M-{kind}", GPT2, vocabulary=50257, rows=4, real=real, epochs=1),
    )
}


# Rows ----------------------------------------------------------------------------------------


def real_lengths(posts: Path) -> np.ndarray:
    """Tokens [N, 2] of queries and responses: of the posts in a folder, or of the miniature without one."""
    data = DataConfig(posts=str(posts)) if posts.is_dir() else DataConfig(source="mini", mini_posts=2048)
    task = tasks.find(data, seed=0)
    train = task.records()["train"]
    tokenizer = task.make_tokenizer(train, None)
    chosen = np.random.default_rng(0).permutation(len(train))[:POSTS_MEASURED]
    measured = [train[i] for i in chosen]
    references = [post.reference for post in measured]
    responses, _ = task.encode_responses(references, tokenizer, data.response_tokens)
    queries = [len(task.encode(post, tokenizer)) for post in measured]
    return np.stack([queries, [len(response) for response in responses]], axis=1)


def draw(workload: Workload, lengths: np.ndarray | None, batches: int, seed: int = 0) -> list[Example]:
    """Rows of that many batches, *real* ones of the given `lengths` [N, 2]; *fixed* has one batch."""
    rng = np.random.default_rng(seed)
    count = workload.rows * (batches if workload.real else 1)
    sizes = np.full((count, 3), [workload.query_tokens, workload.response_tokens, workload.response_tokens])
    if workload.real:
        assert lengths is not None
        sizes[:, :2] = lengths[rng.permutation(len(lengths))[:count]]
        sizes[:, 2] = rng.permutation(sizes[:, 1])
        sizes[:, 0] = [ending(query, response, workload) for query, response, _ in sizes]

    def response(size: int) -> np.ndarray:
        ids = rng.integers(EOS + 1, workload.vocabulary, size)
        return np.append(ids[:-1], EOS) if workload.real else ids

    return [
        Example(rng.integers(EOS + 1, workload.vocabulary, query), response(first), response(second))
        for query, first, second in sizes
    ]


def ending(query: int, response: int, workload: Workload) -> int:
    """The length nearest to `query` at which EOS comes as the response's token number `response`.

    That token is read at position query + response − 2, which must be a multiple of `response_tokens`.
    """
    period = workload.response_tokens
    excess = (query + response - 2) % period
    length = query - excess if excess <= period // 2 else query - excess + period
    while length > workload.query_tokens:
        length -= period
    while length < 1:
        length += period
    return length


class ExamplePlan(Plan):
    """Which examples form a batch, as the product's plans decide it; `index` [B] names them."""

    def collate(self, rows: np.ndarray, width: int) -> Arrays:
        return {"index": rows, "width": np.asarray(width)}


class Placed(NamedTuple):
    """Examples of one batch and the lengths they are padded to."""

    examples: list[Example]
    query: int
    response: int


def ours(workload: Workload, examples: Sequence[Example], batches: int) -> list[Placed]:
    """By length, padded as the product's plans decide it, responses padded to their limit."""
    if not workload.real:
        return [Placed(list(examples), workload.query_tokens, workload.response_tokens)] * batches
    lengths = [len(example.query) for example in examples]
    plan = ExamplePlan(lengths, (), workload.query_tokens, workload.rows, seed=0)
    chosen = [plan.batch(i) for i in range(batches)]
    return [
        Placed([examples[i] for i in batch["index"]], int(batch["width"]), workload.response_tokens)
        for batch in chosen
    ]


def peers(workload: Workload, examples: Sequence[Example], batches: int) -> list[Placed]:
    """In the order drawn, padded to the longest of each batch."""
    groups = [examples[i : i + workload.rows] for i in range(0, len(examples), workload.rows)]
    placed = [
        Placed(
            list(group),
            max(len(example.query) for example in group),
            max(max(len(example.response), len(example.other)) for example in group),
        )
        for group in groups
    ]
    return [placed[i % len(placed)] for i in range(batches)]


# Arrays of the suites ------------------------------------------------------------------------


def arrays(suite: str, workload: Workload, placed: Placed) -> Arrays:
    """Left-padded `query` [B, Q], right-padded responses [B, R] and what else the suite reads."""
    examples, pad = placed.examples, workload.pad

    def padded(name: str) -> np.ndarray:
        return right_pad([getattr(example, name) for example in examples], placed.response, pad)

    query = left_pad([example.query for example in examples], placed.query, pad)
    if suite == "reward":
        return {"query": query, "chosen": padded("response"), "rejected": padded("other")}
    if suite == "update":
        return {"query": query} | episodes(workload, padded("response"))
    return {"query": query}


def episodes(workload: Workload, response: np.ndarray) -> Arrays:
    """A rollout of invented numbers near those of random weights: each row has the same ones every time."""

    def noise(scale: float, which: int) -> np.ndarray:
        rows = [np.random.default_rng([which, *row[:3]]).normal(0, scale, len(row)) for row in response]
        return np.stack(rows).astype(np.float32)

    return {
        "response": response,
        "mask": response != workload.pad,
        "logp": noise(0.3, 0) - np.float32(np.log(workload.vocabulary)),
        "values": noise(0.3, 1),
        "returns": noise(0.5, 2),
        "advantages": noise(1.0, 3),
    }


def packed(workload: Workload, examples: Sequence[Example], batches: int) -> list[Arrays]:
    """SFT as the product packs it: rows of several posts, the same number of rows in every batch."""
    width = workload.query_tokens + workload.response_tokens
    lengths = [len(example.query) + len(example.response) for example in examples]
    rows = pack_rows(lengths, width, range(len(examples)))
    size = -(-len(rows) // (2 * batches)) * 2 if workload.real else len(rows)
    rows += [[] for _ in range(size * batches - len(rows))] if workload.real else rows * (batches - 1)
    return [segmented(workload, examples, rows[i * size : (i + 1) * size], width) for i in range(batches)]


def unpacked(workload: Workload, placed: Placed) -> Arrays:
    """SFT with one post a row, as long as the longest."""
    rows = [[i] for i in range(len(placed.examples))]
    width = max(len(example.query) + len(example.response) for example in placed.examples)
    return segmented(workload, placed.examples, rows, width)


def segmented(
    workload: Workload, examples: Sequence[Example], rows: Sequence[Sequence[int]], width: int
) -> Arrays:
    tokens = np.full((len(rows), width), workload.pad, np.int32)
    segments = np.zeros((len(rows), width), np.int32)
    targets = np.zeros((len(rows), width), np.float32)
    for b, row in enumerate(rows):
        start = 0
        for segment, i in enumerate(row, 1):
            query, response, _ = examples[i]
            end = start + len(query) + len(response)
            tokens[b, start:end] = np.concatenate([query, response])
            segments[b, start:end] = segment
            targets[b, start + len(query) : end] = 1
            start = end
    return {"tokens": tokens, "segments": segments, "targets_mask": targets}


# The folder ----------------------------------------------------------------------------------


def write(folder: Path, suite: str, workload: Workload, examples: Sequence[Example], batches: int) -> None:
    """Weights, arrays of both sides and what else they must know."""
    own, other = ours(workload, examples, batches), peers(workload, examples, batches)
    if suite == "sft":
        own_arrays = packed(workload, examples, batches)
        other_arrays = [unpacked(workload, placed) for placed in other]
        first = examples[: workload.rows]
        checks = packed(workload, first, 1)[0], unpacked(workload, peers(workload, first, 1)[0])
    else:
        own_arrays = [arrays(suite, workload, placed) for placed in own]
        other_arrays = [arrays(suite, workload, placed) for placed in other]
        checks = own_arrays[0], own_arrays[0]
    for side, batched, check in (("ours", own_arrays, checks[0]), ("peer", other_arrays, checks[1])):
        named: dict[str, Any] = {
            f"{key}.{name}": x
            for key, batch in (*enumerate(batched), ("check", check))
            for name, x in batch.items()
        }
        np.savez(folder / f"{side}.npz", **named)
    targets = [int(batch["targets_mask"].sum(1).max()) for batch in own_arrays] if suite == "sft" else [0]
    fields = dataclasses.asdict(workload) | {
        "suite": suite,
        "model": to_dict(workload.model),
        "eos": EOS,
        "pad": workload.pad,
        "targets": max(targets),
    }
    (folder / WORKLOAD).write_text(json.dumps(fields))
    for name in NETWORKS[suite]:
        weights = network(name, suite, workload)
        special = {"eos_token_id": EOS, "pad_token_id": EOS}
        pretrained.save(folder / name, weights, workload.model, extra=special)


def network(name: str, suite: str, workload: Workload) -> dict:
    """Random weights, no bias 0 and no scale 1, so that a side that left one out would be found out."""
    scalar = name in SCALAR
    specs = (heads if scalar else transformer).specs(workload.model, workload.vocabulary)

    @jax.jit
    def create(key: jax.Array):
        leaves, structure = jax.tree.flatten(params.init(specs, key))
        keys = jax.random.split(jax.random.fold_in(key, 1), len(leaves))
        noisy = [x + NOISE * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
        return jax.tree.unflatten(structure, noisy)

    weights = create(jax.random.key(NETWORKS["ppo"].index(name)))
    if suite in ("generation", "ppo") and not scalar:
        weights["embed"] = with_ends(weights["embed"], workload)
    if scalar:
        weights["head"]["bias"] = jnp.float32(0.0)  # which the peers' files do not hold
    return weights


def with_ends(embed: dict, workload: Workload) -> dict:
    """The embedding by which responses end where the module's first lines say."""
    tokens, positions = embed["tokens"], embed["positions"]
    direction = (-1.0) ** jnp.arange(workload.model.width) * workload.model.width**-0.5
    is_eos = jnp.arange(len(tokens)) == EOS
    ends = jnp.arange(len(positions)) % workload.response_tokens == 0
    sign = jnp.where(ends & workload.real, 1.0, -1.0)
    return {
        "tokens": jnp.where(is_eos[:, None], 2 * direction, tokens),
        "positions": positions + EOS_STRENGTH * sign[:, None] * direction,
    }

"""Summaries, scores and likelihoods for lists of posts: what collecting and evaluating need of a model."""

import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rlhf_jax.config import Config, DataConfig, ModelConfig
from rlhf_jax.data.batches import Batch, Plan, QueryPlan, SummaryPlan
from rlhf_jax.data.comparisons import Pair
from rlhf_jax.data.records import Article, Post
from rlhf_jax.data.tldr import encode_query
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.mesh import abstract_rows, row_shards, to_devices, to_host
from rlhf_jax.metrics import progress_bar
from rlhf_jax.model import heads, params, transformer
from rlhf_jax.model.generate import generate
from rlhf_jax.rollout import response_logprobs

SHOWN_AFTER = 10  # seconds without a progress bar
BATCH_SIZE = 128  # rows computed at once, by up to as many row shards

write = jax.jit(
    generate,
    static_argnames=("config", "response_tokens", "eos_id", "pad_id", "temperature", "top_k", "top_p"),
)
read = jax.jit(heads.score, static_argnames=("config", "pad_id"))


@functools.partial(jax.jit, static_argnames=("config", "pad_id"))
def expect(weights, config: ModelConfig, query, response, pad_id: int):
    """Log-probability of each whole response [B], nats."""
    logp, _ = response_logprobs(weights, config, query, response, pad_id, temperature=1.0)
    return jnp.sum(jnp.where(response != pad_id, logp, 0.0), axis=1)


def batch_size(shards: int) -> int:
    """Rows computed at once: BATCH_SIZE, or the next multiple of the row shards."""
    return -(-BATCH_SIZE // shards) * shards


def traced_write(config: Config, model: ModelConfig, vocabulary: int) -> jax.stages.Traced:
    """`write` in its longest bucket at best-of-N's temperature, without values. Needs a mesh set."""
    mesh = jax.sharding.get_mesh()
    return write.trace(
        params.abstract(transformer.specs(model, vocabulary), mesh),
        model,
        abstract_rows(mesh, (batch_size(row_shards(mesh)), config.data.query_tokens)),
        jax.eval_shape(lambda: jax.random.key(0)),
        response_tokens=config.data.response_tokens,
        eos_id=0,
        pad_id=vocabulary,
        temperature=config.eval.temperature,
    )


def traced_read(config: Config, model: ModelConfig, vocabulary: int) -> jax.stages.Traced:
    """`read` in its longest bucket, without values. Needs a mesh set."""
    data, mesh = config.data, jax.sharding.get_mesh()
    rows = batch_size(row_shards(mesh))
    query = abstract_rows(mesh, (rows, data.query_tokens))
    response = abstract_rows(mesh, (rows, data.reward_response_tokens))
    return read.trace(
        params.abstract(heads.specs(model, vocabulary), mesh), model, query, response, vocabulary
    )


def summarize(
    weights,
    posts: Sequence[Post],
    *,
    model: ModelConfig,
    tokenizer: Tokenizer,
    data: DataConfig,
    temperature: float = 0.0,
    seed: int = 0,
    encode: Callable[[Post, Tokenizer, int], list[int]] = encode_query,
) -> list[str]:
    """One summary a post, in order, without the leading space; greedy unless there is a temperature.

    `encode(post, tokenizer, limit)` makes the query.
    """
    mesh = jax.sharding.get_mesh()
    plan = QueryPlan(posts, tokenizer, data, batch_size(row_shards(mesh)), seed, encode)
    summaries = [""] * len(posts)
    for i, (batch, valid) in enumerate(_shown(plan, len(posts), mesh, "summaries")):
        key = jax.random.fold_in(jax.random.key(seed), i)
        responses = write(
            weights,
            model,
            to_devices(batch["query"], mesh),
            key,
            response_tokens=data.response_tokens,
            eos_id=tokenizer.eos_id,
            pad_id=tokenizer.pad_id,
            temperature=temperature,
        )
        for row, response in zip(batch["index"][:valid], to_host(responses), strict=False):
            summaries[row] = tokenizer.decode(response).strip()
    return summaries


def score(weights, infos: Sequence[Post | Article], summaries: Sequence[str], **setting) -> np.ndarray:
    """The reward model's score [N] of a summary for each text, in order; `setting` as for `summarize`."""
    return _of_each(read, weights, infos, summaries, **setting)


def log_likelihood(
    weights, infos: Sequence[Post | Article], summaries: Sequence[str], **setting
) -> np.ndarray:
    """Log-probability [N] that a policy gives each summary with its end, nats at temperature 1."""
    return _of_each(expect, weights, infos, summaries, **setting)


def margins(weights, pairs: Sequence[Pair], **setting) -> np.ndarray:
    """By how much each pair's preferred summary scores above the other [N]; `setting` as for `score`."""
    infos = [pair.info for pair in pairs]
    chosen = score(weights, infos, [pair.chosen for pair in pairs], **setting)
    return chosen - score(weights, infos, [pair.rejected for pair in pairs], **setting)


def _shown(plan: Plan, rows: int, mesh: Mesh, what: str) -> Iterator[tuple[Batch, int]]:
    """The batches of `plan.in_order()`, with a bar where they take long."""
    with progress_bar(rows, what, delay=SHOWN_AFTER, leave=False) as bar:
        for batch, valid in plan.in_order(row_shards(mesh)):
            yield batch, valid
            bar.update(valid)


def _of_each(
    measure: Callable,
    weights,
    infos: Sequence[Post | Article],
    summaries: Sequence[str],
    *,
    model: ModelConfig,
    tokenizer: Tokenizer,
    data: DataConfig,
) -> np.ndarray:
    mesh = jax.sharding.get_mesh()
    plan = SummaryPlan(infos, summaries, tokenizer, data, batch_size(row_shards(mesh)))
    values = np.empty(len(infos), np.float32)
    for batch, valid in _shown(plan, len(infos), mesh, "summaries read"):
        query, response = (to_devices(batch[name], mesh) for name in ("query", "response"))
        measured = measure(weights, model, query, response, tokenizer.pad_id)
        values[batch["index"][:valid]] = to_host(measured)[:valid]
    return values

"""Summaries, scores and likelihoods for lists of posts: what collecting and evaluating need of a model."""

import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from rlhf_jax.config import Config, DataConfig, ModelConfig
from rlhf_jax.data.batches import Batch, Plan, QueryPlan, SummaryPlan
from rlhf_jax.data.comparisons import Pair
from rlhf_jax.data.records import Article, Post
from rlhf_jax.data.tldr import encode_query
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.mesh import abstract_rows, row_shards, to_devices, to_host
from rlhf_jax.model import heads, params, transformer
from rlhf_jax.model.generate import generate
from rlhf_jax.model.likelihood import response_logprobs
from rlhf_jax.training.metrics import progress_bar

SHOWN_AFTER = 10  # seconds without a progress bar
BATCH_SIZE = 128  # rows computed at once, by up to as many row shards

write = jax.jit(
    generate,
    static_argnames="config response_tokens eos_id pad_id temperature top_k top_p samples".split(),
)
read = jax.jit(heads.scores, static_argnames=("config", "pad_id"))


@functools.partial(jax.jit, static_argnames=("config", "pad_id"))
def response_logp(weights, config: ModelConfig, query, responses, pad_id: int):
    """Log-probability [B, 1] of the one whole response to each query, nats."""
    logp, _ = response_logprobs(weights, config, query, responses[:, 0], pad_id, temperature=1.0)
    return jnp.sum(jnp.where(responses[:, 0] != pad_id, logp, 0.0), axis=1, keepdims=True)


def row_multiple(mesh: Mesh) -> int:
    """What the rows of a batch are a multiple of: the row shards, but two at least.

    Of an axis of one row JAX does not tell how it is split, and refuses to index it.
    """
    return max(2, row_shards(mesh))


def batch_size(multiple: int, summaries: int = 1) -> int:
    """Texts computed at once, with so many summaries of each: BATCH_SIZE rows in all, rounded up."""
    return -(-BATCH_SIZE // (summaries * multiple)) * multiple


def traced_write(config: Config, model: ModelConfig, vocabulary: int) -> jax.stages.Traced:
    """`write` as best-of-N samples, in its longest bucket, without values. Needs a mesh set."""
    mesh, samples = jax.sharding.get_mesh(), config.eval.best_of
    return write.trace(
        params.abstract(transformer.specs(model, vocabulary), mesh),
        model,
        abstract_rows(mesh, (batch_size(row_multiple(mesh), samples), config.data.query_tokens)),
        jax.eval_shape(lambda: jax.random.key(0)),
        response_tokens=config.data.response_tokens,
        eos_id=0,
        pad_id=vocabulary,
        temperature=config.eval.temperature,
        samples=samples,
    )


def traced_read(config: Config, model: ModelConfig, vocabulary: int) -> jax.stages.Traced:
    """`read` as it scores best-of-N's samples, in its longest bucket, without values. Needs a mesh set."""
    data, mesh, count = config.data, jax.sharding.get_mesh(), config.eval.best_of
    rows = batch_size(row_multiple(mesh), count)
    query = abstract_rows(mesh, (rows, data.query_tokens))
    responses = abstract_rows(mesh, (rows, count, data.reward_response_tokens))
    return read.trace(
        params.abstract(heads.specs(model, vocabulary), mesh), model, query, responses, vocabulary
    )


def summarize(weights, posts: Sequence[Post], **setting) -> list[str]:
    """One summary a post, in order, without the leading space; greedy unless there is a temperature.

    `setting` as for `samples`.
    """
    return [texts[0] for texts in samples(weights, posts, 1, **setting)]


def samples(
    weights,
    posts: Sequence[Post],
    count: int,
    *,
    model: ModelConfig,
    tokenizer: Tokenizer,
    data: DataConfig,
    temperature: float = 0.0,
    seed: int = 0,
    encode: Callable[[Post, Tokenizer, int], list[int]] = encode_query,
) -> list[list[str]]:
    """`count` summaries of each post, which is read once; in order, without the leading space.

    `encode(post, tokenizer, limit)` makes the query.
    """
    mesh = jax.sharding.get_mesh()
    plan = QueryPlan(posts, tokenizer, data, batch_size(row_multiple(mesh), count), seed, encode)
    written: list[list[str]] = [[] for _ in posts]
    for i, (batch, valid) in enumerate(_shown(plan, len(posts), mesh, "posts summarized")):
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
            samples=count,
        )
        of_each = to_host(responses).reshape(-1, count, data.response_tokens)
        for row, own in zip(batch["index"][:valid], of_each, strict=False):
            written[row] = [tokenizer.decode(response).strip() for response in own]
    return written


def scores(
    weights, infos: Sequence[Post | Article], summaries: Sequence[Sequence[str]], **setting
) -> Float[np.ndarray, "M N"]:
    """The reward model's score of each of N summaries of M texts, which are read once.

    `setting` is the model, tokenizer and data of `samples`.
    """
    return _of_each(read, weights, infos, summaries, **setting)


def score(
    weights, infos: Sequence[Post | Article], summaries: Sequence[str], **setting
) -> Float[np.ndarray, "M"]:
    """The score of one summary of each text; `setting` as for `scores`."""
    return scores(weights, infos, [[text] for text in summaries], **setting)[:, 0]


def log_likelihood(
    weights, infos: Sequence[Post | Article], summaries: Sequence[str], **setting
) -> Float[np.ndarray, "M"]:
    """Log-probability that a policy gives each summary with its end, nats at temperature 1."""
    return _of_each(response_logp, weights, infos, [[text] for text in summaries], **setting)[:, 0]


def margins(weights, pairs: Sequence[Pair], **setting) -> Float[np.ndarray, "M"]:
    """By how much each pair's preferred summary scores above the other; `setting` as for `scores`."""
    texts = [(pair.chosen, pair.rejected) for pair in pairs]
    both = scores(weights, [pair.info for pair in pairs], texts, **setting)
    return both[:, 0] - both[:, 1]


def _shown(plan: Plan, rows: int, mesh: Mesh, what: str) -> Iterator[tuple[Batch, int]]:
    """The batches of `plan.in_order()`, with a bar where they take long."""
    with progress_bar(rows, what, delay=SHOWN_AFTER, leave=False) as bar:
        for batch, valid in plan.in_order(row_multiple(mesh)):
            yield batch, valid
            bar.update(valid)


def _of_each(
    measure: Callable,
    weights,
    infos: Sequence[Post | Article],
    summaries: Sequence[Sequence[str]],
    *,
    model: ModelConfig,
    tokenizer: Tokenizer,
    data: DataConfig,
) -> Float[np.ndarray, "M N"]:
    mesh, count = jax.sharding.get_mesh(), len(summaries[0])
    plan = SummaryPlan(infos, summaries, tokenizer, data, batch_size(row_multiple(mesh), count))
    values = np.empty((len(infos), count), np.float32)
    for batch, valid in _shown(plan, len(infos), mesh, "texts read"):
        query, responses = (to_devices(batch[name], mesh) for name in ("query", "responses"))
        measured = measure(weights, model, query, responses, tokenizer.pad_id)
        values[batch["index"][:valid]] = to_host(measured)[:valid]
    return values

"""Who summarizes: the policies of a run, and baselines that cost nothing."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlhf_jax import inference
from rlhf_jax.config import FEW_SHOT_FRAME, Config, ModelConfig
from rlhf_jax.data.records import Post
from rlhf_jax.data.tldr import encode_few_shot, encode_response
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.model import params, pretrained, transformer
from rlhf_jax.run import checkpoint

BASELINES = ("reference", "title", "lead")  # texts that no network of the run writes

Score = Callable[[Sequence[Post], Sequence[Sequence[str]]], np.ndarray]  # rewards [M, N] of N summaries each


def summaries(
    config: Config,
    workdir: Path,
    tokenizer: Tokenizer,
    posts: Sequence[Post],
    train_posts: Sequence[Post],
    score: Score,
) -> tuple[dict[str, list[str]], dict[str, float]]:
    """Policy name → a summary of every post, greedy but for best-of-N. Needs a mesh set.

    "reference" is the author's own. `train_posts` give the examples of the base model's prompt;
    best-of-N chooses by `score`. Beside them, for the policies that are networks, the mean negative
    log-likelihood of a reference, in nats: the base model's is without examples.
    """
    model, mesh = pretrained.architecture(config.model), jax.sharding.get_mesh()
    models = {"sft": model, "ppo": model}
    if config.sft.bigger_pretrained:
        bigger = pretrained.architecture(config.model, config.sft.bigger_pretrained)
        models = {"sft": model, "sft_10x": bigger, "ppo": model}
    checkpoints = {stage: checkpoint.require(workdir, stage, "eval") for stage in models}

    def load(stage: str):
        like = params.abstract(transformer.specs(models[stage], tokenizer.vocab_size), mesh)
        return checkpoint.restore_params(*checkpoints[stage], like)

    written = {
        "reference": [post.summary for post in posts],
        "title": [post.title for post in posts],
        "lead": [lead(post, tokenizer, config.data.response_tokens) for post in posts],
    }
    nats = {}

    def surprise(weights, model: ModelConfig) -> float:
        setting: dict[str, Any] = {"model": model, "tokenizer": tokenizer, "data": config.data}
        return -float(inference.log_likelihood(weights, posts, written["reference"], **setting).mean())

    if config.model.pretrained:
        like = params.abstract(transformer.specs(model, tokenizer.vocab_size), mesh)
        base = pretrained.load(pretrained.folder_of(config.model.pretrained), like)
        written["base"] = few_shot(base, config, model, tokenizer, posts, train_posts[: config.eval.shots])
        nats["base"] = surprise(base, model)
        del base
    for stage in models:
        weights = load(stage)
        written[stage] = inference.summarize(
            weights, posts, model=models[stage], tokenizer=tokenizer, data=config.data
        )
        nats[stage] = surprise(weights, models[stage])
    best = best_of_n(load("sft"), config, model, tokenizer, posts, score)
    return written | {f"best_of_{config.eval.best_of}": best}, nats


def lead(post: Post, tokenizer: Tokenizer, response_tokens: int) -> str:
    """The first tokens of a post, as many as a summary may have."""
    return tokenizer.decode(encode_response(post.post, tokenizer, response_tokens)).strip()


def few_shot(
    base,
    config: Config,
    model: ModelConfig,
    tokenizer: Tokenizer,
    posts: Sequence[Post],
    examples: Sequence[Post],
) -> list[str]:
    """What the base model writes after examples of posts with summaries, up to the newline."""
    post_tokens = config.data.query_tokens + config.data.response_tokens + FEW_SHOT_FRAME
    limit = (len(examples) + 1) * post_tokens
    data = dataclasses.replace(config.data, query_tokens=limit, query_buckets=(limit,))
    encode = functools.partial(encode_few_shot, examples)
    texts = inference.summarize(base, posts, model=model, tokenizer=tokenizer, data=data, encode=encode)
    return [text.split("\n")[0] for text in texts]


def best_of_n(
    sft, config: Config, model: ModelConfig, tokenizer: Tokenizer, posts: Sequence[Post], score: Score
) -> list[str]:
    """Of N samples of the SFT policy for each post, the one that scores best."""
    samples = inference.samples(
        sft,
        posts,
        config.eval.best_of,
        model=model,
        tokenizer=tokenizer,
        data=config.data,
        temperature=config.eval.temperature,
        seed=config.seed,
    )
    best = score(posts, samples).argmax(axis=1)
    return [texts[k] for texts, k in zip(samples, best, strict=True)]

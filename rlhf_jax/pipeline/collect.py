"""Comparisons for the reward model: those that are there, or the simulated labelers' of the miniature.

In the miniature a run asks simulated labelers: the SFT policy writes summaries, pairs of them and of
others are made, and the labelers say which they prefer. That is kept as OpenAI's records in
`<workdir>/comparisons.jsonl`; nothing else of the gold judge reaches a model.
"""

from collections.abc import Sequence
from pathlib import Path

import jax

from rlhf_jax import inference
from rlhf_jax.config import Config, ModelConfig
from rlhf_jax.data import sources
from rlhf_jax.data.comparisons import TEMPERATURE, comparisons_of_run, halved
from rlhf_jax.data.mini.labelers import label
from rlhf_jax.data.mini.pairs import pairs
from rlhf_jax.data.records import Comparison, Post, write_jsonl
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.model import params, transformer
from rlhf_jax.run import checkpoint, hosts

SAMPLES = 2  # summaries that the SFT policy writes for a post


def collect(config: Config, workdir: Path, model: ModelConfig, tokenizer: Tokenizer) -> list[Comparison]:
    """The comparisons of a run, made on the first call in the miniature. Needs a mesh set."""
    file = workdir / "comparisons.jsonl"
    if config.data.source == "mini" and not hosts.from_first("comparisons", file.exists):
        made = _compare(config, workdir, model, tokenizer)
        if hosts.is_first():
            write_jsonl(file, made)
        hosts.gather("the comparisons")
    return comparisons_of_run(config, workdir)


def _compare(config: Config, workdir: Path, model: ModelConfig, tokenizer: Tokenizer) -> list[Comparison]:
    """`mini_pairs` labelled pairs in train; a twentieth of that, 500 at least, in valid1 and in valid2."""
    like = params.abstract(transformer.specs(model, tokenizer.vocab_size), jax.sharding.get_mesh())
    policy = checkpoint.restore_params(*checkpoint.require(workdir, "sft", "reward"), like)
    posts = halved(sources.load_posts(config.data, config.seed))
    half = len(posts["valid"]) // 2
    held_out = max(500, config.data.mini_pairs // 20)
    wanted = {
        "train": (posts["train"], config.data.mini_sampled, config.data.mini_pairs),
        "valid1": (posts["valid1"], half, held_out),
        "valid2": (posts["valid2"], half, held_out),
    }
    labelled = []
    for split, (candidates, sampled, count) in wanted.items():
        written = _samples(policy, candidates[:sampled], config, model, tokenizer)
        labelled += label(pairs(candidates, count, config.seed, written), config.seed, split)
    return labelled


def _samples(
    policy, posts: Sequence[Post], config: Config, model: ModelConfig, tokenizer: Tokenizer
) -> dict[str, list[tuple[str, str]]]:
    """Post id → (text, policy) of what the SFT policy wrote for it."""
    texts = inference.samples(
        policy,
        posts,
        SAMPLES,
        model=model,
        tokenizer=tokenizer,
        data=config.data,
        temperature=TEMPERATURE,
        seed=config.seed,
    )
    return {post.id: [(text, "sft") for text in own] for post, own in zip(posts, texts, strict=True)}

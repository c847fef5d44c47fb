"""Comparisons to train a reward model on: published ones, or collected in the miniature.

In the miniature the SFT policy writes summaries, pairs of them and of others are made, and the
simulated labelers say which they prefer. That is kept as OpenAI's records in
`<workdir>/comparisons.jsonl`; nothing else of the gold judge reaches a model.
"""

from collections.abc import Sequence
from pathlib import Path

from rlhf_jax import checkpoint, inference
from rlhf_jax.config import Config, ModelConfig
from rlhf_jax.data import sources
from rlhf_jax.data.comparisons import load_comparisons
from rlhf_jax.data.mini.pairs import pairs
from rlhf_jax.data.records import Comparison, Post, read_comparisons, write_jsonl
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.feedback.simulated import label
from rlhf_jax.mesh import make_mesh
from rlhf_jax.model import params, transformer

SAMPLES = 2  # summaries that the SFT policy writes for a post
TEMPERATURE = 1.0  # of these samples: more varied than PPO's, so that the reward model sees more


def collect(config: Config, workdir: Path, model: ModelConfig, tokenizer: Tokenizer) -> list[Comparison]:
    """The comparisons of a run, made on the first call in the miniature. Needs a mesh set."""
    file = workdir / "comparisons.jsonl"
    if config.data.source == "mini" and not file.exists():
        write_jsonl(file, _compare(config, workdir, model, tokenizer))
    return load(config, workdir)


def load(config: Config, workdir: Path) -> list[Comparison]:
    """The comparisons of a run that has collected them."""
    if config.data.source == "mini":
        return list(read_comparisons(workdir / "comparisons.jsonl"))
    return load_comparisons(config.data, config.reward.batches)


def _compare(config: Config, workdir: Path, model: ModelConfig, tokenizer: Tokenizer) -> list[Comparison]:
    """`mini_pairs` labelled pairs in train; a twentieth of that, 500 at least, in valid1 and in valid2."""
    like = params.abstract(transformer.specs(model, tokenizer.vocab_size), make_mesh(config.mesh))
    policy = checkpoint.restore_params(*checkpoint.require(workdir, "sft", "reward"), like)
    posts = sources.load_posts(config.data, config.seed)
    half = len(posts["valid"]) // 2
    held_out = max(500, config.data.mini_pairs // 20)
    wanted = {
        "train": (posts["train"], config.data.mini_sampled, config.data.mini_pairs),
        "valid1": (posts["valid"][:half], half, held_out),
        "valid2": (posts["valid"][half:], half, held_out),
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
    repeated = [post for post in posts for _ in range(SAMPLES)]
    texts = inference.summarize(
        policy,
        repeated,
        model=model,
        tokenizer=tokenizer,
        data=config.data,
        temperature=TEMPERATURE,
        seed=config.seed,
    )
    written: dict[str, list[tuple[str, str]]] = {}
    for post, text in zip(repeated, texts, strict=True):
        written.setdefault(post.id, []).append((text, "sft"))
    return written

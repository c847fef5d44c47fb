"""Stage eval: every policy summarizes the same unseen posts; what a judge and the metrics say of it."""

import dataclasses
import functools
import json
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from rlhf_jax import checkpoint, collect, inference
from rlhf_jax.config import Config, DataConfig
from rlhf_jax.data import sources
from rlhf_jax.data.comparisons import Pair, pairs_of
from rlhf_jax.data.mini.judge import has_key_fact, judge
from rlhf_jax.data.records import Post
from rlhf_jax.data.tldr import encode_few_shot
from rlhf_jax.data.tokenizer import load_tokenizer
from rlhf_jax.evaluation.copying import copying
from rlhf_jax.evaluation.preference import preference
from rlhf_jax.evaluation.report import write_report
from rlhf_jax.evaluation.rouge import rouge
from rlhf_jax.mesh import make_mesh
from rlhf_jax.metrics import read_metrics
from rlhf_jax.model import heads, params, pretrained, transformer
from rlhf_jax.workdir import read_seconds, write_text

AXES = ("overall", "accuracy", "coverage", "coherence")


def run(config: Config, workdir: Path) -> None:
    """Writes samples/test.jsonl, results.json and report.html."""
    start = time.monotonic()
    tokenizer = load_tokenizer(workdir)
    splits = {
        name: sources.filtered(posts, config.data, tokenizer)
        for name, posts in sources.load_posts(config.data, config.seed).items()
    }
    split = "test" if splits.get("test") else "valid"
    posts = splits[split][: config.eval.posts]
    notes = [] if split == "test" else ["There is no test split: the valid split stands in for it."]
    if len(posts) < config.eval.posts:
        notes.append(f"Only {len(posts)} of {config.eval.posts} posts asked for are there.")

    with jax.set_mesh(make_mesh(config.mesh)):
        networks = Networks(config, workdir, tokenizer)
        summaries = {"reference": [post.summary for post in posts]}
        summaries |= networks.summaries(posts, splits["train"])
        scores = {name: networks.score(posts, texts) for name, texts in summaries.items()}
        reward_model = networks.reward_model_quality(posts, scores["reference"])

    judged = {name: judge_all(posts, texts, config.data) for name, texts in summaries.items()}
    measure = {name: axes["overall"] if (axes := judged[name]) else scores[name] for name in summaries}
    results = {
        "split": split,
        "posts": len(posts),
        "judge": "gold judge" if config.data.source == "mini" else "reward model",
        "preference_over_reference": {
            name: dataclasses.asdict(preference(measure[name], measure["reference"]))
            for name in summaries
            if name != "reference"
        },
        "policies": {
            name: describe(posts, texts, scores[name], judged[name], tokenizer)
            for name, texts in summaries.items()
        },
        "reward_model": reward_model,
        "ppo": ppo_figures(read_metrics(workdir / "metrics" / "ppo.jsonl")),
        "notes": notes,
    }
    write_samples(workdir / "samples" / "test.jsonl", posts, summaries, scores, judged)
    seconds = read_seconds(workdir)
    results["seconds"] = seconds | {"eval": seconds.get("eval", 0.0) + time.monotonic() - start}
    write_text(workdir / "results.json", json.dumps(results, indent=1) + "\n")
    write_report(workdir)


class Networks:
    """The trained models of a run, and what each of them does with posts."""

    def __init__(self, config: Config, workdir: Path, tokenizer):
        self.config, self.workdir, self.tokenizer = config, workdir, tokenizer
        self.mesh = jax.sharding.get_mesh()
        self.model = pretrained.architecture(config.model)
        self.common = {"tokenizer": tokenizer, "data": config.data}
        like = params.abstract(heads.specs(self.model, tokenizer.vocab_size), self.mesh)
        self.reward_folder, self.reward_step = checkpoint.require(workdir, "reward", "eval")
        self.reward = checkpoint.restore_params(self.reward_folder, self.reward_step, like)

    def policy(self, stage: str, model=None):
        like = params.abstract(transformer.specs(model or self.model, self.tokenizer.vocab_size), self.mesh)
        return checkpoint.restore_params(*checkpoint.require(self.workdir, stage, "eval"), like)

    def score(self, infos: Sequence, texts: Sequence[str]) -> np.ndarray:
        return inference.score(self.reward, infos, texts, model=self.model, **self.common)

    def summaries(self, posts: Sequence[Post], train_posts: Sequence[Post]) -> dict[str, list[str]]:
        """Policy name → a summary of every post; greedy, but for best-of-N."""
        config = self.config
        sft = self.policy("sft")
        written = {}

        def greedy(weights, model):
            return inference.summarize(weights, posts, model=model, **self.common)

        if config.model.base:
            written["base"] = self.few_shot(posts, train_posts[: config.eval.shots])
        written["sft"] = greedy(sft, self.model)
        if config.sft.bigger_base:
            bigger = pretrained.architecture(config.model, config.sft.bigger_base)
            written["sft_10x"] = greedy(self.policy("sft_10x", bigger), bigger)
        written["ppo"] = greedy(self.policy("ppo"), self.model)
        written[f"best_of_{config.eval.best_of}"] = self.best_of_n(sft, posts)
        return written

    def few_shot(self, posts: Sequence[Post], examples: Sequence[Post]) -> list[str]:
        """The base model, prompted with examples; its summary ends at the newline."""
        config = self.config
        like = params.abstract(transformer.specs(self.model, self.tokenizer.vocab_size), self.mesh)
        base = pretrained.load(pretrained.folder_of(config.model.base), like)
        length = (len(examples) + 1) * (config.data.query_tokens + config.data.response_tokens + 8)
        data = dataclasses.replace(config.data, query_tokens=length, query_buckets=(length,))
        encode = functools.partial(encode_few_shot, examples)
        written = inference.summarize(
            base, posts, model=self.model, tokenizer=self.tokenizer, data=data, encode=encode
        )
        return [text.split("\n")[0] for text in written]

    def best_of_n(self, sft, posts: Sequence[Post]) -> list[str]:
        """Of N samples of the SFT policy, the one that the reward model likes best."""
        options = self.config.eval
        repeated = [post for post in posts for _ in range(options.best_of)]
        texts = inference.summarize(
            sft,
            repeated,
            model=self.model,
            temperature=options.temperature,
            seed=self.config.seed,
            **self.common,
        )
        best = self.score(repeated, texts).reshape(len(posts), options.best_of).argmax(axis=1)
        return [texts[i * options.best_of + b] for i, b in enumerate(best)]

    def reward_model_quality(self, posts: Sequence[Post], reference_scores: np.ndarray) -> dict:
        """Agreement on held-out pairs, and where the held-out references score."""
        comparisons = collect.load(self.config, self.workdir)
        pairs = pairs_of(comparisons, "valid2")
        margins = inference.margins(self.reward, pairs, model=self.model, **self.common)
        quality = {
            "valid_accuracy": float(np.mean(margins > 0)),
            "pairs": len(pairs),
            "reference_mean": float(reference_scores.mean()),
            "reference_stderr": float(reference_scores.std() / np.sqrt(len(posts))),
        }
        if self.config.data.source == "mini":
            gaps = np.array([gold_gap(pair) for pair in pairs])
            quality["gold_accuracy"] = float(np.mean((margins > 0) == (gaps > 0)))
        return quality


def gold_gap(pair: Pair) -> float:
    """By how much the gold judge scores the summary above that a labeler preferred."""
    assert isinstance(pair.info, Post)
    return judge(pair.info, pair.chosen).overall - judge(pair.info, pair.rejected).overall


def judge_all(posts: Sequence[Post], texts: Sequence[str], data: DataConfig) -> dict[str, np.ndarray] | None:
    """The gold judge's scores [N] by axis, and whether the key fact is told; None for real data."""
    if data.source != "mini":
        return None
    scores = [judge(post, text)._asdict() for post, text in zip(posts, texts, strict=True)]
    judged = {axis: np.array([score[axis] for score in scores]) for axis in AXES}
    key_fact = np.array([has_key_fact(post, text) for post, text in zip(posts, texts, strict=True)])
    return judged | {"key_fact": key_fact}


def describe(posts, texts, scores, judged, tokenizer) -> dict:
    """The means of a policy over the posts."""
    described = {
        "rouge": rouge(texts, [post.summary for post in posts]),
        "tokens": float(np.mean([len(tokenizer.encode(" " + text)) + 1 for text in texts])),
        "words": float(np.mean([len(text.split()) for text in texts])),
        "copying": float(
            np.mean([copying(text, post.post) for post, text in zip(posts, texts, strict=True)])
        ),
        "reward": float(scores.mean()),
    }
    if judged:
        described["gold"] = {axis: float(judged[axis].mean()) for axis in AXES}
        described["key_fact"] = float(judged["key_fact"].mean())
    return described


def ppo_figures(records: list[dict[str, float]]) -> dict[str, float]:
    """Where PPO started and where it ended; the end is the mean of the last tenth of the iterations."""
    last = records[-max(1, len(records) // 10) :]

    def end(name: str) -> float:
        return float(np.mean([record[name] for record in last]))

    return {
        "kl": end("objective/kl"),
        "score_start": records[0]["objective/score"],
        "score_end": end("objective/score"),
        "entropy": end("objective/entropy"),
        "eos_rate": end("objective/eos_rate"),
        "episodes": int(records[-1]["episodes"]),
        "episodes_per_second": float(np.median([record["episodes_per_second"] for record in records])),
    }


def write_samples(path: Path, posts, summaries, scores, judged) -> None:
    """One JSON object a post: the post, and every policy's summary with its scores."""
    lines = []
    for i, post in enumerate(posts):
        written = {
            name: {
                "text": texts[i],
                "score": float(scores[name][i]),
                "gold": float(judged[name]["overall"][i]) if judged[name] else None,
                "key_fact": bool(judged[name]["key_fact"][i]) if judged[name] else None,
            }
            for name, texts in summaries.items()
        }
        fields = {name: getattr(post, name) for name in ("id", "subreddit", "title", "post", "summary")}
        lines.append(json.dumps({"post": fields, "summaries": written}, ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n")

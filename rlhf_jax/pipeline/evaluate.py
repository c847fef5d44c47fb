"""Stage eval: every policy summarizes the same unseen posts; what a judge and the metrics say of it."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from rlhf_jax import inference
from rlhf_jax.config import Config
from rlhf_jax.data import sources
from rlhf_jax.data.comparisons import Pair, comparisons_of_run, pairs_of
from rlhf_jax.data.mini.judge import has_key_fact, judge
from rlhf_jax.data.records import Post, RecordError, write_jsonl
from rlhf_jax.data.tldr import response_text
from rlhf_jax.data.tokenizer import Tokenizer, load_tokenizer
from rlhf_jax.evaluation import likert, policies
from rlhf_jax.evaluation.agreement import agreement
from rlhf_jax.evaluation.blind import blind_margins
from rlhf_jax.evaluation.copying import copying, longest_run
from rlhf_jax.evaluation.length_control import preference_at_equal_length
from rlhf_jax.evaluation.likert import AXES
from rlhf_jax.evaluation.preference import outcomes, preference
from rlhf_jax.evaluation.rouge import rouge
from rlhf_jax.files import write_json
from rlhf_jax.mesh import make_mesh
from rlhf_jax.model import heads, params, pretrained
from rlhf_jax.report.page import write_report
from rlhf_jax.run import checkpoint, hosts
from rlhf_jax.run.workdir import read_seconds
from rlhf_jax.training.metrics import read_metrics

Texts = dict[str, list[str]]  # policy name → a summary of every post
Scores = dict[str, Float[np.ndarray, "N"]]  # policy name → a number for every post
Judged = dict[str, dict[str, np.ndarray]]  # policy name → axis → a rating of every post


def run(config: Config, workdir: Path) -> None:
    """Writes samples/test.jsonl, results.json and report.html."""
    start = time.monotonic()
    tokenizer = load_tokenizer(workdir)
    splits = {
        name: sources.filtered(posts, config.data, tokenizer)
        for name, posts in sources.load_posts(config.data, config.seed).items()
    }
    comparisons = comparisons_of_run(config, workdir)
    pairs = {name: pairs_of(comparisons, name) for name in ("train", "valid1", "valid2")}
    notes: list[str] = []
    split = choose_split(splits, "test", "valid", notes)
    held_out = pairs[choose_split(pairs, "valid2", "valid1", notes)]
    posts = splits[split][: config.eval.posts]
    if len(posts) < config.eval.posts:
        notes.append(f"Only {len(posts)} of {config.eval.posts} posts asked for are there.")

    model, mesh = pretrained.architecture(config.model), make_mesh(config.mesh)
    with jax.set_mesh(mesh):
        like = params.abstract(heads.specs(model, tokenizer.vocab_size), mesh)
        reward = checkpoint.restore_params(*checkpoint.require(workdir, "reward", "eval"), like)
        setting: dict[str, Any] = {"model": model, "tokenizer": tokenizer, "data": config.data}

        def score(posts: Sequence[Post], texts: Sequence[Sequence[str]]) -> np.ndarray:
            return inference.scores(reward, posts, texts, **setting)

        texts, reference_nats = policies.summaries(config, workdir, tokenizer, posts, splits["train"], score)
        each = score(posts, list(zip(*texts.values(), strict=True)))  # [posts, policies]
        scores = dict(zip(texts, each.T, strict=True))
        margins = inference.margins(reward, held_out, **setting)
    if not hosts.is_first():
        return

    gold = config.data.source == "mini"
    judged = {name: judge_all(posts, texts[name]) for name in texts} if gold else {}
    measure = {name: judged[name]["overall"] for name in texts} if gold else scores
    results: dict[str, Any] = {
        "split": split,
        "posts": len(posts),
        "judge": "gold judge" if gold else "reward model",
        "preference_over_reference": {
            name: dataclasses.asdict(preference(measure[name], measure["reference"]))
            for name in texts
            if name != "reference"
        },
        "policies": policy_figures(posts, texts, scores, measure, judged, tokenizer),
        "likert": likert.figures(rated(posts, texts, judged)) if gold else None,
        "reward_model": reward_model_figures(margins, pairs["train"], held_out, scores["reference"], gold),
        "ppo": ppo_figures(read_metrics(workdir / "metrics" / "ppo.jsonl")),
        "notes": notes,
    }
    for name, nats in reference_nats.items():
        results["policies"][name]["reference_nats"] = nats
    write_samples(workdir / "samples" / "test.jsonl", posts, texts, scores, judged)
    seconds = read_seconds(workdir)
    results["seconds"] = seconds | {"eval": seconds.get("eval", 0.0) + time.monotonic() - start}
    write_json(workdir / "results.json", results)
    write_report(workdir)


def choose_split(splits: dict[str, list], wanted: str, other: str, notes: list[str]) -> str:
    """`wanted`, or `other` where the data have none, which is noted."""
    if splits.get(wanted):
        return wanted
    notes.append(f"There is no {wanted} split: the {other} split stands in for it.")
    return other


def judge_all(posts: Sequence[Post], texts: Sequence[str]) -> dict[str, np.ndarray]:
    """The gold judge's ratings [N] by axis, and under "key_fact" whether the key fact is told."""
    ratings = [judge(post, text) for post, text in zip(posts, texts, strict=True)]
    judged = {axis: np.array([getattr(rating, axis) for rating in ratings]) for axis in AXES}
    key_fact = [has_key_fact(post, text) for post, text in zip(posts, texts, strict=True)]
    return judged | {"key_fact": np.array(key_fact)}


def rated(posts: Sequence[Post], texts: Texts, judged: Judged) -> list[likert.Rated]:
    """The gold judge's ratings of every summary."""
    return [
        likert.Rated(post.id, name, len(text.split()), {axis: judged[name][axis][i] for axis in AXES})
        for name in texts
        for i, (post, text) in enumerate(zip(posts, texts[name], strict=True))
    ]


def policy_figures(
    posts: Sequence[Post], texts: Texts, scores: Scores, measure: Scores, judged: Judged, tokenizer: Tokenizer
) -> dict[str, dict]:
    """Policy name → means over the posts, and how often it would be preferred at the references' length.

    The latter for networks alone: nearly all titles are shorter than the references and nearly all
    leads longer, so that theirs would be extrapolated.
    """
    tokens = {
        name: np.array([len(tokenizer.encode(response_text(text))) + 1 for text in texts[name]])
        for name in texts
    }
    compared = [name for name in texts if name not in policies.BASELINES]
    equal_length = preference_at_equal_length(
        {name: outcomes(measure[name], measure["reference"]) for name in compared},
        {name: np.log(tokens[name] / tokens["reference"]) for name in compared},
    )
    figures = {}
    for name, written in texts.items():
        sources = [post.post for post in posts]
        copied = [copying(*each) for each in zip(written, sources, strict=True)]
        runs = [longest_run(*each) for each in zip(written, sources, strict=True)]
        figures[name] = {
            "preference_at_equal_length": equal_length.get(name),
            "rouge": {kind: float(f1.mean()) for kind, f1 in rouge(written, texts["reference"]).items()},
            "tokens": float(tokens[name].mean()),
            "words": float(np.mean([len(text.split()) for text in written])),
            "copying": float(np.mean(copied)),
            "copied_run": float(np.mean(runs)),
            "reward": float(scores[name].mean()),
        }
        if judged:
            figures[name]["gold"] = {axis: float(judged[name][axis].mean()) for axis in AXES}
            figures[name]["key_fact"] = float(judged[name]["key_fact"].mean())
    return figures


def reward_model_figures(
    margins: Float[np.ndarray, "N"],
    train: Sequence[Pair],
    held_out: Sequence[Pair],
    reference_scores: Float[np.ndarray, "M"],
    gold: bool,
) -> dict[str, Any]:
    """How often the reward model is right about held-out pairs, and where held-out references score.

    `margins` are its score of each pair's preferred summary less that of the other. The scorer that
    is blind to the post is held to the gold judge, as the model is; without a judge, to the labels.
    """
    preferred = np.ones(len(held_out))
    better = np.array([gold_gap(pair) for pair in held_out]) if gold else preferred
    posts = [pair.info.id for pair in held_out]
    accuracies = {
        "valid_accuracy": agreement(margins, preferred, posts),
        "gold_accuracy": agreement(margins, better, posts) if gold else None,
        "blind_accuracy": agreement(blind_margins(train, held_out), better, posts),
    }
    return {
        **{name: estimate and estimate["value"] for name, estimate in accuracies.items()},
        "pairs": len(held_out),
        "reference_mean": float(reference_scores.mean()),
        "reference_stderr": float(reference_scores.std() / np.sqrt(len(reference_scores))),
        "intervals": {name: estimate for name, estimate in accuracies.items() if estimate},
    }


def gold_gap(pair: Pair) -> float:
    """By how much the gold judge scores the summary above that a labeler preferred."""
    assert isinstance(pair.info, Post)
    return judge(pair.info, pair.chosen).overall - judge(pair.info, pair.rejected).overall


def ppo_figures(records: list[dict[str, float]]) -> dict[str, float]:
    """Where PPO started and where it ended; the end is the mean of the last tenth of the iterations."""
    if not records:
        raise RecordError("metrics/ppo.jsonl holds no step: run --stage=ppo again")
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


def write_samples(path: Path, posts: Sequence[Post], texts: Texts, scores: Scores, judged: Judged) -> None:
    """One JSON object a post: the post, and every policy's summary with its scores."""
    records = []
    for i, post in enumerate(posts):
        written = {
            name: {
                "text": texts[name][i],
                "score": float(scores[name][i]),
                "gold": float(judged[name]["overall"][i]) if judged else None,
                "key_fact": bool(judged[name]["key_fact"][i]) if judged else None,
            }
            for name in texts
        }
        fields = {name: getattr(post, name) for name in ("id", "subreddit", "title", "post", "summary")}
        records.append({"post": fields, "summaries": written})
    write_jsonl(path, records)

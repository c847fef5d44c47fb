"""5. Evaluation: every policy responds to the same unseen records; what a judge and the metrics say of it."""

import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from rlhf_jax import inference
from rlhf_jax.config import Config
from rlhf_jax.data import task as tasks
from rlhf_jax.data.comparisons import Pair, comparisons_of_run, pairs_of
from rlhf_jax.data.records import Record, RecordError, plain, write_jsonl
from rlhf_jax.data.task import Judge, Task
from rlhf_jax.data.tokenizer import Tokenizer, load_tokenizer
from rlhf_jax.data.visible import has_text
from rlhf_jax.evaluation import alterations, judges, likert, policies
from rlhf_jax.evaluation.blind import blind_margins
from rlhf_jax.evaluation.choices import agreement
from rlhf_jax.evaluation.copying import copying, longest_run
from rlhf_jax.evaluation.diversity import diversity
from rlhf_jax.evaluation.errors import error_shares
from rlhf_jax.evaluation.length_control import preference_at_equal_length
from rlhf_jax.evaluation.likert import AXES
from rlhf_jax.evaluation.preference import outcomes, preference
from rlhf_jax.evaluation.rouge import rouge
from rlhf_jax.files import write_json
from rlhf_jax.mesh import make_mesh
from rlhf_jax.report.page import write_report
from rlhf_jax.run import hosts
from rlhf_jax.run.workdir import read_seconds
from rlhf_jax.training import inputs
from rlhf_jax.training.metrics import read_metrics

Texts = dict[str, list[str]]  # policy name → a response to every record
Scores = dict[str, Float[np.ndarray, "N"]]  # policy name → a number for every record
Judged = dict[str, dict[str, np.ndarray]]  # policy name → axis → a rating of every record

CHANGED_PAIRS = 300  # that the reward model is shown of each kind of change


def run(config: Config, workdir: Path) -> None:
    """Writes samples/test.jsonl, results.json and report.html."""
    start = time.monotonic()
    task, tokenizer = tasks.find(config.data, config.seed), load_tokenizer(workdir)
    comparisons = comparisons_of_run(config, workdir)
    base = config.model.pretrained
    bases = {"model.pretrained": base} if base else {}
    every = task.records()
    unseen = {f"posts ({split})": every[split] for split in ("valid", "test") if split in every}
    inputs.hold(workdir, "eval", tokenizer, ("sft", "reward"), bases, comparisons=comparisons, **unseen)
    pairs = {name: pairs_of(comparisons, name) for name in ("train", "valid1", "valid2")}
    notes: list[str] = []
    splits = {
        name: task.filtered(compared(records, name, notes), tokenizer) for name, records in every.items()
    }
    split = choose_split(splits, "test", "valid", notes)
    held_out = pairs[choose_split(pairs, "valid2", "valid1", notes)]
    records = splits[split][: config.eval.posts]
    if not records:
        raise RecordError("eval: no record of split test or valid has a reference to compare with")
    if len(records) < config.eval.posts:
        notes.append(f"Only {len(records)} of {config.eval.posts} posts asked for are there.")

    with jax.set_mesh(make_mesh(config.mesh)):
        reward = inference.load(workdir, "reward", config=config)
        examples = splits["train"][: config.eval.shots]
        texts, reference_nats = policies.responses(
            config, workdir, task, tokenizer, records, examples, reward.scores
        )
        each = reward.scores(records, list(zip(*texts.values(), strict=True)))  # [records, policies]
        scores = dict(zip(texts, each.T, strict=True))
        margins = reward.margins(held_out)
        changed = alterations.changed(task, splits[split], CHANGED_PAIRS)
        by_change = {kind: (pairs, reward.margins(pairs)) for kind, pairs in changed.items()}
    if not hosts.is_first():
        return

    judge, labelers = task.judge, task.labelers
    judged = {name: judges.ratings(judge, records, texts[name]) for name in texts} if judge else {}
    measure = {name: judged[name]["overall"] for name in texts} if judge else scores
    free = {policies.REFERENCE, *task.baselines(records[:1], tokenizer)}
    others = [name for name in texts if name != policies.REFERENCE]
    results: dict[str, Any] = {
        "split": split,
        "posts": len(records),
        "judge": "gold judge" if judge else "reward model",
        "people": "simulated people" if labelers else "people",
        "preference_over_reference": {
            name: preference(outcomes(measure[name], measure["reference"])) for name in others
        },
        "policies": policy_figures(records, texts, scores, measure, judged, tokenizer, task, free),
        "likert": likert.figures(rated(records, texts, judged)) if judge else None,
        "reward_model": reward_model_figures(margins, pairs["train"], held_out, scores["reference"], judge)
        | {"by_change": right_by_change(by_change)},
        "ppo": ppo_figures(read_metrics(workdir / "metrics" / "ppo.jsonl")),
        "notes": notes,
    }
    if labelers:
        ask = judges.simulated(labelers)
        results["people_over_reference"] = {
            name: preference(ask(records, texts[name], texts["reference"])) for name in others
        }
    for name, nats in reference_nats.items():
        results["policies"][name]["reference_nats"] = nats
    write_samples(workdir / "samples" / "test.jsonl", records, texts, scores, judged)
    seconds = read_seconds(workdir)
    results["seconds"] = seconds | {"eval": seconds.get("eval", 0.0) + time.monotonic() - start}
    write_json(workdir / "results.json", results)
    write_report(workdir)


def compared(records: Sequence[Record], split: str, notes: list[str]) -> Sequence[Record]:
    """The records that have a reference to compare with; how many have none is noted."""
    found = [record for record in records if has_text(record.reference)]
    if len(found) < len(records):
        notes.append(
            f"Of {len(records)} records of split {split}, {len(records) - len(found)} have no reference."
        )
    return found


def choose_split(splits: Mapping[str, Sequence], wanted: str, other: str, notes: list[str]) -> str:
    """`wanted`, or `other` where the data have none, which is noted."""
    if splits.get(wanted):
        return wanted
    notes.append(f"There is no {wanted} split: the {other} split stands in for it.")
    return other


def rated(records: Sequence[Record], texts: Texts, judged: Judged) -> list[likert.Rated]:
    """The gold judge's ratings of every response."""
    return [
        likert.Rated(record.id, name, len(text.split()), {axis: judged[name][axis][i] for axis in AXES})
        for name in texts
        for i, (record, text) in enumerate(zip(records, texts[name], strict=True))
    ]


def policy_figures(
    records: Sequence[Record],
    texts: Texts,
    scores: Scores,
    measure: Scores,
    judged: Judged,
    tokenizer: Tokenizer,
    task: Task,
    free: Collection[str],
) -> dict[str, dict]:
    """Policy name → means over the records, and how often it would be preferred at the references' length.

    The latter for networks alone, not for texts that are `free`: nearly all titles are shorter than the
    references and nearly all leads longer, so that theirs would be extrapolated.
    """
    tokens = {
        name: np.array([len(tokenizer.encode(task.response(text))) + 1 for text in texts[name]])
        for name in texts
    }
    compared = [name for name in texts if name not in free]
    equal_length = preference_at_equal_length(
        {name: outcomes(measure[name], measure["reference"]) for name in compared},
        {name: np.log(tokens[name] / tokens["reference"]) for name in compared},
    )
    figures, sources = {}, [record.text for record in records]
    ideals = [task.ideal(record) for record in records]
    for name, written in texts.items():
        figures[name] = {
            "preference_at_equal_length": equal_length.get(name),
            "rouge": {kind: float(f1.mean()) for kind, f1 in rouge(written, texts["reference"]).items()},
            "tokens": float(tokens[name].mean()),
            "words": float(np.mean([len(text.split()) for text in written])),
            "copying": float(np.mean(list(map(copying, written, sources)))),
            "copied_run": float(np.mean(list(map(longest_run, written, sources)))),
            "reward": float(scores[name].mean()),
            "diversity": diversity(task, records, written, ideals),
        }
        if errors := error_shares(task, records, written):
            figures[name]["errors"] = errors
        if judged:
            means = {what: float(values.mean()) for what, values in judged[name].items()}
            figures[name]["gold"] = {axis: means.pop(axis) for axis in AXES}
            figures[name] |= means
    return figures


def reward_model_figures(
    margins: Float[np.ndarray, "N"],
    train: Sequence[Pair],
    held_out: Sequence[Pair],
    reference_scores: Float[np.ndarray, "M"],
    judge: Judge | None,
) -> dict[str, Any]:
    """How often the reward model is right about held-out pairs, and where held-out references score.

    `margins` are its score of each pair's preferred summary less that of the other. `valid_accuracy` is held
    to what people preferred, `gold_accuracy` to the gold judge. So is `blind_accuracy`, of the scorer that
    does not see the post; without a judge, to people.
    """
    preferred = np.ones(len(held_out))
    better = judges.gaps(judge, held_out) if judge else preferred
    posts = [pair.info.id for pair in held_out]
    accuracies = {
        "valid_accuracy": agreement(margins, preferred, posts),
        "gold_accuracy": agreement(margins, better, posts) if judge else None,
        "blind_accuracy": agreement(blind_margins(train, held_out), better, posts),
    }
    return {
        **{name: estimate and estimate["value"] for name, estimate in accuracies.items()},
        "pairs": len(held_out),
        "reference_mean": float(reference_scores.mean()),
        "reference_stderr": float(reference_scores.std() / np.sqrt(len(reference_scores))),
        "intervals": {name: estimate for name, estimate in accuracies.items() if estimate},
    }


def right_by_change(
    by_change: Mapping[str, tuple[Sequence[Pair], Float[np.ndarray, "N"]]],
) -> dict[str, dict[str, float]]:
    """Kind of change → how often the true one of two responses scores higher, and of how many pairs."""
    return {
        kind: agreement(margins, np.ones(len(pairs)), [pair.info.id for pair in pairs])
        for kind, (pairs, margins) in by_change.items()
    }


def ppo_figures(records: list[dict[str, float]]) -> dict[str, float]:
    """Where PPO started and where it ended; the end is the mean of the last tenth of the iterations."""
    if not records:
        raise RecordError("metrics/ppo.jsonl holds no step: `rlhf-jax run --stage=ppo` trains it again")
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


def write_samples(
    path: Path, records: Sequence[Record], texts: Texts, scores: Scores, judged: Judged
) -> None:
    """One JSON object a record: the record, and every policy's response with its scores."""
    lines = []
    for i, record in enumerate(records):
        written = {
            name: {
                "text": texts[name][i],
                "score": float(scores[name][i]),
                "gold": float(judged[name]["overall"][i]) if judged else None,
                "key_fact": bool(judged[name]["key_fact"][i]) if "key_fact" in judged.get(name, ()) else None,
            }
            for name in texts
        }
        lines.append({"post": plain(record), "summaries": written})
    write_jsonl(path, lines)

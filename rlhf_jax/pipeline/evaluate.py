"""5. Evaluation: every policy responds to the same unseen records; what a judge and the metrics say of it."""

import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from rlhf_jax import inference
from rlhf_jax.config import MODEL, Config
from rlhf_jax.data import task as tasks
from rlhf_jax.data.comparisons import Pair, comparisons_of_run, pairs_of
from rlhf_jax.data.record_json import plain, write_jsonl
from rlhf_jax.data.records import Record, RecordError
from rlhf_jax.data.task import Judge, Task
from rlhf_jax.data.tokenizer import Tokenizer
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
from rlhf_jax.pipeline.own_reward import OwnReward
from rlhf_jax.report.figures import figures
from rlhf_jax.report.page import write_report
from rlhf_jax.run import hosts, steps
from rlhf_jax.run.stored_config import flatten, to_dict
from rlhf_jax.run.workdir import read_seconds
from rlhf_jax.training import inputs
from rlhf_jax.training.metrics import read_metrics, show_results
from rlhf_jax.training.tracking import Table

SHOWN = 100  # records of the table that TensorBoard and a tracker have

Texts = dict[str, list[str]]  # policy name → a response to every record
Scores = dict[str, Float[np.ndarray, "N"]]  # policy name → a number for every record
Judged = dict[str, dict[str, np.ndarray]]  # policy name → axis → a rating of every record

CHANGED_PAIRS = 300  # that the reward model is shown of each kind of change


def run(config: Config, workdir: Path) -> None:
    """Writes samples/test.jsonl, results.json and report.html."""
    start = time.monotonic()
    task = tasks.find(config.data, config.seed)
    tokenizer = task.load_tokenizer(workdir)
    with_model = MODEL in config.ppo.rewards or bool(steps.finished(workdir / "checkpoints" / "reward"))
    comparisons = comparisons_of_run(config, workdir) if with_model else []
    base = config.model.pretrained
    bases = {"model.pretrained": base} if base else {}
    every = task.records()
    unseen = {f"posts ({split})": every[split] for split in ("valid", "test") if split in every}
    networks = ("sft", "reward") if with_model else ("sft",)
    read = unseen | ({"comparisons": comparisons} if with_model else {})
    inputs.hold(workdir, "eval", tokenizer, networks, bases, **read)
    pairs = {name: pairs_of(comparisons, name) for name in ("train", "valid1", "valid2")}
    notes: list[str] = []
    splits = {
        name: task.filtered(compared(records, name, notes), tokenizer) for name, records in every.items()
    }
    split = choose_split(splits, "test", "valid", notes)
    held_out = pairs[choose_split(pairs, "valid2", "valid1", notes)] if with_model else []
    records = splits[split][: config.eval.posts]
    if not records:
        raise RecordError("eval: no record of split test or valid is left to respond to")
    anchor = policies.REFERENCE if has_text(records[0].reference) else "sft"  # whom all are compared with
    if len(records) < config.eval.posts:
        notes.append(f"Only {len(records)} of {config.eval.posts} {task.words.prompts} asked for are there.")

    with jax.set_mesh(make_mesh(config.mesh)), OwnReward(config.ppo, task) as own:
        reward = inference.load(workdir, "reward", config=config) if with_model else None
        examples = splits["train"][: config.eval.shots]
        seed = f"{config.seed}/eval"

        def score(records: Sequence[Record], responses: Sequence[Sequence[str]]) -> np.ndarray:
            return own.total(own.of_each(records, responses, reward, seed))

        texts, reference_nats = policies.responses(config, workdir, task, tokenizer, records, examples, score)
        written = list(zip(*texts.values(), strict=True))  # [records, policies]
        scores = dict(zip(texts, reward.scores(records, written).T, strict=True)) if reward else {}
        rewards = {}
        if not config.ppo.is_by_model_alone:
            rewards = own.of_each(records, written, reward, seed)
        margins = reward.margins(held_out) if reward else None
        by_change = {}
        if reward:
            changed = alterations.changed(task, splits[split], CHANGED_PAIRS)
            by_change = {kind: (pairs, reward.margins(pairs)) for kind, pairs in changed.items()}
    if not hosts.is_first():
        return

    judge, labelers = task.judge, task.labelers
    judged = {name: judges.ratings(judge, records, texts[name]) for name in texts} if judge else {}
    judged_by, measure = "reward model", scores
    if judge:
        judged_by, measure = "gold judge", {name: judged[name]["overall"] for name in texts}
    elif not reward:
        judged_by, measure = "own reward", dict(zip(texts, own.total(rewards).T, strict=True))
    each = {
        policy: {name: values[:, k] for name, values in rewards.items()} for k, policy in enumerate(texts)
    }
    free = {policies.REFERENCE, *task.baselines(records[:1], tokenizer)}
    others = [name for name in texts if name != anchor]
    results: dict[str, Any] = {
        "split": split,
        "posts": len(records),
        "words": task.words._asdict(),
        "judge": judged_by,
        "people": "simulated people" if labelers else "people",
        f"preference_over_{anchor}": {
            name: preference(outcomes(measure[name], measure[anchor])) for name in others
        },
        "policies": policy_figures(
            records, texts, scores, measure, judged, tokenizer, task, free, anchor, each
        ),
        "likert": likert.figures(rated(records, texts, judged)) if judge else None,
        "reward_model": None
        if margins is None
        else reward_model_figures(margins, pairs["train"], held_out, scores.get(policies.REFERENCE), judge)
        | {"by_change": right_by_change(by_change)},
        "ppo": ppo_figures(read_metrics(workdir / "metrics" / "ppo.jsonl")) if "ppo" in texts else {},
        "notes": notes,
    }
    if labelers:
        ask = judges.simulated(labelers)
        results[f"people_over_{anchor}"] = {
            name: preference(ask(records, texts[name], texts[anchor])) for name in others
        }
    for name, nats in reference_nats.items():
        results["policies"][name]["reference_nats"] = nats
    write_samples(workdir / "samples" / "test.jsonl", records, texts, scores, judged, each)
    seconds = read_seconds(workdir)
    results["seconds"] = seconds | {"eval": seconds.get("eval", 0.0) + time.monotonic() - start}
    write_json(workdir / "results.json", results)
    write_report(workdir)
    values = {name: estimate["value"] for name, estimate in figures(results).items()}
    fields = flatten(to_dict(config))
    show_results(workdir, "eval", config.track, fields, values, table_of_samples(records, texts))


def compared(records: Sequence[Record], split: str, notes: list[str]) -> Sequence[Record]:
    """The records that have a reference to compare with; how many have none is noted.

    Where none of them has one, policies are compared with each other, on all of them.
    """
    found = [record for record in records if has_text(record.reference)]
    if not found:
        return records
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
    anchor: str,
    rewards: Mapping[str, Scores] = {},
) -> dict[str, dict]:
    """Policy name → means over the records, and how often it would be preferred at the length of `anchor`.

    The latter for networks alone, not for texts that are `free`: nearly all titles are shorter than the
    references and nearly all leads longer, so that theirs would be extrapolated. `rewards` of one's own are
    by policy and name.
    """
    encoded = {name: task.encode_responses(texts[name], tokenizer, sys.maxsize)[0] for name in texts}
    tokens = {name: np.array([len(ids) for ids in encoded[name]]) for name in texts}
    compared = [name for name in texts if name not in free and name != anchor]
    equal_length = preference_at_equal_length(
        {name: outcomes(measure[name], measure[anchor]) for name in compared},
        {name: np.log(tokens[name] / tokens[anchor]) for name in compared},
    )
    figures: dict[str, dict] = {}
    sources, references = [record.text for record in records], texts.get(policies.REFERENCE)
    ideals = [task.ideal(record) for record in records]
    for name, written in texts.items():
        figures[name] = {
            "preference_at_equal_length": equal_length.get(name),
            "rouge": references
            and {kind: float(f1.mean()) for kind, f1 in rouge(written, references).items()},
            "tokens": float(tokens[name].mean()),
            "words": float(np.mean([len(text.split()) for text in written])),
            "copying": float(np.mean(list(map(copying, written, sources)))),
            "copied_run": float(np.mean(list(map(longest_run, written, sources)))),
            "diversity": diversity(task, records, written, ideals),
        }
        if scores:
            figures[name]["reward"] = float(scores[name].mean())
        if rewards:
            figures[name]["rewards"] = {what: float(x.mean()) for what, x in rewards[name].items()}
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
    reference_scores: Float[np.ndarray, "M"] | None,
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
        **reference_figures(reference_scores),
        "intervals": {name: estimate for name, estimate in accuracies.items() if estimate},
    }


def reference_figures(scores: Float[np.ndarray, "M"] | None) -> dict[str, float]:
    """Where held-out references score, if there are any."""
    if scores is None:
        return {}
    stderr = float(scores.std() / np.sqrt(len(scores)))
    return {"reference_mean": float(scores.mean()), "reference_stderr": stderr}


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


def table_of_samples(records: Sequence[Record], texts: Texts) -> Table:
    """The first records, and every policy's response beside them."""
    shown = records[:SHOWN]
    rows = zip(
        (record.text for record in shown), *(written[:SHOWN] for written in texts.values()), strict=True
    )
    return Table(["post", *texts], [[text.strip() for text in row] for row in rows])


def write_samples(
    path: Path,
    records: Sequence[Record],
    texts: Texts,
    scores: Scores,
    judged: Judged,
    rewards: Mapping[str, Scores] = {},
) -> None:
    """One JSON object a record: the record, and every policy's response with its scores."""
    lines = []
    for i, record in enumerate(records):
        written = {
            name: {
                "text": texts[name][i],
                "score": float(scores[name][i]) if scores else None,
                "gold": float(judged[name]["overall"][i]) if judged else None,
                "key_fact": bool(judged[name]["key_fact"][i]) if "key_fact" in judged.get(name, ()) else None,
            }
            | ({"rewards": {what: float(x[i]) for what, x in rewards[name].items()}} if rewards else {})
            for name in texts
        }
        lines.append({"post": plain(record), "summaries": written})
    write_jsonl(path, lines)

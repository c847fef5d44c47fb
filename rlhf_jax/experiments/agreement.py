"""Who agrees with a judge about which summary is better: the reward model, ROUGE, length, copying (§4.4).

    rlhf-jax metric-agreement --workdir=runs/mini

--workdir=FOLDER   a run with all stages finished
--posts=N          (1000) unseen posts, of which every policy writes two summaries
--another=FOLDER   another run, whose reward model is asked too: the policies here were not trained against it

On the same pairs of summaries: held-out comparisons, on which people's choices are the truth; and, in the
miniature, two samples of the SFT policy and two of the PPO policy for each post, on which the gold judge
is. They are drawn at the temperature at which people are asked about samples, 1. Ties of the judge are left
out, those of a metric count one half. The figures are `<workdir>/agreement.json` and .png.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from etils.epath import Path
from jaxtyping import Bool, Float

from rlhf_jax.data.comparisons import TEMPERATURE, Pair, comparisons_of_run, pairs_of
from rlhf_jax.data.records import Record
from rlhf_jax.data.task import Judge
from rlhf_jax.evaluation.agreement import agreement, countable, hits
from rlhf_jax.evaluation.blind import blind_margins
from rlhf_jax.evaluation.intervals import Estimate, mean
from rlhf_jax.evaluation.judges import gold_scores
from rlhf_jax.experiments.command import Opened, command, open_run, write_figures
from rlhf_jax.mesh import make_mesh
from rlhf_jax.report.paper_figures import agreement_figure


def main(argv: list[str]) -> int:
    """Exit status: 0; 2 after an error of use, told in one line."""
    options = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "folder of the run", required=True, flag_values=options)
    flags.DEFINE_integer("posts", 1000, "that policies summarize twice", 1, flag_values=options)
    flags.DEFINE_string("another", "", "folder of another run", flag_values=options)

    def run() -> None:
        workdir = Path(options.workdir)
        another = Path(options.another) if options.another else None
        figures = measure(workdir, options.posts, another)
        write_figures(workdir / "agreement.json", figures)
        agreement_figure([figures], workdir / "agreement.png")

    return command(argv, "metric-agreement", __doc__, options, run)


def measure(workdir: Path, count: int, another: Path | None) -> dict[str, Any]:
    """Kind of pairs → metric → share of the pairs on which it agrees."""
    run = open_run(workdir)
    models = {"reward_model": run}
    if another is not None:
        models["another_reward_model"] = open_run(another)
    splits = run.task.records()
    comparisons = comparisons_of_run(run.config, workdir)
    train = pairs_of(comparisons, "train")
    held_out = pairs_of(comparisons, "valid2") or pairs_of(comparisons, "valid1")
    references = {record.id: record.reference for records in splits.values() for record in records}
    with jax.set_mesh(make_mesh(run.config.mesh)):
        kinds = {"people": of_comparisons(models, train, held_out, references)}
        if judge := run.task.judge:
            records = splits["test"][:count]
            kinds |= {name: of_samples(models, name, judge, records, train) for name in ("sft", "ppo")}
    return {"seed": run.config.seed, "posts": count, "agreement": kinds}


def of_comparisons(
    models: dict[str, Opened], train: Sequence[Pair], held_out: Sequence[Pair], references: dict[str, str]
) -> dict[str, Estimate]:
    """Agreement with people on held-out pairs; ROUGE on those of posts whose references are known."""
    infos = [pair.info for pair in held_out]
    sides = [pair.chosen for pair in held_out], [pair.rejected for pair in held_out]
    against = [references.get(info.id, "") for info in infos]
    known = np.array([info.id in references for info in infos])
    margins = metric_margins(models, infos, *sides, against) | {"blind": blind_margins(train, held_out)}
    return agreements(margins, np.ones(len(infos)), infos, known)


def of_samples(
    models: dict[str, Opened], name: str, judge: Judge, posts: Sequence[Record], train: Sequence[Pair]
) -> dict[str, Estimate]:
    """Agreement with the gold judge on two samples of one policy for each post."""
    run = models["reward_model"]
    policy = run.network(name)
    first, second = (policy.write(posts, TEMPERATURE, run.config.seed + i) for i in range(2))
    truth = gold_scores(judge, posts, first) - gold_scores(judge, posts, second)
    margins = metric_margins(models, posts, first, second, [post.reference for post in posts])
    pairs = [Pair(*each) for each in zip(posts, first, second, strict=True)]
    margins["blind"] = blind_margins(train, pairs)
    return agreements(margins, truth, posts, np.ones(len(posts), bool))


def agreements(
    margins: dict[str, Float[np.ndarray, "N"]],
    truth: Float[np.ndarray, "N"],
    infos: Sequence[Record],
    known: Bool[np.ndarray, "N"],
) -> dict[str, Estimate]:
    """Of every metric, and by how much the reward model's exceeds ROUGE-L's on the same pairs.

    `known` are the pairs that have a reference for ROUGE.
    """
    posts = [info.id for info in infos]
    with_reference = np.where(known, truth, np.nan)
    found = {
        name: agreement(margin, with_reference if "rouge" in name else truth, posts)
        for name, margin in margins.items()
    }
    lead = hits(margins["reward_model"], with_reference) - hits(margins["rougeL"], with_reference)
    return found | {"lead_over_rougeL": mean(lead, posts)}


def metric_margins(
    models: dict[str, Opened],
    infos: Sequence[Record],
    first: Sequence[str],
    second: Sequence[str],
    references: Sequence[str],
) -> dict[str, Float[np.ndarray, "N"]]:
    """By how much each reward model and metric puts the first summary above the second."""
    task = models["reward_model"].task
    ours, theirs = (countable(task, infos, texts, references) for texts in (first, second))
    margins = {name: ours[name] - theirs[name] for name in ours}
    learned = {name: run.score(infos, first) - run.score(infos, second) for name, run in models.items()}
    return learned | margins

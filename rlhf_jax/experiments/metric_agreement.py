"""Who agrees with people about which summary is better: the reward model, ROUGE, length, copying (§4.4).

    rlhf-jax metric-agreement --workdir=runs/mini

--workdir=FOLDER   a run with all stages finished
--posts=N          unseen posts, of which every policy writes two summaries (1000)
--another=FOLDER   another run, whose reward model is asked too: the policies here were not trained against it

On the same pairs of summaries: held-out comparisons, on which people chose; and, where the task has simulated
people or a gold judge, two samples of the SFT policy and two of the PPO policy for each post. They are drawn
at the temperature at which people are asked about samples, 1. All is told twice: with what people prefer as
the truth, and with what the gold judge does. Ties of the judge are left out, those of a metric count one
half. The figures are `<workdir>/agreement.json` and .png.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags
from jaxtyping import Bool, Float

from rlhf_jax.data.comparisons import TEMPERATURE, Pair
from rlhf_jax.data.records import Record
from rlhf_jax.data.visible import has_text
from rlhf_jax.evaluation.blind import blind_margins
from rlhf_jax.evaluation.choices import agreement, countable, hits
from rlhf_jax.evaluation.intervals import Estimate, mean
from rlhf_jax.experiments.command import Opened, command, open_run, write_figures
from rlhf_jax.report.paper_figures import agreement_figure


def main(argv: list[str]) -> int:
    options = flags.FlagValues()
    flags.DEFINE_integer("posts", 1000, "that policies summarize twice", 1, flag_values=options)
    flags.DEFINE_string("another", "", "folder of another run", flag_values=options)

    def measure_and_draw(run: Opened) -> None:
        another = open_run(options.another) if options.another else None
        figures = measure(run, options.posts, another)
        write_figures(run.workdir / "agreement.json", figures)
        agreement_figure([figures], run.workdir / "agreement.png")

    return command(argv, options, measure_and_draw)


def measure(run: Opened, count: int, another: Opened | None) -> dict[str, Any]:
    """Kind of pairs → whom it is held to → metric → share of the pairs on which it agrees."""
    models = {"reward_model": run} | ({"another_reward_model": another} if another else {})
    splits = run.task.records()
    records = [record for some in splits.values() for record in some if has_text(record.reference)]
    references = {record.id: record.reference for record in records}
    train, held_out = run.pairs()
    kinds = {}
    with run.on_mesh():
        pairs = {"held_out": held_out}
        if run.truths:
            pairs |= {name: sampled_twice(run, name, splits["test"][:count]) for name in ("sft", "ppo")}
        for kind, some in pairs.items():
            infos = [pair.info for pair in some]
            texts = [pair.chosen for pair in some], [pair.rejected for pair in some]
            truths = {who: judge(infos, *texts) - 0.5 for who, judge in run.truths.items()}
            if kind == "held_out":
                truths["people"] = np.ones(len(some))  # as they chose
            known = np.array([info.id in references for info in infos])
            margins = metric_margins(models, some, references) | {"blind": blind_margins(train, some)}
            kinds[kind] = {who: agreements(margins, truth, infos, known) for who, truth in truths.items()}
    return {"seed": run.config.seed, "posts": count, "agreement": kinds}


def sampled_twice(run: Opened, name: str, posts: Sequence[Record]) -> list[Pair]:
    """Two samples of one policy for each post."""
    policy = run.network(name)
    first, second = (policy.write(posts, TEMPERATURE, run.config.seed + i) for i in range(2))
    return [Pair(*each) for each in zip(posts, first, second, strict=True)]


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
    models: dict[str, Opened], pairs: Sequence[Pair], references: dict[str, str]
) -> dict[str, Float[np.ndarray, "N"]]:
    """By how much each reward model and metric puts the first summary above the second."""
    infos = [pair.info for pair in pairs]
    first, second = [pair.chosen for pair in pairs], [pair.rejected for pair in pairs]
    task, against = models["reward_model"].task, [references.get(info.id, "") for info in infos]
    ours, theirs = (countable(task, infos, texts, against) for texts in (first, second))
    learned = {name: run.score(infos, first) - run.score(infos, second) for name, run in models.items()}
    return learned | {name: ours[name] - theirs[name] for name in ours}

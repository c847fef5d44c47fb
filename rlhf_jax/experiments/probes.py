"""Probes of a reward model: summaries made worse or better in one known way (Stiennon et al. 2020, §4.3).

    rlhf-jax probes --workdir=runs/mini

--workdir=FOLDER   a run with stages sft and reward finished
--posts=N          unseen posts whose references are altered (1000)

The reward model should prefer a reference to itself with roles swapped, with its words shuffled, and cut to
half; and an edited reference to the reference. In the miniature the pairs are those of which the gold judge
says so, and the editor is simulated; elsewhere edits are the comparisons of batches with "edit" in their
name or of a policy "edit", as the labelling site exports them. The figures are `<workdir>/probes.json`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from rlhf_jax.data.comparisons import Pair, comparisons_of_run, pairs_of
from rlhf_jax.data.records import Comparison
from rlhf_jax.evaluation import alterations
from rlhf_jax.evaluation.choices import agreement
from rlhf_jax.evaluation.judges import gaps
from rlhf_jax.experiments.command import Opened, command, write_figures


def main(argv: list[str]) -> int:
    options = flags.FlagValues()
    flags.DEFINE_integer("posts", 1000, "whose references are altered", 1, flag_values=options)

    def measure_and_write(run: Opened) -> None:
        write_figures(run.workdir / "probes.json", measure(run, options.posts))

    return command(argv, options, measure_and_write)


def measure(run: Opened, count: int) -> dict[str, Any]:
    """Probe → how often the reward model is right, and of how many pairs."""
    posts = run.unseen()[:count]
    texts = [post.reference for post in posts]
    pairs = {name: alterations.worse(alter, posts, texts) for name, alter in alterations.WORSE.items()}
    if labelers := run.task.labelers:
        pairs["edited"] = alterations.better(labelers.revise, posts)
    else:
        pairs["edited"] = edits(comparisons_of_run(run.config, run.workdir))
    with run.on_mesh():
        found = {name: accuracy(run, each) for name, each in pairs.items()}
    truth = "gold judge" if run.task.judge else "people"
    return {"seed": run.config.seed, "posts": len(posts), "truth": truth, "probes": found}


def accuracy(run: Opened, pairs: Sequence[Pair]) -> dict[str, Any]:
    if pairs and (judge := run.task.judge):
        pairs = [pair for pair, gap in zip(pairs, gaps(judge, pairs), strict=True) if gap > 0]
    if not pairs:
        return {"pairs": 0}
    infos = [pair.info for pair in pairs]
    chosen, rejected = [pair.chosen for pair in pairs], [pair.rejected for pair in pairs]
    margins = run.score(infos, chosen) - run.score(infos, rejected)
    return agreement(margins, np.ones(len(pairs)), [info.id for info in infos])


def edits(comparisons: Sequence[Comparison]) -> list[Pair]:
    """Comparisons of a summary with its edit, held out or not, the preferred one first."""
    return pairs_of(
        comparison
        for comparison in comparisons
        if "edit" in comparison.batch or "edit" in {summary.policy for summary in comparison.summaries}
    )

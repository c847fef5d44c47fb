"""Probes of a reward model: summaries made worse or better in one known way (Stiennon et al. 2020, §4.3).

    rlhf-jax probes --workdir=runs/mini

--workdir=FOLDER   a run with stages sft and reward finished
--posts=N          (1000) unseen posts whose references are altered

The reward model should prefer a reference to itself with roles swapped, with its words shuffled, and cut to
half; and an edited reference to the reference. In the miniature the pairs are those of which the gold judge
says so, and the editor is simulated; elsewhere edits are the comparisons of batches with "edit" in their
name or of a policy "edit", as the labelling site exports them. The figures are `<workdir>/probes.json`.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from etils.epath import Path

from rlhf_jax.data.comparisons import comparisons_of_run
from rlhf_jax.data.records import Comparison
from rlhf_jax.evaluation import probes
from rlhf_jax.evaluation.agreement import agreement
from rlhf_jax.evaluation.judges import gold_scores
from rlhf_jax.experiments.command import Opened, command, open_run, write_figures
from rlhf_jax.mesh import make_mesh


def main(argv: list[str]) -> int:
    """Exit status: 0; 2 after an error of use, told in one line."""
    options = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "folder of the run", required=True, flag_values=options)
    flags.DEFINE_integer("posts", 1000, "whose references are altered", 1, flag_values=options)

    def run() -> None:
        workdir = Path(options.workdir)
        write_figures(workdir / "probes.json", measure(workdir, options.posts))

    return command(argv, "probes", __doc__, options, run)


def measure(workdir: Path, count: int) -> dict[str, Any]:
    """Probe → how often the reward model is right, and of how many pairs."""
    run = open_run(workdir)
    posts = run.unseen()[:count]
    texts = [post.reference for post in posts]
    pairs = {name: probes.worse(alter, posts, texts) for name, alter in probes.WORSE.items()}
    if labelers := run.task.labelers:
        pairs["edited"] = probes.better(labelers.edit, posts)
    else:
        pairs["edited"] = edits(comparisons_of_run(run.config, workdir))
    with jax.set_mesh(make_mesh(run.config.mesh)):
        found = {name: accuracy(run, each) for name, each in pairs.items()}
    return {"seed": run.config.seed, "posts": len(posts), "probes": found}


def accuracy(run: Opened, pairs: probes.Pairs) -> dict[str, Any]:
    if judge := run.task.judge:
        rated = [gold_scores(judge, pairs.infos, texts) for texts in (pairs.preferred, pairs.other)]
        is_better = rated[0] > rated[1]
        pairs = probes.chosen(pairs, is_better)
    if not pairs.infos:
        return {"pairs": 0}
    margins = run.score(pairs.infos, pairs.preferred) - run.score(pairs.infos, pairs.other)
    ids = [info.id for info in pairs.infos]
    return agreement(margins, np.ones(len(ids)), ids)


def edits(comparisons: Sequence[Comparison]) -> probes.Pairs:
    """Comparisons of a summary with its edit, held out or not, the preferred one first."""
    found = [
        comparison
        for comparison in comparisons
        if "edit" in comparison.batch or "edit" in {summary.policy for summary in comparison.summaries}
    ]
    return probes.Pairs(
        [comparison.info for comparison in found],
        [comparison.summaries[comparison.choice].text for comparison in found],
        [comparison.summaries[1 - comparison.choice].text for comparison in found],
    )

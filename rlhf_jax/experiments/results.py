"""Writes the page of the paper's findings, of whatever figures there are.

    rlhf-jax results --runs=runs/figures --out=docs

--runs=FOLDER   its folders seed0, seed1, … are runs, each with the JSON of the experiments made of it;
                weak0, weak1, … are runs whose reward model saw few comparisons, for over-optimization alone
--out=FOLDER    where results.md and images/results-*.png go

Nothing is trained or measured here, and what is missing is said to be missing.
"""

from collections.abc import Callable, Sequence
from datetime import date
from os import PathLike
from typing import NamedTuple

from absl import flags
from etils.epath import Path

from rlhf_jax.command_line import command, parse_flags
from rlhf_jax.config import ConfigError
from rlhf_jax.experiments import findings
from rlhf_jax.experiments.findings import Finding
from rlhf_jax.files import matching, read_object, write_text
from rlhf_jax.report import paper_figures as drawn


class Section(NamedTuple):
    """A finding's place on the page: what the paper says, what measures it, where the figures are."""

    title: str
    claim: str
    command: str  # that makes the figures of one run
    file: str  # in the run's folder
    find: Callable[[Sequence[dict]], Finding | None]
    draw: Callable[[Sequence[dict], PathLike[str]], None] | None = None
    note: str = ""  # what else must be known to read the figures


PIPELINE = "run --config=configs/mini.py"
SEEN = (
    "In pretraining mini/small saw 97 million tokens; mini/large and those named 12M saw 12 million, which"
    " is 4 for each parameter of mini/large, 39 of small_12M and 130 of tiny_12M."
)
SECTIONS = (
    Section(
        "Human feedback beats ten times the size",
        "A 1.3B policy trained with human feedback is preferred over the reference in 61% of the cases, a "
        "supervised one ten times larger in 43% (figure 1).",
        PIPELINE,
        "results.json",
        findings.headline,
    ),
    Section(
        "It is not length",
        "At the references' length the 6.7B policy is still preferred in about 65% of the cases.",
        PIPELINE,
        "results.json",
        findings.equal_length,
    ),
    Section(
        "What is better",
        "Human feedback gains on every axis, most on coverage: 45% of the summaries of the 6.7B policy are "
        "rated 7 overall, and 23% of the references (figure 3).",
        PIPELINE,
        "results.json",
        findings.likert,
    ),
    Section(
        "Optimizing a reward model too far",
        "Along KL true preference rises and then falls, while the reward model's goes on rising (figure 5).",
        "overoptimization",
        "overoptimization.json",
        findings.overoptimization,
        drawn.overoptimization_figure,
    ),
    Section(
        "PPO and best-of-N at equal KL",
        "The KL of best-of-N is log N − (N − 1)/N where no samples tie. Here many do, so it is measured too.",
        "overoptimization",
        "overoptimization.json",
        findings.best_of_n,
    ),
    Section(
        "Reward models grow better with data",
        "A doubling of the comparisons adds about 1.1 points of accuracy (figure 6).",
        "scaling",
        "scaling.json",
        findings.more_comparisons,
        drawn.scaling_figure,
    ),
    Section(
        "Reward models grow better with size",
        "A doubling of the model adds about 1.8 points of accuracy (figure 6).",
        "scaling",
        "scaling.json",
        findings.larger_models,
        note=f"{SEEN} What a doubling of the parameters adds is told by these three.",
    ),
    Section(
        "Policies along size",
        "At every size tried human feedback is preferred over supervision at any size (figure 1).",
        "scaling --policies",
        "scaling.json",
        findings.policy_size,
        note=SEEN,
    ),
    Section(
        "ROUGE agrees less with the judge than the reward model does",
        "ROUGE agrees with labelers on about 57% of pairs of supervised samples and about 50% of pairs of "
        "human-feedback samples; reward models on 62 to 67%, on news (§4.4).",
        "metric-agreement",
        "agreement.json",
        findings.agreement,
        drawn.agreement_figure,
    ),
    Section(
        "News, without training on news",
        "On CNN/DM the human-feedback policy trained on Reddit posts beats the supervised one and comes near "
        "to one that was fine-tuned on news (figure 4).",
        "transfer",
        "transfer.json",
        findings.transfer,
        drawn.transfer_figure,
    ),
    Section(
        "Does the reward model read?",
        "It prefers an edited summary in 79.4 to 82.8% of the cases, and notices exchanged roles in 92.9 to "
        "97.2% (§4.3).",
        "probes",
        "probes.json",
        findings.probes,
    ),
)

HEAD = """\
# The paper's findings, measured again

{runs} {judge}

Intervals are of 95%, by bootstrap over posts; what another seed changes is seen between the runs. A finding
holds where the intervals say so in every run that has the figures. `./launch/figures.sh` makes everything
from nothing; `rlhf-jax results --runs={folder}` writes this page.

| finding | held here | runs |
|---|---|---|
{summary}
"""
VERDICTS = {True: "yes", False: "**not shown**", None: "compared"}


def main(argv: list[str]) -> int:
    options = flags.FlagValues()
    flags.DEFINE_string("runs", None, "folder of the runs", required=True, flag_values=options)
    flags.DEFINE_string("out", "docs", "folder to write to", flag_values=options)

    def run() -> None:
        parse_flags(argv, options)
        write(Path(options.runs), Path(options.out))

    return command(argv, run)


def write(folder: Path, out: Path) -> None:
    """Writes results.md and its images."""
    runs, weak = ([p for p in matching(folder, f"{name}*") if p.is_dir()] for name in ("seed", "weak"))
    if not runs:
        raise ConfigError(f"--runs: {folder} has no runs seed0, seed1, …; ./launch/figures.sh makes them")
    texts, summary = [], []
    for section in SECTIONS:
        places = [("", runs)]
        if section.file == "overoptimization.json" and weak:
            places.append((", with a reward model of few comparisons", weak))
        for addition, found in places:
            text, verdict, count = told(section, section.title + addition, found, out)
            texts.append(text)
            summary.append(f"| {section.title}{addition} | {verdict} | {count} |")
    seeds = ", ".join(path.name.removeprefix("seed") for path in runs)
    head = HEAD.format(
        runs=f"{'Runs' if len(runs) > 1 else 'A run'} of seed {seeds}, `{folder}/seed…`, {dates_of(runs)}.",
        judge=judge_of(runs),
        folder=folder,
        summary="\n".join(summary),
    )
    write_text(out / "results.md", head + "\n" + "\n".join(texts))
    print(out / "results.md")


def told(section: Section, title: str, runs: list[Path], out: Path) -> tuple[str, str, int]:
    """The section's text, its verdict, and how many runs have its figures."""
    made = [read_object(run / section.file, ConfigError) for run in runs if (run / section.file).exists()]
    try:
        finding = section.find(made) if made else None
    except KeyError as error:
        file = runs[0] / section.file
        raise ConfigError(f"{file}: no {error} in it: another version made it, make it again") from None
    text = f"## {title}\n\nThe paper: {section.claim}\n\n"
    made_by = f"`rlhf-jax {section.command} --workdir={runs[0]}`"
    if finding is None:
        return f"{text}**Missing**: {made_by} makes it.\n", "missing", 0
    held = {True: "It held here.", False: "**Not shown here.**", None: "Here:"}[finding.held]
    picture = ""
    if section.draw:
        weak = "-weak" if runs[0].name.startswith("weak") else ""
        image = f"images/results-{section.file.removesuffix('.json')}{weak}.png"
        section.draw(made, out / image)
        picture = f"![{title}]({image})\n\n"
    note = f"{section.note}\n\n" if section.note else ""
    return f"{text}{held}\n\n{picture}{finding.body}\n\n{note}{made_by}\n", VERDICTS[finding.held], len(made)


def judge_of(runs: list[Path]) -> str:
    results = [
        read_object(run / "results.json", ConfigError) for run in runs if (run / "results.json").exists()
    ]
    if not results:
        return "None has finished yet."
    if results[0]["judge"] == "gold judge":
        return (
            "The judge is the miniature's gold judge, who knows what happened. No model sees its scores; the "
            "labelers choose by them, and by them their pairs are chosen."
        )
    return "The judge is each run's own reward model: what it prefers is no measure of quality."


def dates_of(runs: list[Path]) -> str:
    """The days on which the files of runs were made."""
    files = [file for run in runs for file in matching(run, "*.json")]
    made = [date.fromtimestamp(file.stat().mtime).isoformat() for file in files]
    return " to ".join(sorted({min(made), max(made)})) if made else "empty"

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
from rlhf_jax.experiments import findings, findings_on_methods, findings_on_scale
from rlhf_jax.experiments.findings import Finding
from rlhf_jax.experiments.findings_on_feedback import feedback
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


ENOUGH = 3  # runs, of as many seeds, for a verdict
PIPELINE = "run --config=configs/mini.py"
SECTIONS = (
    Section(
        "Human feedback beats ten times the size",
        "The paper: people prefer a 1.3B policy trained with human feedback over the reference in 61% of the "
        "cases, a supervised one ten times larger in 43% (figure 1).",
        PIPELINE,
        "results.json",
        findings.headline,
    ),
    Section(
        "It is not length",
        "The paper: at the references' length people still prefer the 6.7B policy in about 65% of the cases.",
        PIPELINE,
        "results.json",
        findings.equal_length,
    ),
    Section(
        "What is better",
        "The paper: human feedback gains on every axis, most on coverage: people rate 45% of the summaries "
        "of the 6.7B policy 7 overall, and 23% of the references (figure 3).",
        PIPELINE,
        "results.json",
        findings.likert,
    ),
    Section(
        "Diversity",
        "Not in the paper: is it one sentence with the names filled in, and is it the judge's own? A form is "
        "what is left of a summary without names, deeds, places and days.",
        PIPELINE,
        "results.json",
        findings.diversity,
    ),
    Section(
        "What is wrong in the summaries",
        "Not in the paper: the share of summaries with an error, by its kind, in each run.",
        PIPELINE,
        "results.json",
        findings.errors,
    ),
    Section(
        "Optimizing a reward model too far",
        "The paper: along KL people's preference rises and then falls, while the reward model's goes on "
        "rising (figure 5).",
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
        "Other ways to learn from the same feedback",
        "Not in the paper: a policy that learns from what it writes while it learns (PPO, RLOO, GRPO, online "
        "DPO) is preferred over those that do not: DPO, distilled best-of-N, and supervision on twice the "
        "demonstrations. Strengths are chosen by people on one half of the posts, and shares are of the "
        "other. The claim is refuted where the whole interval of a lead is below 0.",
        "methods",
        "methods.json",
        findings_on_methods.methods,
        drawn.methods_figure,
    ),
    Section(
        "Reward models grow better with data",
        "The paper: a doubling of the comparisons adds about 1.1 points of agreement with people (figure 6).",
        "scaling",
        "scaling.json",
        findings_on_scale.more_comparisons,
        drawn.scaling_figure,
    ),
    Section(
        "Reward models grow better with size",
        "The paper: a doubling of the model adds about 1.8 points of agreement with people (figure 6).",
        "scaling",
        "scaling.json",
        findings_on_scale.larger_models,
    ),
    Section(
        "Policies along size",
        "The paper: at every size tried people prefer human feedback to supervision at any size (figure 1).",
        "scaling --policies",
        "scaling.json",
        findings_on_scale.policy_size,
    ),
    Section(
        "What kind of feedback is worth its price",
        "Not in the paper, which found it too expensive to spend the same hours on demonstrations (appendix "
        "D), and names edits and explanations beside them (§5): with equal hours people prefer what was "
        "learned from comparisons to what was learned from demonstrations.",
        "feedback",
        "feedback.json",
        feedback,
        drawn.feedback_figure,
    ),
    Section(
        "What the pretrained models know",
        "Not in the paper: the share of claims about a post that a pretrained model calls true or false "
        "rightly, and the area under its curve, before anything is trained here.",
        "scaling",
        "scaling.json",
        findings_on_scale.gates,
    ),
    Section(
        "The reward model by kind of change",
        "Not in the paper: of two summaries that differ in one claim, how often the reward model prefers the "
        "one in which it is true.",
        PIPELINE,
        "results.json",
        findings.by_change,
    ),
    Section(
        "ROUGE agrees less with people than the reward model does",
        "The paper: ROUGE agrees with labelers on about 57% of pairs of supervised samples and about 50% of "
        "pairs of human-feedback samples; reward models on 62 to 67%, on news (§4.4).",
        "metric-agreement",
        "agreement.json",
        findings.agreement,
        drawn.agreement_figure,
    ),
    Section(
        "News, without training on news",
        "The paper: on CNN/DM people prefer the human-feedback policy trained on Reddit posts to the "
        "supervised one, nearly as much as one that was fine-tuned on news (figure 4).",
        "transfer",
        "transfer.json",
        findings.transfer,
        drawn.transfer_figure,
    ),
    Section(
        "Does the reward model read?",
        "The paper: it prefers an edited summary in 79.4 to 82.8% of the cases, and notices exchanged roles "
        "in 92.9 to 97.2% (§4.3).",
        "probes",
        "probes.json",
        findings.probes,
    ),
)

HEAD = """\
# The paper's findings, measured again

{runs} {judges}

A figure is the mean over the runs. Its interval of 95% holds what other posts and other seeds would change:
Student's interval of the runs' values, never narrower than the posts alone allow; of a lone run it holds the
posts alone. A finding holds where whole intervals say so, and a verdict takes {enough} runs at least.
`./launch/figures.sh` makes everything from nothing; `rlhf-jax results --runs={folder}` writes this page.

| finding | held here | runs |
|---|---|---|
{summary}
"""
PEOPLE = (
    "People are the miniature's simulated labelers, of whom one is asked about each pair: they see the gold "
    "judge's score through noise and share errors of their own. The reward model learns from their choices."
)
JUDGES = {
    "gold judge": "The gold judge is a program that compares a summary with what its post says. No network "
    "is trained on its scores. But references and people's choices lean on what it weighs, and texts of "
    "pretraining tell which claims are true and, in places, what matters most.",
    "reward model": "The judge is each run's own reward model: what it prefers is no measure of quality.",
}


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
        judges=judges_of(runs),
        enough=ENOUGH,
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
    text = f"## {title}\n\n{section.claim}\n\n"
    made_by = f"`rlhf-jax {section.command} --workdir={runs[0]}`"
    if finding is None:
        return f"{text}**Missing**: {made_by} makes it.\n", "missing", 0
    verdict = verdict_of(finding, len(made))
    picture = ""
    if section.draw:
        weak = "-weak" if runs[0].name.startswith("weak") else ""
        image = f"images/results-{section.file.removesuffix('.json')}{weak}.png"
        section.draw(made, out / image)
        picture = f"![{title}]({image})\n\n"
    held = f"Held here: {verdict}.\n\n" if finding.held else ""
    return f"{text}{held}{picture}{finding.body}\n\n{made_by}\n", verdict, len(made)


def verdict_of(finding: Finding, runs: int) -> str:
    """By whom it held; of too few runs that it did is not enough."""
    yes = {1: "one run only"}.get(runs, "too few seeds") if runs < ENOUGH else "yes"
    told = [f"{yes if held else '**not shown**'} ({who})" for who, held in finding.held.items()]
    return ", ".join(told) or "measured"


def judges_of(runs: list[Path]) -> str:
    """Who says what is better, in all sections."""
    results = [
        read_object(run / "results.json", ConfigError) for run in runs if (run / "results.json").exists()
    ]
    if not results:
        return "None has finished yet."
    people = [PEOPLE] * ("people_over_reference" in results[0])
    return " ".join([*people, JUDGES[results[0]["judge"]]])


def dates_of(runs: list[Path]) -> str:
    """The days on which the files of runs were made."""
    files = [file for run in runs for file in matching(run, "*.json")]
    made = [date.fromtimestamp(file.stat().mtime).isoformat() for file in files]
    return " to ".join(sorted({min(made), max(made)})) if made else "empty"

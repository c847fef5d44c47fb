"""Many runs on one page, and all their figures as a table for other programs.

rlhf-jax compare runs/mini runs/kl
rlhf-jax compare runs/* --out=sweep.html

RUN…          work folders, on disk or gs://; of a run that has not finished, what is there is shown
--out=FILE    the page, comparison.html unless another one is named; the table lies beside it, as a .csv

The page has the fields in which the configurations differ, final figures with intervals of 95%, and the
curves of all trainings over each other. Runs that differ in the seed alone are one setting: its curves are
means, with the range of the seeds around them, and its figures means with Student's interval over the seeds.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from rlhf_jax.command_line import command
from rlhf_jax.data.names import titled
from rlhf_jax.evaluation.intervals import Estimate
from rlhf_jax.files import write_text
from rlhf_jax.report.figures import anchor_of
from rlhf_jax.report.many_runs import (
    Records,
    Run,
    Setting,
    differing_fields,
    ending,
    means,
    read_runs,
    settings,
)
from rlhf_jax.report.page import (
    COLUMNS,
    FACTS,
    LEADING,
    leading_first,
    template,
    text,
    words_of,
)
from rlhf_jax.report.page_plots import SERIES, Band, dashes, estimates_plot, overlay_plot

POINTS = 60  # of a curve, at most: parts of the longest run, of whose steps each point is the mean
PREFERRED = ("Preferred", "{:.1%}", "share of {prompts} on which the {response} scores above the {anchor}'s")


def main(argv: list[str]) -> int:
    """Exit status: 0; 2 after an error of use, told in one line."""
    return command(argv, lambda: run(argv))


def run(argv: list[str]) -> None:
    options = flags.FlagValues()
    flags.DEFINE_string("out", "comparison.html", "the page to write", flag_values=options)
    places = options(argv)[1:]
    if not places:
        raise flags.Error("work folders are missing, such as runs/mini runs/kl; --help shows the usage")
    page = Path(options.out)
    if page.suffix != ".html":
        raise flags.Error(f"--out: {page} should end in .html; the table lies beside it")
    found = read_runs(places)
    write_text(page, page_of(found))
    write_text(page.with_suffix(".csv"), table_of(found))
    print(f"{page}\n{page.with_suffix('.csv')}")


def table_of(found: Sequence[Run]) -> str:
    """CSV: a row a run, stage and figure.

    Of stage eval, the figures of results.json by their dotted names; of a training, its steps and the mean of
    each metric over their last tenth. `low` and `high` are the interval over posts, of figures that have one.
    """
    differing, buffer = differing_fields(found), io.StringIO()
    rows = csv.writer(buffer, lineterminator="\n")
    head = ["run", "folder", "setting", "seed", *differing, "stage", "figure", "value", "low", "high"]
    rows.writerow(head)
    for number, setting in enumerate(settings(found), 1):
        for one in setting.runs:
            about = [one.name, one.workdir, number, one.seed, *(one.fields.get(name) for name in differing)]
            for stage, figure, estimate in figures_of(one):
                values = (estimate.get(part) for part in ("value", "low", "high"))
                rows.writerow([*about, stage, figure, *values])
    return buffer.getvalue()


def figures_of(one: Run) -> Iterator[tuple[str, str, Estimate]]:
    """(stage, figure, estimate) of all that a run has come to."""
    for training, records in one.logs.items():
        yield training, "steps", {"value": int(records[-1]["step"]) + 1}
        for name, value in ending(records).items():
            yield training, name, {"value": value}
    for name, estimate in one.figures.items():
        yield "eval", name, estimate


def page_of(found: Sequence[Run]) -> str:
    """The page, which loads nothing."""
    groups = settings(found)
    networks = {name: label for one in found for name, label in one.networks.items()}
    policies = dict.fromkeys(name for one in found for name in one.results.get("policies", {}))
    said = said_of(found)
    preferred = {
        (setting.name, number): setting.figure(f"preference_over_{said['anchor']}.{list(policies)[-1]}")
        for number, setting in enumerate(groups)
        if policies
    }
    shown = {name: (number, estimate) for (name, number), estimate in preferred.items() if estimate}
    return template("compare.html.jinja", networks=networks).render(
        runs=found,
        settings=groups,
        looks=[look(number) for number in range(len(groups))],
        colors=len(SERIES),
        fields=[(name, [told(setting, name) for setting in groups]) for name in differing_fields(found)],
        notes=notes(found),
        plot=estimates_plot(shown, 0.5) if shown else None,
        leading=list(policies)[-1] if policies else "",
        policies={
            titled(name, networks): figure_table(groups, policy_columns(name, said))
            for name in reversed(policies)
        },
        anchor=said["anchor"],
        reward_model=figure_table(groups, fact_columns(found, "reward_model", said)),
        ppo=figure_table(groups, fact_columns(found, "ppo", said)),
        training=dict(curves(groups)),
    )


def look(number: int) -> dict[str, Any]:
    """The colour and the dashes of a setting."""
    return {"color": number % len(SERIES), "dashes": " ".join(f"{1.4 * dash:g}" for dash in dashes(number))}


def told(setting: Setting, field: str) -> str:
    """The value of a field that differs."""
    value = setting.runs[0].fields.get(field, "absent")
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def notes(found: Sequence[Run]) -> list[str]:
    """What keeps figures of these runs from being compared."""
    evaluated = [one for one in found if one.results]
    said = []
    if any(one.results.get("judge") == "reward model" for one in evaluated) and len(evaluated) > 1:
        said.append(
            "Every run is judged by its own reward model, so how often its summaries are preferred cannot be "
            "compared with other runs: have people or one judge compare them."
        )
    fields = ("data.source", "data.posts")
    posts = {(one.results["split"], one.results["posts"], *map(one.fields.get, fields)) for one in evaluated}
    if len(posts) > 1:
        said.append("The runs were evaluated on different posts.")
    if missing := [one.name for one in found if not one.results]:
        said.append(f"Not evaluated yet: {', '.join(missing)}.")
    return said


Columns = Mapping[str, tuple[str, str, str]]  # figure → heading, format, meaning


def said_of(found: Sequence[Run]) -> dict[str, str]:
    """The words for prompt and response and whom policies are compared with, of the first run evaluated."""
    results = next((one.results for one in found if one.results), {})
    return words_of(results)._asdict() | {"anchor": anchor_of(results)}


def policy_columns(policy: str, said: Mapping[str, str]) -> Columns:
    own = {f"policies.{policy}.{key.removesuffix('.value')}": column for key, column in COLUMNS.items()}
    columns = {f"preference_over_{said['anchor']}.{policy}": PREFERRED} | own
    return {key: (head, form, meaning.format(**said)) for key, (head, form, meaning) in columns.items()}


def fact_columns(found: Sequence[Run], part: str, said: Mapping[str, str]) -> Columns:
    names = dict.fromkeys(name for one in found for name in one.figures if name.startswith(f"{part}."))
    columns = {}
    for name in names:
        key = name.removeprefix(f"{part}.")
        heading, form = FACTS.get(key, (key.replace("_", " ").capitalize(), "{:.4g}"))
        columns[name] = (heading.removeprefix("… ").format(**said), form, "")
    return columns


def figure_table(groups: Sequence[Setting], columns: Columns) -> dict[str, Any]:
    """Headings with their meanings, and a setting's number → (value, interval, of how many runs), as texts.

    Columns and settings without any value are left out.
    """
    rows = [{name: cell(setting, name, columns[name][1]) for name in columns} for setting in groups]
    shown = [name for name in columns if any(row[name] for row in rows)]
    return {
        "columns": [(columns[name][0], columns[name][2]) for name in shown],
        "rows": {
            number: [row[name] for name in shown] for number, row in enumerate(rows) if any(row.values())
        },
    }


def cell(setting: Setting, figure: str, form: str) -> tuple[str, str, str] | None:
    estimate = setting.figure(figure)
    if estimate is None:
        return None
    low, high = (estimate.get(end, estimate["value"]) for end in ("low", "high"))
    interval = f"{text(low, form)} to {text(high, form)}" if low < high else ""
    having = sum(figure in one.figures for one in setting.runs)
    value = int(estimate["value"]) if form == "{:,}" else estimate["value"]  # a count
    return text(value, form), interval, f"of {having}" if having < len(setting.runs) else ""


def curves(groups: Sequence[Setting]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """(training, its panels): each has the curves of a metric, of every setting that logged it."""
    titles = {name: one.titles[name] for setting in groups for one in setting.runs for name in one.logs}
    for training, title in titles.items():
        logs = [[one.logs.get(training, []) for one in setting.runs] for setting in groups]
        every = [records for records_of_seeds in logs for records in records_of_seeds if records]
        steps = 1 + max(int(records[-1]["step"]) for records in every)
        width = -(-steps // POINTS)
        centers = np.arange(0, steps, width) + (width - 1) / 2
        metrics = dict.fromkeys(name for records in every for name in records[-1] if name != "step")
        panels = []
        for metric in leading_first(metrics):
            found = {number: band(seeds, metric, width, len(centers)) for number, seeds in enumerate(logs)}
            found = {number: one for number, one in found.items() if np.isfinite(one.mean).any()}
            panels.append(
                {"name": metric, "leading": metric in LEADING, "plot": overlay_plot(centers, found)}
            )
        yield title, panels


def band(seeds: Sequence[Records], metric: str, width: int, count: int) -> Band:
    """The mean over seeds, of those that have come so far, and their range."""
    each = np.ma.masked_invalid([means(records, metric, width, count) for records in seeds])
    return Band(*(np.ma.filled(part(axis=0), np.nan) for part in (each.mean, each.min, each.max)))

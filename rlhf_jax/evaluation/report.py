"""The page that shows a run: report.html, written from the files of its work folder.

It loads nothing from the network, and no text of a post can become markup.
"""

import io
import json
import os
import pathlib
import re

import jinja2
import matplotlib
import numpy as np
from jaxtyping import Float
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

STAGES = {
    "sft": "Supervised fine-tuning",
    "sft_10x": "Supervised fine-tuning, 10× larger model",
    "reward": "Reward model",
    "ppo": "PPO",
    "eval": "Evaluation",
}
POLICIES = {
    "base": "Pretrained",
    "sft": "SFT",
    "sft_10x": "SFT, 10× larger",
    "ppo": "PPO",
    "best_of_16": "Best of 16",
    "reference": "Reference",
}
# A policy's field in results.json: heading, format, meaning.
COLUMNS = {
    "gold.overall": ("Overall", "{:.2f}", "the gold judge's mean rating, 1 to 7"),
    "gold.accuracy": ("Accuracy", "{:.2f}", "of the gold judge, 1 to 7: what is said is true of the post"),
    "gold.coverage": ("Coverage", "{:.2f}", "of the gold judge, 1 to 7: what matters is said"),
    "gold.coherence": ("Coherence", "{:.2f}", "of the gold judge, 1 to 7: it reads well by itself"),
    "key_fact": ("Key fact", "{:.0%}", "share of summaries that state the post's most important fact"),
    "reward": ("RM score", "{:+.2f}", "mean score of the reward model; training references average 0"),
    "rouge.rougeL": ("ROUGE-L", "{:.3f}", "F1 against the reference"),
    "tokens": ("Tokens", "{:.1f}", "mean length of a summary, end of text included"),
    "words": ("Words", "{:.1f}", "mean length of a summary"),
    "copying": (
        "Copying",
        "{:.0%}",
        "longest common subsequence of bigrams with the post, over the summary's",
    ),
}
# A field of `reward_model` or `ppo` in results.json: what it is, format. Other fields go by their names.
FACTS = {
    "valid_accuracy": ("Picks the preferred of two held-out summaries", "{:.1%}"),
    "gold_accuracy": ("Picks what the gold judge prefers", "{:.1%}"),
    "blind_accuracy": ("A scorer blind to the post picks the preferred", "{:.1%}"),
    "reference_mean": ("Mean score of held-out references", "{:+.3f}"),
    "reference_stderr": ("… its standard error", "{:.3f}"),
    "kl": ("KL from the SFT policy, nats", "{:.2f}"),
    "score_start": ("Mean score at the start", "{:+.2f}"),
    "score_end": ("Mean score at the end", "{:+.2f}"),
    "episodes": ("Episodes", "{:,}"),
    "episodes_per_second": ("Episodes a second", "{:.1f}"),
}
LEADING = (
    "objective/score",
    "objective/kl",
    "loss",
    "accuracy",
)  # curves shown before the others are unfolded
# Colours drawn by matplotlib, and the variables of the page's light and dark palettes that replace them.
INK, SOFT, LINE, ACCENT = "#000001", "#000002", "#000003", "#000004"
PALETTE = {INK: "var(--ink)", SOFT: "var(--soft)", LINE: "var(--line)", ACCENT: "var(--accent)"}


class ReportError(ValueError):
    """A work folder that has no results, or files of it that cannot be read."""


def write_report(workdir: pathlib.Path) -> pathlib.Path:
    """Writes `workdir`/report.html from config.json, results.json, metrics/ and samples/test.jsonl.

    Whatever the results lack (a gold judge, a stage, posts) is absent from the page. Returns the page's path.
    """
    results = read_json(workdir / "results.json")
    config = read_json(workdir / "config.json")
    preferences = results.get("preference_over_reference") or {}
    page = (
        environment()
        .get_template("report.html.jinja")
        .render(
            run=workdir.resolve().name,
            config=config,
            results=results,
            judge=results.get("judge"),
            preferences=preferences,
            preference_plot=preference_plot(preferences) if preferences else None,
            table=policy_table(results),
            reward_model=facts(results.get("reward_model") or {}),
            ppo=facts(results.get("ppo") or {}),
            curves={stage: curves(workdir / "metrics" / f"{stage}.jsonl") for stage in STAGES},
            seconds=results.get("seconds") or {},
            samples=[side_by_side(sample) for sample in read_json_lines(workdir / "samples" / "test.jsonl")],
            settings=settings(config),
        )
    )
    path = workdir / "report.html"
    partial = path.with_suffix(".html.partial")
    partial.write_text(
        page, encoding="utf-8", errors="replace"
    )  # a scraped post may hold half a surrogate pair
    os.replace(partial, path)
    return path


def environment() -> jinja2.Environment:
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals["STAGES"] = STAGES
    templates.filters["policy"] = policy_name
    templates.filters["duration"] = duration
    return templates


def policy_name(policy: str) -> str:
    return POLICIES.get(policy, policy.replace("_", " ").capitalize())


def duration(seconds: float) -> str:
    """48 s, 4 min 41 s, 3 h 07 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def policy_table(results: dict) -> dict:
    """Headings, their meanings, and one row of texts a policy; a column no policy has a value for is left out."""
    values = {policy: flatten(fields) for policy, fields in results["policies"].items()}
    shown = [key for key in COLUMNS if any(row.get(key) is not None for row in values.values())]
    return {
        "columns": [(COLUMNS[key][0], COLUMNS[key][2]) for key in shown],
        "rows": {
            policy: ["" if row.get(key) is None else COLUMNS[key][1].format(row[key]) for key in shown]
            for policy, row in values.items()
        },
    }


def facts(fields: dict) -> dict[str, str]:
    """What each field says -> its value as text."""
    texts = {}
    for key, value in fields.items():
        name, form = FACTS.get(key, (key.replace("_", " ").capitalize(), "{:.4g}"))
        if value is not None:
            texts[name] = value if isinstance(value, str) else form.format(value)
    return texts


def side_by_side(sample: dict) -> dict:
    """A post, every summary of it with the reference first, and the best of each kind of score, if any has one."""
    summaries = {"reference": {"text": sample["post"]["summary"]}} | sample["summaries"]
    best = {}
    for kind in ("key_fact", "gold", "score"):
        scores = [summary[kind] for summary in summaries.values() if summary.get(kind) is not None]
        best[kind] = max(scores, default=None)
    return {"post": sample["post"], "summaries": summaries, "best": best}


def settings(config: dict) -> dict[str, dict]:
    """Section -> dotted field -> value; the fields outside any section come first, under "run"."""
    sections = {name: flatten(value) for name, value in config.items() if isinstance(value, dict)}
    return {"run": {name: value for name, value in config.items() if name not in sections}} | sections


def flatten(tree: dict, prefix: str = "") -> dict:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    leaves = {}
    for key, value in tree.items():
        leaves |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return leaves


def curves(path: pathlib.Path) -> list[dict]:
    """One {name, last, leading, plot} a metric of a stage's log, the leading ones first."""
    records = read_json_lines(path)
    names = dict.fromkeys(name for record in records for name in record if name != "step")
    panels = []
    for name in sorted(names, key=lambda name: LEADING.index(name) if name in LEADING else len(LEADING)):
        logged = [record for record in records if record.get(name) is not None]
        steps = np.array([record["step"] for record in logged])
        values = np.array([record[name] for record in logged], dtype=float)  # "nan" and "inf" parse as such
        panels.append(
            {
                "name": name,
                "last": f"{values[-1]:.4g}",
                "leading": name in LEADING,
                "plot": curve_plot(steps, values),
            }
        )
    return panels


def curve_plot(steps: Float[np.ndarray, "N"], values: Float[np.ndarray, "N"]) -> Markup:
    figure = Figure(figsize=(3.6, 1.8), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, values, color=ACCENT, alpha=0.3, linewidth=0.9)
    axes.plot(steps, running_mean(values, 1 + len(values) // 20), color=ACCENT, linewidth=1.6)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    quiet(axes)
    return inline_svg(figure)


def running_mean(values: Float[np.ndarray, "N"], window: int) -> Float[np.ndarray, "N"]:
    """Mean of the `window` values around each; at the ends, of those there are."""
    around = np.ones(window)
    return np.convolve(values, around, "same") / np.convolve(np.ones(len(values)), around, "same")


def preference_plot(preferences: dict) -> Markup:
    """A bar a policy, with one standard error, and the line at which it equals the references."""
    figure = Figure(figsize=(5, 0.42 * len(preferences) + 0.5), layout="constrained")
    axes = figure.subplots()
    rates = [preference["rate"] for preference in preferences.values()]
    errors = [preference["stderr"] for preference in preferences.values()]
    colors = [ACCENT if policy == "ppo" else LINE for policy in preferences]
    places = range(len(preferences))
    axes.barh(places, rates, height=0.62, color=colors)
    axes.errorbar(rates, places, xerr=errors, fmt="none", ecolor=INK, elinewidth=1)
    axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    for place, rate, error in zip(places, rates, errors, strict=True):
        axes.annotate(
            f"{rate:.0%}", (rate + error, place), (5, 0), textcoords="offset points", va="center", color=INK
        )
    axes.set_yticks(places, [policy_name(policy) for policy in preferences])
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.invert_yaxis()
    quiet(axes)
    axes.tick_params(axis="y", labelcolor=INK, labelsize=10.5)
    return inline_svg(figure)


def quiet(axes: Axes) -> None:
    """Leaves of the frame the line below, and of the ticks their numbers."""
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.spines["bottom"].set_color(LINE)
    axes.tick_params(length=0, labelcolor=SOFT, labelsize=9)
    axes.set_axisbelow(True)


def inline_svg(figure: Figure) -> Markup:
    """The figure as an element of the page, its text as text, its colours the page's, its width free."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]  # without the XML prolog
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"| (width|height)="[\d.]+pt"| id="\w+_\d+"', "", svg)
    for color, variable in PALETTE.items():
        svg = svg.replace(color, variable)
    return Markup(svg)


def read_json(path: pathlib.Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ReportError(f"{path} is missing: a report needs a run that finished --stage=eval") from None
    except json.JSONDecodeError as error:
        raise ReportError(f"{path}, line {error.lineno}: {error.msg}; run --stage=eval again") from None


def read_json_lines(path: pathlib.Path) -> list[dict]:
    """The records of a JSON-lines file, none if there is no such file."""
    records = []
    for number, line in enumerate(path.open(encoding="utf-8") if path.exists() else (), start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ReportError(
                f"{path}, line {number}: {error.msg}; remove the line or run its stage again"
            ) from None
    return records

"""Figures as PNG files, for documents: the paper's, drawn of what was measured here.

Each is of the JSON of runs, one a seed, and shows their means with intervals over posts and seeds.
"""

from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from typing import Any

import numpy as np
from etils.epath import Path
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from rlhf_jax.data.names import spoken
from rlhf_jax.evaluation.across_runs import matched, together
from rlhf_jax.evaluation.intervals import Estimate

RED, BLUE, GREEN, GREY = "#b8402a", "#2a62b0", "#2f7d4f", "#8a8d93"
LINES = ("-", "--", ":", "-.")
PANEL = (5.0, 3.6)  # inches
TRUTHS = {"people": GREEN, "gold judge": BLUE, "reward model": RED, "experts": GREY}
POLICIES = {
    "base": ("pretrained", "^", ":"),
    "sft": ("supervised", "s", "--"),
    "ppo": ("human feedback", "o", "-"),
}


def overoptimization_figure(runs: Sequence[dict], path: PathLike[str]) -> None:
    """Preference, scores and errors along √KL, of PPO and best-of-N.

    `runs` are figures of `rlhf_jax.experiments.overoptimization`. The dotted lines are the 99th percentile
    of the references' rewards, and the KL at which the mean reward of the PPO policies reaches it.
    """
    series = {
        "PPO": [together(some) for some in matched(runs, "ppo", "kl_coef").values()],
        "best of N": [together(some) for some in matched(runs, "best_of_n", "n").values()],
    }
    level = together(runs)["reference_percentile"]
    scored = list(series["PPO"][0]["score"])
    kinds = sorted({kind for one in series["PPO"] for kind in one["errors"]})
    count = 1 + len(scored) + bool(kinds)
    rows = (count + 1) // 2
    figure = Figure(figsize=(2 * PANEL[0], rows * PANEL[1]), layout="constrained")
    panels = [figure.add_subplot(rows, 2, i + 1) for i in range(count)]
    rates, scores = panels[0], panels[1 : 1 + len(scored)]
    for (source, policies), marker, line in zip(series.items(), "os", LINES, strict=False):
        style = {"marker": marker, "linestyle": line}
        for who in policies[0]["preference"]:
            said = {"label": f"{source}, {who}", "color": TRUTHS[who]}
            _along_kl(rates, policies, [one["preference"][who] for one in policies], **said, **style)
        for who, axes in zip(scored, scores, strict=True):
            _along_kl(axes, policies, [one["score"][who] for one in policies], color=TRUTHS[who], **style)
    reached = kl_where([one["score"] | {"kl": one["kl"]} for one in series["PPO"]], "reward model", level)
    if reached is not None:
        rates.axvline(reached, color=GREY, linewidth=0.8, linestyle=":")
    scores[0].axhline(level, color=GREY, linewidth=0.8, linestyle=":")
    rates.axhline(0.5, color=GREY, linewidth=0.6)
    rates.set_ylabel("preferred over the reference")
    for who, axes in zip(scored, scores, strict=True):
        axes.set_ylabel("mean reward" if who == "reward model" else f"mean score of the {who}, 1 to 7")
    if kinds:
        _errors_along_kl(panels[-1], series["PPO"], kinds)
    for axes in panels:
        _root_of_kl(axes)
        _quiet(axes)
    for axes in (rates, panels[-1]) if kinds else (rates,):
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.legend(frameon=False, fontsize=7)
    _save(figure, path)


def _errors_along_kl(axes: Axes, policies: Sequence[dict], kinds: Sequence[str]) -> None:
    """The share of PPO's summaries with an error, a line for each kind, in cyclic colours."""
    none = {"value": 0.0, "low": 0.0, "high": 0.0}
    for i, kind in enumerate(kinds):
        shares = [one["errors"].get(kind, none) for one in policies]
        style = {"color": f"C{i % 10}", "linestyle": LINES[i // 10 % len(LINES)], "marker": "o"}
        _along_kl(axes, policies, shares, label=spoken(kind), **style)
    axes.set_ylabel("PPO's summaries with an error")


def _along_kl(axes: Axes, policies: Sequence[dict], estimates: Sequence[Estimate], **style: Any) -> None:
    """Estimates of policies in the order of their KL."""
    order = sorted(range(len(policies)), key=lambda i: policies[i]["kl"]["value"])
    kl = [policies[i]["kl"] for i in order]
    across = [one["value"] for one in kl]
    _along(axes, across, [estimates[i] for i in order], xerr=_arms(kl), **style)


def methods_figure(runs: Sequence[dict], path: PathLike[str]) -> None:
    """Preference along √KL, by everybody who says what is better, and along the seconds of training.

    `runs` are figures of `rlhf_jax.experiments.methods`; a method is a curve.
    """
    points = [together(some) for some in matched(runs, "points", "method", "setting").values()]
    asked = points[0]["preference"]
    truths = [who for who in ("people", "gold judge") if who in asked] or list(asked)
    figure = Figure(figsize=(PANEL[0] * (len(truths) + 1), PANEL[1] * 1.25), layout="constrained")
    *along_kl, along_seconds = figure.subplots(1, len(truths) + 1)
    for i, method in enumerate(dict.fromkeys(one["method"] for one in points)):
        policies = [one for one in points if one["method"] == method]
        style = {"color": f"C{i % 10}", "linestyle": LINES[i // 10], "marker": "o"}
        for who, axes in zip(truths, along_kl, strict=True):
            rates = [one["preference"][who] for one in policies]
            _along_kl(axes, policies, rates, label=policies[0]["label"], **style)
        across = [one["seconds"] for one in policies]
        rates = [one["preference"][truths[0]] for one in policies]
        _along(along_seconds, across, rates, **style | {"linestyle": ""})
    for who, axes in zip([*truths, truths[0]], [*along_kl, along_seconds], strict=True):
        axes.axhline(0.5, color=GREY, linewidth=0.6)
        axes.set_ylabel(f"preferred over the reference\nby {'the ' * (who != 'people')}{who}")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        _quiet(axes)
    for axes in along_kl:
        _root_of_kl(axes)
    along_seconds.set_xlabel("seconds of training beyond SFT", fontsize=9)
    handles, labels = along_kl[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    _save(figure, path)


def _root_of_kl(axes: Axes) -> None:
    """Has the axis of the KL show its root, as distance."""
    axes.set_xscale("function", functions=(lambda kl: np.sqrt(np.maximum(kl, 0)), np.square))
    axes.set_xlim(left=0)
    axes.set_xticks([root**2 for root in range(1 + int(axes.get_xlim()[1] ** 0.5))])
    axes.set_xlabel("KL from the supervised policy, nats (root scale)", fontsize=9)


def scaling_figure(runs: Sequence[dict], path: PathLike[str]) -> None:
    """Accuracy of reward models along comparisons and along parameters, and policies along size.

    `runs` are figures of `rlhf_jax.experiments.scaling`. The second and the third panel are there where
    several sizes and policies were tried.
    """
    models = [together(some) for some in matched(runs, "points", "size", "share").values()]
    sizes = [one["size"] for one in models]
    most = max(one["share"] for one in models)
    policies = [together(some) for some in matched(runs, "policies", "size").values()]
    panels: list[tuple[Callable, list[dict], str]] = [
        (_reward_models, [one for one in models if sizes.count(one["size"]) > 1] or models, "comparisons")
    ]
    if len(set(sizes)) > 1:
        panels.append((_reward_models, [one for one in models if one["share"] == most], "parameters"))
    if policies:
        panels.append((_policies_of_sizes, policies, "parameters"))
    figure = Figure(figsize=(PANEL[0] * len(panels), PANEL[1]), layout="constrained")
    for (draw, shown, along), axes in zip(
        panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True
    ):
        draw(axes, sorted(shown, key=lambda one: one[along]), along)
        ticks = {f"{one[along]:,}" if along == "comparisons" else _model(one): one[along] for one in shown}
        axes.set_xscale("log")
        axes.set_xticks(list(ticks.values()), list(ticks), fontsize=8)
        axes.minorticks_off()
        axes.margins(x=0.15)
        axes.set_xlabel(along)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.legend(frameon=False, fontsize=8)
        _quiet(axes)
    _save(figure, path)


def _reward_models(axes: Axes, models: Sequence[dict], along: str) -> None:
    """How often they are right, a line for everybody who says what is."""
    for who in models[0]["accuracy"]:
        right = [one["accuracy"][who] for one in models]
        _along(axes, [one[along] for one in models], right, label=who, color=TRUTHS[who], marker="o")
    axes.set_ylabel("reward model right")


def _policies_of_sizes(axes: Axes, sizes: Sequence[dict], along: str) -> None:
    """How often the policies of every size are preferred over the reference, by whom."""
    judges = {"people_over_reference": ("people", GREEN), "preference_over_reference": ("judge", BLUE)}
    for rates, (who, color) in judges.items():
        for name, (said, marker, line) in POLICIES.items():
            shown = [one for one in sizes if name in one.get(rates, {})]
            style = {"color": color, "marker": marker, "linestyle": line, "label": f"{said}, {who}"}
            if shown:
                _along(axes, [one[along] for one in shown], [one[rates][name] for one in shown], **style)
    axes.axhline(0.5, color=GREY, linewidth=0.6)
    axes.set_ylabel("preferred over the reference")


def agreement_figure(runs: Sequence[dict], path: PathLike[str]) -> None:
    """How often each metric agrees with people and with the judge, by kind of pairs.

    `runs` are figures of `rlhf_jax.experiments.metric_agreement`.
    """
    kinds = {"held_out": ("held-out pairs", "o"), "sft": ("SFT samples", "s"), "ppo": ("PPO samples", "^")}
    pooled = together([run["agreement"] for run in runs])
    names = [name for name in pooled["held_out"]["people"] if name != "lead_over_rougeL"]
    shown = [(kind, who, found) for kind, truths in pooled.items() for who, found in truths.items()]
    figure = Figure(figsize=(PANEL[0] * 1.4, PANEL[1]), layout="constrained")
    axes = figure.subplots()
    for i, (kind, who, found) in enumerate(shown):
        said, marker = kinds[kind]
        places = [p for p, name in enumerate(names) if "value" in found[name]]
        across = [p + 0.6 * (i / max(1, len(shown) - 1) - 0.5) for p in places]
        style = {"fmt": marker, "color": TRUTHS[who], "label": f"{said}, {who}"}
        _along(axes, across, [found[names[p]] for p in places], **style)
    _rates(axes, names, "agrees with people, or the judge")
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    _save(figure, path)


def feedback_figure(runs: Sequence[dict], path: PathLike[str]) -> None:
    """Preference along hours of labelling, a curve a kind of feedback, a panel for everybody who judges.

    `runs` are figures of `rlhf_jax.experiments.feedback`. The dotted line is the supervised policy.
    """
    points = [together(some) for some in matched(runs, "points", "kind", "hours").values()]
    supervised = together([run["sft"] for run in runs])
    figure = Figure(figsize=(PANEL[0] * len(supervised), PANEL[1]), layout="constrained")
    for (who, without), axes in zip(
        supervised.items(), figure.subplots(1, len(supervised), squeeze=False)[0], strict=True
    ):
        for i, kind in enumerate(dict.fromkeys(one["kind"] for one in points)):
            shown = sorted((one for one in points if one["kind"] == kind), key=lambda one: one["hours"])
            style = {"label": spoken(kind), "color": f"C{i}", "marker": "o"}
            _along(axes, [one["hours"] for one in shown], [one["preference"][who] for one in shown], **style)
        axes.axhline(without["value"], color=GREY, linewidth=0.8, linestyle=":")
        axes.axhline(0.5, color=GREY, linewidth=0.6)
        hours = sorted({one["hours"] for one in points})
        axes.set_xscale("log")
        axes.set_xticks(hours, [f"{each:g}" for each in hours], fontsize=8)
        axes.minorticks_off()
        axes.set_xlabel("hours of labelling")
        axes.set_title(who, fontsize=9)
        axes.set_ylabel("preferred over the reference")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.legend(frameon=False, fontsize=7)
        _quiet(axes)
    _save(figure, path)


def transfer_figure(runs: Sequence[dict], path: PathLike[str]) -> None:
    """How often each policy's summaries of news are preferred over the highlights.

    `runs` are figures of `rlhf_jax.experiments.transfer`.
    """
    policies = together([run["policies"] for run in runs])
    names = [name for name, one in policies.items() if "preference" in one]
    figure = Figure(figsize=PANEL, layout="constrained")
    axes = figure.subplots()
    for i, who in enumerate(policies[names[0]]["preference"]):
        shares = [policies[name]["preference"][who] for name in names]
        across = [p + 0.15 * i for p in range(len(names))]
        _along(axes, across, shares, fmt="o", color=TRUTHS[who], label=who)
    _rates(axes, names, "preferred over the highlights")
    axes.legend(frameon=False, fontsize=8)
    _save(figure, path)


def _rates(axes: Axes, names: Sequence[str], label: str) -> None:
    """Axes of a share for each name, which stands a word a line."""
    axes.axhline(0.5, color=GREY, linewidth=0.6)
    axes.set_xticks(range(len(names)), [spoken(name).replace(" ", "\n") for name in names], fontsize=9)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_ylabel(label)
    _quiet(axes)


def _model(point: dict) -> str:
    """The pretrained model without its folder, and its parameters: small, 0.31M."""
    return f"{Path(point['size']).name}\n{point['parameters'] / 1e6:.2g}M"


def kl_where(points: Iterable[dict], name: str, level: float) -> float | None:
    """The KL at which `name` first reaches `level` on the line through points in the order of KL, if ever."""
    ordered = sorted((point["kl"]["value"], point[name]["value"]) for point in points)
    for (kl, value), (next_kl, next_value) in zip(ordered, ordered[1:], strict=False):
        if value < level <= next_value:
            return kl + (next_kl - kl) * (level - value) / (next_value - value)
    return ordered[0][0] if ordered[0][1] >= level else None


def _along(axes: Axes, x: Sequence[float], estimates: Sequence[Estimate], **style: Any) -> None:
    """A curve of estimates with their intervals."""
    values = [estimate["value"] for estimate in estimates]
    thin: dict[str, Any] = {"linewidth": 1.2, "markersize": 3, "elinewidth": 0.7, "alpha": 0.85}
    axes.errorbar(x, values, yerr=_arms(estimates), **thin, **style)


def _arms(estimates: Sequence[Estimate]) -> np.ndarray:
    """Lengths [2, N] of error bars, below and above."""
    return np.maximum(
        0, [[e["value"] - e["low"] for e in estimates], [e["high"] - e["value"] for e in estimates]]
    )


def _quiet(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e5e8", linewidth=0.6)
    axes.set_axisbelow(True)


def _save(figure: Figure, path: PathLike[str]) -> None:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        figure.savefig(file, format="png", dpi=150, metadata={"Software": None})

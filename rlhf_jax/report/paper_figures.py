"""Figures as PNG files, for documents: the paper's, drawn of what was measured here."""

from collections.abc import Iterable, Sequence
from itertools import cycle
from os import PathLike
from typing import Any

import numpy as np
from etils.epath import Path
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from rlhf_jax.data.names import spoken
from rlhf_jax.evaluation.intervals import Estimate

RED, BLUE, GREEN, GREY = "#b8402a", "#2a62b0", "#2f7d4f", "#8a8d93"
LINES = ("-", "--", ":", "-.")
PANEL = (5.0, 3.6)  # inches
TRUTHS = {"gold_accuracy": ("gold judge", BLUE), "valid_accuracy": ("people", RED)}
POLICIES = {"base": ("pretrained", GREY), "sft": ("supervised", GREEN), "ppo": ("human feedback", BLUE)}


def overoptimization_figure(seeds: Sequence[dict], path: PathLike[str]) -> None:
    """Preference, reward and gold rating along √KL, of PPO and best-of-N; seeds lie one over the other.

    `seeds` are figures of `rlhf_jax.experiments.overoptimization`. The dotted lines are the 99th percentile
    of the references' rewards, and the KL at which the mean reward of the PPO policies reaches it.
    """
    judges = {"reward": ("reward model", RED), "gold": ("gold judge", BLUE)}
    shown = {judge: said for judge, said in judges.items() if judge in seeds[0]["ppo"][0]}
    figure = Figure(figsize=(PANEL[0] * (1 + len(shown)) * 0.85, PANEL[1]), layout="constrained")
    rates, *scores = figure.subplots(1, 1 + len(shown))
    for seed in seeds:
        first = seed is seeds[0]
        reached = kl_where(seed["ppo"], "reward", seed["reference_percentile"])
        if reached is not None:
            rates.axvline(reached, color=GREY, linewidth=0.8, linestyle=":")
        scores[0].axhline(seed["reference_percentile"], color=GREY, linewidth=0.8, linestyle=":")
        for (judge, (name, color)), axes in zip(shown.items(), scores, strict=True):
            for source, marker, line in (("ppo", "o", "-"), ("best_of_n", "s", "--")):
                points = sorted(seed[source], key=lambda point: point["kl"]["value"])
                said = f"{'PPO' if source == 'ppo' else 'best of N'}, {name}" if first else None
                kl = [point["kl"] for point in points]
                across = [estimate["value"] for estimate in kl]
                style = {"color": color, "marker": marker, "linestyle": line, "xerr": _arms(kl)}
                _along(rates, across, [one[f"{judge}_preference"] for one in points], label=said, **style)
                _along(axes, across, [one[judge] for one in points], **style)
    rates.axhline(0.5, color=GREY, linewidth=0.6)
    rates.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    rates.set_ylabel("preferred over the reference")
    for (name, _), axes in zip(shown.values(), scores, strict=True):
        axes.set_ylabel("mean reward" if name == "reward model" else "mean rating of the gold judge, 1 to 7")
    for axes in (rates, *scores):
        axes.set_xscale("function", functions=(lambda kl: np.sqrt(np.maximum(kl, 0)), np.square))
        axes.set_xlim(left=0)
        axes.set_xlabel("KL from the supervised policy, nats (root scale)", fontsize=9)
        _quiet(axes)
    rates.legend(frameon=False, fontsize=8)
    _save(figure, path)


def scaling_figure(seeds: Sequence[dict], path: PathLike[str]) -> None:
    """Accuracy of reward models along comparisons and along parameters, and policies of every size.

    `seeds` are figures of `rlhf_jax.experiments.scaling`; they lie one over the other. The second and the
    third panel are there where several sizes and policies were tried.
    """
    panels = [_along_comparisons]
    panels += [_along_parameters] * (len({one["size"] for one in seeds[0]["points"]}) > 1)
    panels += [_policies_of_sizes] * bool(seeds[0]["policies"])
    figure = Figure(figsize=(PANEL[0] * len(panels), PANEL[1]), layout="constrained")
    for draw, axes in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
        for seed in seeds:
            draw(axes, seed)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        labelled = {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        axes.legend(labelled.values(), labelled.keys(), frameon=False, fontsize=8)
        _quiet(axes)
    _save(figure, path)


def _along_comparisons(axes: Axes, seed: dict) -> None:
    """A line for each size that was trained on several numbers of comparisons; or a point for each."""
    sizes = dict.fromkeys(one["size"] for one in seed["points"])
    series = [[one for one in seed["points"] if one["size"] == size] for size in sizes]
    lines = [points for points in series if len(points) > 1] or series
    for points, line in zip(lines, cycle(LINES), strict=False):
        across = [one["comparisons"] for one in points]
        for truth, (judge, color) in TRUTHS.items():
            if truth in points[0]:
                style = {"color": color, "marker": "o", "linestyle": line}
                label = f"{_model(points[0])}, {judge}"
                _along(axes, across, [one[truth] for one in points], label=label, **style)
        axes.set_xscale("log")
        axes.set_xticks(across, [f"{count:,}" for count in across])
    axes.minorticks_off()
    axes.set_xlabel("comparisons trained on")
    axes.set_ylabel("reward model right")


def _along_parameters(axes: Axes, seed: dict) -> None:
    """All sizes of the most comparisons; a line joins those that were pretrained alike."""
    most = max(one["comparisons"] for one in seed["points"])
    points = sorted(
        (one for one in seed["points"] if one["comparisons"] == most), key=lambda one: one["parameters"]
    )
    alike = [one for one in points if one["size"] in seed["alike"]]
    for truth, (judge, color) in TRUTHS.items():
        for shown, line in ((points, ""), (alike, "-")):
            if truth in points[0]:
                style = {"color": color, "marker": "o", "linestyle": line, "label": judge}
                _along(axes, [one["parameters"] for one in shown], [one[truth] for one in shown], **style)
    judged = next(truth for truth in TRUTHS if truth in points[0])
    for one in points:
        place = one["parameters"], one[judged]["value"]
        axes.annotate(_name(one), place, (6, 4), textcoords="offset points", fontsize=8, color=GREY)
    axes.set_xscale("log")
    ticks = {f"{one['parameters'] / 1e6:.2g}M": one["parameters"] for one in points}
    axes.set_xticks(list(ticks.values()), list(ticks))
    axes.minorticks_off()
    axes.margins(x=0.15)
    axes.set_xlabel("parameters; a line joins models pretrained alike")
    axes.set_ylabel("reward model right")


def _policies_of_sizes(axes: Axes, seed: dict) -> None:
    """How often the policies of every size are preferred over the reference."""
    for name, (said, color) in POLICIES.items():
        found = [(i, one[name]) for i, one in enumerate(seed["policies"]) if name in one]
        rates: list[Any] = [{"value": rate["rate"]} | rate for _, rate in found]
        if found:
            _along(axes, [i for i, _ in found], rates, color=color, fmt="o", label=said)
    names = [_model(one).replace(", ", "\n") for one in seed["policies"]]
    axes.set_xticks(range(len(names)), names, fontsize=9)
    axes.axhline(0.5, color=GREY, linewidth=0.6)
    axes.set_ylabel("preferred over the reference")


def agreement_figure(seeds: Sequence[dict], path: PathLike[str]) -> None:
    """How often each metric agrees with the judge, by kind of pairs; seeds lie one over the other.

    `seeds` are figures of `rlhf_jax.experiments.metric_agreement`.
    """
    kinds = {"people": "held-out pairs, people", "sft": "SFT samples, gold", "ppo": "PPO samples, gold"}
    shown = {kind: said for kind, said in kinds.items() if kind in seeds[0]["agreement"]}
    names = [name for name in seeds[0]["agreement"]["people"] if name != "lead_over_rougeL"]
    figure = Figure(figsize=(PANEL[0] * 1.4, PANEL[1]), layout="constrained")
    axes = figure.subplots()
    for i, ((kind, said), color) in enumerate(zip(shown.items(), (GREY, GREEN, BLUE), strict=False)):
        for seed in seeds:
            found = seed["agreement"][kind]
            places = [p for p, name in enumerate(names) if "value" in found[name]]
            style = {"fmt": "o", "color": color, "label": said if seed is seeds[0] else None}
            _along(axes, [p + 0.2 * (i - 1) for p in places], [found[names[p]] for p in places], **style)
    _rates(axes, names, "agrees with the judge")
    figure.legend(loc="outside upper center", ncols=len(shown), frameon=False, fontsize=8)
    _save(figure, path)


def transfer_figure(seeds: Sequence[dict], path: PathLike[str]) -> None:
    """How often each policy's summaries of news are preferred over the highlights.

    `seeds` are figures of `rlhf_jax.experiments.transfer`.
    """
    names = [name for name, one in seeds[0]["policies"].items() if "preference" in one]
    figure = Figure(figsize=PANEL, layout="constrained")
    axes = figure.subplots()
    for i, seed in enumerate(seeds):
        places = [p + 0.12 * i for p in range(len(names))]
        _along(axes, places, [seed["policies"][name]["preference"] for name in names], fmt="o", color=BLUE)
    _rates(axes, names, f"preferred over the highlights\nby the {seeds[0]['judge']}")
    _save(figure, path)


def _rates(axes: Axes, names: Sequence[str], label: str) -> None:
    """Axes of a share for each name, which stands a word a line."""
    axes.axhline(0.5, color=GREY, linewidth=0.6)
    axes.set_xticks(range(len(names)), [spoken(name).replace(" ", "\n") for name in names], fontsize=9)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_ylabel(label)
    _quiet(axes)


def _model(point: dict) -> str:
    """small, 0.31M"""
    return f"{_name(point)}, {point['parameters'] / 1e6:.2g}M"


def _name(point: dict) -> str:
    """Of a pretrained model, without its folder."""
    return Path(point["size"]).name


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

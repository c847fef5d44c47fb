"""Plots as SVG elements of a page, drawn in the page's own colours and type."""

import io
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Float
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

# Colours drawn by matplotlib, and the variables of the page's light and dark palettes that replace them.
INK, SOFT, LINE, ACCENT = "#000001", "#000002", "#000003", "#000004"
SERIES = [f"#0001{number:02}" for number in range(8)]  # of lines that are told apart
PALETTE = {INK: "var(--ink)", SOFT: "var(--soft)", LINE: "var(--line)", ACCENT: "var(--accent)"}
PALETTE |= {color: f"var(--series-{number})" for number, color in enumerate(SERIES)}
DASHES = [(), (5, 2), (1.5, 1.5), (6, 2, 1.5, 2)]  # of the first eight lines, the next eight, …


class Band(NamedTuple):
    """A curve of N means, and the range around each; NaN where there is nothing."""

    mean: Float[np.ndarray, "N"]
    low: Float[np.ndarray, "N"]
    high: Float[np.ndarray, "N"]


Rates = Mapping[str, Mapping[str, float]]  # name → its rate and stderr; or pairs, value, low and high
NOBODY: Rates = MappingProxyType({})


def curve_plot(steps: Float[np.ndarray, "N"], values: Float[np.ndarray, "N"]) -> Markup:
    figure = Figure(figsize=(4.4, 1.9), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, values, color=ACCENT, alpha=0.3, linewidth=0.9)
    axes.plot(steps, running_mean(values, 1 + len(values) // 20), color=ACCENT, linewidth=1.6)
    over_steps(axes)
    return inline_svg(figure)


def overlay_plot(steps: Float[np.ndarray, "N"], bands: Mapping[int, Band]) -> Markup:
    """Curves in one plot, each in the look of its number and in a group of the class `setting-<number>`.

    Where there are more of them than colours, what is around them is left out.
    """
    figure = Figure(figsize=(4.4, 2.3), layout="constrained")
    axes = figure.subplots()
    for number, band in bands.items():
        color = SERIES[number % len(SERIES)]
        group: dict[str, Any] = {"gid": f"setting-{number}"}
        if len(bands) <= len(SERIES) and not np.array_equal(band.low, band.high, equal_nan=True):
            axes.fill_between(steps, band.low, band.high, color=color, alpha=0.15, linewidth=0, **group)
        alone = np.isfinite(band.mean).sum() == 1
        line = (0, dashes(number)) if dashes(number) else "-"
        style: dict[str, Any] = {"color": color, "linewidth": 1.4, "linestyle": line, "markersize": 2.5}
        axes.plot(steps, band.mean, marker="o" if alone else "", **style, **group)
    over_steps(axes)
    return inline_svg(figure)


def over_steps(axes: Axes) -> None:
    """The axes of curves over the steps of a training."""
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    quiet(axes)


def dashes(number: int) -> tuple[float, ...]:
    """The dashes of a line, in its widths; none of a solid one."""
    return DASHES[number // len(SERIES) % len(DASHES)]


def estimates_plot(estimates: Mapping[str, tuple[int, Mapping[str, float]]], even: float) -> Markup:
    """A point a line with its interval, where it has one, and a dashed line where both sides are `even`.

    `estimates` maps what each is called to its number, as of `overlay_plot`, and its value, low and high.
    """
    figure = Figure(figsize=(7, 0.32 * len(estimates) + 0.5), layout="constrained")
    axes = figure.subplots()
    for place, (number, one) in enumerate(estimates.values()):
        style: dict[str, Any] = {"color": SERIES[number % len(SERIES)], "gid": f"setting-{number}"}
        axes.plot([one.get("low", one["value"]), one.get("high", one["value"])], [place] * 2, **style)
        axes.plot([one["value"]], [place], marker="o", markersize=5, **style)
    axes.axvline(even, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_yticks(range(len(estimates)), list(estimates))
    axes.set_ylim(len(estimates) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    quiet(axes)
    axes.tick_params(axis="y", labelcolor=INK, labelsize=10)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)  # a folder may have $ in its name
    return inline_svg(figure)


def running_mean(values: Float[np.ndarray, "N"], window: int) -> Float[np.ndarray, "N"]:
    """Mean of the `window` values around each; at the ends, of those there are."""
    around = np.ones(window)
    return np.convolve(values, around, "same") / np.convolve(np.ones(len(values)), around, "same")


def preference_plot(judge: Rates, people: Rates = NOBODY) -> Markup:
    """A bar a policy, with one standard error, and the line at which it equals the references.

    Bars are what the judge says; where people were asked, dots are what they say. PPO's bar is coloured.
    """
    rates, errors = ([one[field] for one in judge.values()] for field in ("rate", "stderr"))
    figure, axes = _bars(list(judge), rates, np.array([errors, errors]), [name == "PPO" for name in judge])
    for place, name in enumerate(judge):
        if name in people:
            rate, error = people[name]["rate"], people[name]["stderr"]
            where = place + 0.18
            axes.errorbar(rate, where, xerr=error, color=SOFT, elinewidth=1, marker="o", markersize=3.5)
    return inline_svg(figure)


def change_plot(by_change: Rates) -> Markup:
    """A bar a kind of change, with its interval of 95%, and the line at which a reward model guesses."""
    figure, _ = _bars(
        [f"{name} ({one['pairs']:,})" for name, one in by_change.items()],
        [one["value"] for one in by_change.values()],
        np.array([[one["value"] - one["low"], one["high"] - one["value"]] for one in by_change.values()]).T,
        [False] * len(by_change),
    )
    return inline_svg(figure)


def _bars(
    names: Sequence[str], rates: Sequence[float], errors: Float[np.ndarray, "2 N"], coloured: Sequence[bool]
) -> tuple[Figure, Axes]:
    """A bar a rate with its number; `errors` reach below and above."""
    figure = Figure(figsize=(5, 0.5 * len(names) + 0.5), layout="constrained")
    axes = figure.subplots()
    places = range(len(names))
    axes.barh(places, rates, height=0.6, color=[ACCENT if own else LINE for own in coloured])
    axes.errorbar(rates, places, xerr=errors, fmt="none", ecolor=INK, elinewidth=1)
    axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    for place, rate in zip(places, rates, strict=True):
        axes.text(1.1, place, f"{rate:.0%}", ha="right", va="center", color=INK, fontsize=10.5)
    axes.set_yticks(places, names)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.invert_yaxis()
    quiet(axes)
    axes.tick_params(axis="y", labelcolor=INK, labelsize=10.5)
    return figure, axes


def rounds_plot(rates: Sequence[float], errors: Sequence[float], baseline: Sequence[float]) -> Markup:
    """A point a round with its standard error, joined; the baseline of each round is the dashed line."""
    figure = Figure(figsize=(5, 2.6), layout="constrained")
    axes = figure.subplots()
    numbers = range(1, len(rates) + 1)
    axes.plot(numbers, baseline, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
    axes.errorbar(numbers, rates, yerr=errors, color=ACCENT, linewidth=1.4, marker="o", markersize=2.5)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.set_ylim(0, 1)
    axes.set_xticks(numbers, [f"round {number}" for number in numbers])
    axes.set_xlim(0.7, len(rates) + 0.3)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    quiet(axes)
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
    svg = re.sub(r' id="(setting-\d+)"', r' class="\1"', svg)  # which stands there once a line
    for color, variable in PALETTE.items():
        svg = svg.replace(color, variable)
    return Markup(svg)

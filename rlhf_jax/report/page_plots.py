"""Plots as SVG elements of a page, drawn in the page's own colours and type."""

import io
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import matplotlib
import numpy as np
from jaxtyping import Float
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

# Colours drawn by matplotlib, and the variables of the page's light and dark palettes that replace them.
INK, SOFT, LINE, ACCENT = "#000001", "#000002", "#000003", "#000004"
PALETTE = {INK: "var(--ink)", SOFT: "var(--soft)", LINE: "var(--line)", ACCENT: "var(--accent)"}

Rates = Mapping[str, Mapping[str, float]]  # name → its rate and stderr; or pairs, value, low and high
NOBODY: Rates = MappingProxyType({})


def curve_plot(steps: Float[np.ndarray, "N"], values: Float[np.ndarray, "N"]) -> Markup:
    figure = Figure(figsize=(4.4, 1.9), layout="constrained")
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
    for color, variable in PALETTE.items():
        svg = svg.replace(color, variable)
    return Markup(svg)

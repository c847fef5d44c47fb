"""Figures as Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlhf_jax.evaluation.intervals import Estimate


def percent(estimate: Mapping[str, float] | None) -> str:
    """92.4% (90.1 to 94.6) of a share, whose interval ends at 0 and at 100; or nothing."""
    if not estimate or "value" not in estimate:
        return ""
    low, high = 100 * max(0.0, estimate["low"]), 100 * min(1.0, estimate["high"])
    return f"{estimate['value']:.1%} ({low:.1f} to {high:.1f})"


def points(estimate: Mapping[str, float] | None) -> str:
    """+12.4 (8.1 to 16.6), of a difference of shares in points; or nothing."""
    if not estimate or "value" not in estimate:
        return ""
    return "{:+.1f} ({:.1f} to {:.1f})".format(*(100 * estimate[name] for name in ("value", "low", "high")))


def plain(estimate: Estimate) -> str:
    """2.31 (2.10 to 2.52)."""
    return "{value:.2f} ({low:.2f} to {high:.2f})".format(**estimate)


def millions(count: float) -> str:
    """0.31M."""
    return f"{count / 1e6:.2f}M"


def by(truth: str) -> str:
    """Whom a figure is told by: people, the gold judge, the reward model."""
    return truth if truth in ("people", "experts") else f"the {truth}"


def listed(values: Iterable[Any], form: str = "{:.0%}") -> str:
    """One number a run: 91%, 93% and 90%."""
    *first, last = map(form.format, values)
    return f"{', '.join(first)} and {last}" if first else last


def table(head: Sequence[str], rows: Sequence[Sequence]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)

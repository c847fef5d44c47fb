"""Figures as Markdown."""

from collections.abc import Mapping, Sequence

from rlhf_jax.evaluation.intervals import Estimate


def rate_of(rate: Mapping[str, float] | None) -> Estimate | None:
    """The estimate in a rate of results.json."""
    return {"value": rate["rate"], "low": rate["low"], "high": rate["high"]} if rate else None


def percent(estimate: Estimate | None) -> str:
    """92.4% (90.1 to 94.6), or nothing."""
    if not estimate or "value" not in estimate:
        return ""
    low, high = 100 * estimate["low"], 100 * estimate["high"]
    return f"{estimate['value']:.1%} ({low:.1f} to {high:.1f})"


def plain(estimate: Estimate) -> str:
    """2.31 (2.10 to 2.52)."""
    return "{value:.2f} ({low:.2f} to {high:.2f})".format(**estimate)


def listed(values: Sequence[float], form: str = "{:.0%}") -> str:
    """One number a run: 91%, 93% and 90%."""
    *first, last = map(form.format, values)
    return f"{', '.join(first)} and {last}" if first else last


def table(head: Sequence[str], rows: Sequence[Sequence]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)

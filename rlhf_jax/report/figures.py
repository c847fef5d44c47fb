"""The final figures of a run by their dotted names in results.json, with the intervals that are there."""

from collections.abc import Iterator, Mapping
from typing import Any

from rlhf_jax.evaluation.intervals import Estimate


def anchor_of(results: Mapping[str, Any]) -> str:
    """Whom the policies of a run are compared with."""
    return "sft" if "preference_over_sft" in results else "reference"


def figures(results: Mapping[str, Any]) -> dict[str, Estimate]:
    """{"ppo": {"kl": 6.3}} → {"ppo.kl": {"value": 6.3}}; what has a `low` and a `high` keeps them."""
    found = dict(_figures(results, ""))
    apart = [name for name in found if ".intervals." in name]  # of figures that stand there without one
    for name in apart:
        found[name.replace(".intervals.", ".")] = found.pop(name)
    return found


def _figures(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Estimate]]:
    for name, item in tree.items():
        if not isinstance(item, dict):
            estimate = {"value": item}
        elif "value" in item or "rate" in item:
            estimate = {"value": item.get("value", item.get("rate"))}
            estimate |= {end: item[end] for end in ("low", "high") if end in item}
        else:
            yield from _figures(item, f"{prefix}{name}.")
            continue
        if all(isinstance(value, int | float) for value in estimate.values()):
            yield f"{prefix}{name}", estimate

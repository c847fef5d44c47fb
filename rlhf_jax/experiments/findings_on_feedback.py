"""Which kind of human feedback is worth its price, held to what was measured here; see findings.py."""

from collections.abc import Sequence

from rlhf_jax.data.names import spoken
from rlhf_jax.evaluation.across_runs import lead, matched, together
from rlhf_jax.evaluation.intervals import Estimate
from rlhf_jax.experiments.findings import Finding, Row, above
from rlhf_jax.experiments.markdown import by, percent, points, table

ERRORS_SHOWN = 5  # the most frequent ones
LIMITS = (
    "What this cannot show: people are simulated, one world is told of, and every kind is used in one way. "
    "An edit changes one thing, an explanation speaks of what is false and not of what is missing, and "
    "nobody tires. Prices decide: `--seconds` sets others, and the table says which are guessed."
)


def feedback(runs: Sequence[dict]) -> Finding:
    """Held where comparisons are above demonstrations with the most hours that were spent on both."""
    found = matched(runs, "points", "kind", "hours")
    kinds = list(dict.fromkeys(kind for kind, _ in found))
    most = max(hours for _, hours in found)
    truths = list(runs[0]["sft"])
    rows = [_row(some, truths) for some in found.values()]
    supervised = together([run["sft"] for run in runs])
    rows.append(["none", "0", "0", *(percent(supervised[who]) for who in truths), "", "", ""])
    head = ["feedback", "hours", "answers", *(f"preferred by {by(who)}" for who in truths)]
    head += ["reward model right, by people", "with an error", "most frequent errors"]
    body = [table(head, rows), *_leads(found, kinds, most, truths)]
    held = {}
    if {("comparison", most), ("demonstration", most)} <= found.keys():
        pair = found["comparison", most], found["demonstration", most]
        held = {who: above(_lead(*pair, who)) for who in truths}
        body.append(
            f"It would be refuted by demonstrations whose lead over comparisons at {most:g} hours is above 0 "
            "with its whole interval."
        )
    prices = runs[0]["prices"]
    paid: list[Row] = [[spoken(name), f"{one['seconds']:g}", one["source"]] for name, one in prices.items()]
    return Finding(held, "\n\n".join([*body, table(["answer", "seconds", "source"], paid), LIMITS]))


def _row(some: Sequence[dict], truths: Sequence[str]) -> Row:
    """One kind and budget, in each run."""
    one = together(some)
    shares = sorted(one["errors"].items(), key=lambda each: -each[1])
    wrong = [f"{spoken(kind)} {share:.0%}" for kind, share in shares if kind != "any" and share > 0]
    right = percent(one["accuracy"]["people"]) if "accuracy" in one else ""
    preferred = [percent(one["preference"][who]) for who in truths]
    errors = [f"{one['errors']['any']:.0%}", ", ".join(wrong[:ERRORS_SHOWN])]
    return [spoken(one["kind"]), f"{one['hours']:g}", f"{one['answers']:,}", *preferred, right, *errors]


def _leads(
    found: dict[tuple, list[dict]], kinds: Sequence[str], hours: float, truths: Sequence[str]
) -> list[str]:
    """Which kind is best with so many hours by each truth, and the leads of all others over comparisons."""
    there = [kind for kind in kinds if (kind, hours) in found]
    told = []
    for who in truths:
        mean = {kind: together(found[kind, hours])["preference"][who]["value"] for kind in there}
        best, *others = sorted(there, key=lambda kind: -mean[kind])
        if others:
            ahead = _lead(found[best, hours], found[others[0], hours], who)
            shown = "is shown to be best" if above(ahead) else "is best, but not shown to be"
            told.append(
                f"With {hours:g} hours {spoken(best)} {shown} by {by(who)}: before {spoken(others[0])}, the "
                f"next one, by {points(ahead)} points."
            )
    rows: list[Row] = [
        [
            spoken(kind),
            *(points(_lead(found[kind, hours], found["comparison", hours], who)) for who in truths),
        ]
        for kind in there
        if kind != "comparison" and "comparison" in there
    ]
    head = [f"points more than comparisons, {hours:g} hours", *(f"by {by(who)}" for who in truths)]
    return [*told, *([table(head, rows)] if rows else [])]


def _lead(ours: Sequence[dict], theirs: Sequence[dict], who: str) -> Estimate:
    return lead([one["preference"][who] for one in ours], [one["preference"][who] for one in theirs])

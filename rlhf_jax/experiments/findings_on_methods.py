"""The finding about ways to learn from the same feedback; see findings.py."""

from collections.abc import Sequence

from rlhf_jax.data.names import spoken
from rlhf_jax.evaluation.across_runs import lead, matched, over_runs, together
from rlhf_jax.evaluation.intervals import Estimate
from rlhf_jax.experiments.findings import Finding, Row, above, kinds_of
from rlhf_jax.experiments.markdown import by, percent, plain, points, table

TRUTHS = ("people", "gold judge")  # of whom the first that there is chooses strengths
MODEL = ("reward model",)  # which does where neither is there, and proves nothing
Policies = list[dict]  # a method's policies at one strength, one a run


def methods(runs: Sequence[dict]) -> Finding:
    """Held where learning online is above every other way that writes one summary at a use.

    The strength of a method is the one that people prefer on half of the posts, on average over the runs, and
    so is the online method that is held against the others. All shares are of the other half.
    """
    tried: dict[str, list[Policies]] = {}
    for (method, _), some in matched(runs, "points", "method", "setting").items():
        tried.setdefault(method, []).append(some)
    truths = [who for who in TRUTHS if who in runs[0]["points"][0]["preference"]]
    best = [chosen(trials, (truths or MODEL)[0]) for trials in tried.values()]
    bodies = [table_of(best, truths or MODEL), *errors_of(best)]
    online = [some for some in best if some[0]["online"]]
    others = [some for some in best if not some[0]["online"] and some[0]["samples"] == 1]
    if not (truths and online and others):
        return Finding({}, "\n\n".join(bodies))
    first = chosen(online, truths[0])
    leads = {who: [lead_of(first, some, who) for some in others] for who in truths}
    bodies += [told(first, others, leads[who], who) for who in truths]
    return Finding({who: all(map(above, leads[who])) for who in truths}, "\n\n".join(bodies))


def chosen(trials: Sequence[Policies], who: str) -> Policies:
    """Those that are preferred most on the posts to choose on."""
    return max(trials, key=lambda some: over_runs([one["to_choose"][who] for one in some])["value"])


def lead_of(ours: Policies, theirs: Policies, who: str) -> Estimate:
    return lead(*([one["to_report"][who] for one in some] for some in (ours, theirs)))


def name_of(some: Policies) -> str:
    """PPO, β 0.05"""
    return ", ".join(filter(None, (some[0]["label"], some[0]["setting"])))


def table_of(best: Sequence[Policies], truths: Sequence[str]) -> str:
    """What every method reaches, and what it costs."""
    rows: list[Row] = []
    for one in map(together, best):
        rows.append([one["label"], one["setting"], *(percent(one["to_report"][who]) for who in truths)])
        rows[-1] += [plain(one["kl"]), f"{one['distinct']:.0%}", f"{one['seconds']:.0f}"]
        rows[-1] += [f"{one[name]:,}" for name in ("demonstrations", "comparisons", "samples")]
    head = ["method", "strength", *(f"preferred by {by(who)}" for who in truths), "KL, nats"]
    head += ["different texts", "seconds beyond SFT", "demonstrations", "comparisons", "samples a summary"]
    return table(head, rows)


def errors_of(best: Sequence[Policies]) -> list[str]:
    """The share of all posts' summaries with an error, by its kind."""
    pooled = [together(some) for some in best]
    kinds = kinds_of(pooled)
    rows = [[spoken(kind), *(f"{one['errors'][kind]['value']:.1%}" for one in pooled)] for kind in kinds]
    return [table(["error", *(one["label"] for one in pooled)], rows)] if kinds else []


def told(first: Policies, others: Sequence[Policies], leads: Sequence[Estimate], who: str) -> str:
    """By how much the online method is ahead of each of the others; which it is not, or not for sure."""
    gains = dict(zip(map(name_of, others), leads, strict=True))
    ahead = "; ".join(f"of {name} {points(gain)}" for name, gain in gains.items())
    text = f"By {by(who)} {name_of(first)} is ahead, in points: {ahead}."
    if behind := [name for name, gain in gains.items() if gain["high"] < 0]:
        text += f" {'; '.join(behind)} refutes the claim."
    if unsure := [name for name, gain in gains.items() if gain["low"] <= 0 <= gain["high"]]:
        text += f" Not shown to be behind: {'; '.join(unsure)}."
    return text

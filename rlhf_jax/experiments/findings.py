"""The paper's findings about policies and reward models, held to what was measured here.

A finding is a function of the JSON of runs, one a seed, and gives None where the runs do not have what it is
about. Its figures are means over the runs, with intervals that hold posts and seeds
(evaluation/across_runs.py). It holds where whole intervals say so; of what is above what, the interval of
the difference. findings_on_scale.py has those about data and size,
findings_on_methods.py compares ways to learn.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from rlhf_jax.data.names import spoken
from rlhf_jax.evaluation.across_runs import difference, lead, matched, over_runs, together
from rlhf_jax.evaluation.intervals import Estimate
from rlhf_jax.evaluation.likert import AXES
from rlhf_jax.experiments.markdown import by, listed, percent, plain, points, table

Row = list[Any]
Rates = Mapping[str, Sequence[dict]]  # by whom → policy → rate, one a run

NETWORKS = ("base", "sft", "sft_10x", "ppo")
STEPS = (("sft", "base"), ("ppo", "sft"), ("ppo", "sft_10x"))  # each to be above the other
DIVERSITY = {
    "distinct": ("different texts", "{:.0%}"),
    "forms": ("forms", "{:.0f}"),
    "commonest_form": ("in the commonest form", "{:.0%}"),
    "ideal_text": ("word by word the judge's ideal", "{:.0%}"),
    "ideal_claims": ("with the claims of the ideal", "{:.0%}"),
}


class Finding(NamedTuple):
    """`held` says by whom it was judged and whether it holds, nothing where the paper makes no such claim."""

    held: Mapping[str, bool]
    body: str  # Markdown


def above(estimate: Mapping[str, float] | None, level: float = 0.0) -> bool:
    """Whether the whole interval is."""
    return estimate is not None and "low" in estimate and estimate["low"] > level


def rates_of(runs: Sequence[dict], judge: str) -> Rates:
    """How often policies are preferred to the reference: by people, where any were asked, and by a judge."""
    found = {judge: [run["preference_over_reference"] for run in runs]}
    if all("people_over_reference" in run for run in runs):
        return {"people": [run["people_over_reference"] for run in runs]} | found
    return found


def leads(rates: Sequence[dict], steps: Sequence[tuple[str, str]]) -> list[Estimate]:
    """By how much the first of each step is preferred more often than the second."""
    return [lead([one[a] for one in rates], [one[b] for one in rates]) for a, b in steps]


def headline(runs: Sequence[dict]) -> Finding:
    """Held where every step up to PPO is one, and PPO is above the references and all that costs nothing."""
    rates = rates_of(runs, runs[0]["judge"])
    names, policies = list(runs[0]["preference_over_reference"]), runs[0]["policies"]
    free = [name for name in names if policies[name]["preference_at_equal_length"] is None]
    steps = [step for step in STEPS if set(step) <= set(names)] + [("ppo", name) for name in free]
    pooled = {who: together(some) for who, some in rates.items()}
    gained = {who: leads(some, steps) for who, some in rates.items()}
    held = {who: all(map(above, gained[who])) and above(pooled[who]["ppo"], 0.5) for who in rates}
    rows: list[Row] = []
    for name in names:
        rows.append([spoken(name)])
        for who, some in rates.items():
            rows[-1] += [percent(pooled[who][name]), listed([one[name]["rate"] for one in some])]
    head = [cell for who in rates for cell in (f"preferred by {by(who)}", "each run")]
    up: list[Row] = [
        [f"{spoken(a)} over {spoken(b)}", *(points(gained[who][i]) for who in rates)]
        for i, (a, b) in enumerate(steps)
    ]
    told = f"PPO ends {listed([run['ppo']['kl'] for run in runs], '{:.1f}')} nats from the supervised policy."
    facts = [run["policies"]["ppo"].get("key_fact") for run in runs]
    if None not in facts:
        told += f" It states the key fact in {listed(facts)} of its summaries."
    tables = (
        table(["summaries", *head], rows),
        table(["points more", *(f"by {by(who)}" for who in rates)], up),
    )
    return Finding(held, "\n\n".join([*tables, told]))


def equal_length(runs: Sequence[dict]) -> Finding:
    """Held where PPO is above the references and above SFT, with all at the length of the references."""
    judge, pooled = runs[0]["judge"], together(runs)["policies"]
    names = [name for name, one in pooled.items() if one["preference_at_equal_length"]]
    rates = [{name: run["policies"][name]["preference_at_equal_length"] for name in names} for run in runs]
    held = above(together(rates)["ppo"], 0.5) and all(map(above, leads(rates, [("ppo", "sft")])))
    rows = [
        [spoken(name), percent(pooled[name]["preference_at_equal_length"]), f"{pooled[name]['tokens']:.1f}"]
        for name in names
    ]
    head = ["summaries", f"preferred by {by(judge)} at equal length", "tokens"]
    return Finding({judge: held}, table(head, rows))


def likert(runs: Sequence[dict]) -> Finding | None:
    """Held where the judge rates PPO above the references on every axis, by the most on coverage."""
    found = [run["likert"] for run in runs if run.get("likert")]
    if not found:
        return None
    pooled = together(found)
    names = [name for name in ("reference", *NETWORKS) if name in pooled]
    rows = []
    for axis in ("overall", "overall_at_equal_length", "accuracy", "coverage", "coherence", "perfect"):
        told = percent if axis == "perfect" else plain
        rows.append([spoken(axis), *(told(pooled[name][axis]) for name in names)])
    gains = {axis: [difference(one["ppo"][axis], one["reference"][axis]) for one in found] for axis in AXES}
    held = all(above(over_runs(gain)) for gain in gains.values())
    held &= all(above(lead(gains["coverage"], gains[axis])) for axis in ("accuracy", "coherence"))
    judge = runs[0]["judge"]
    return Finding({judge: held}, table([f"rated by {by(judge)}", *map(spoken, names)], rows))


def diversity(runs: Sequence[dict]) -> Finding | None:
    """How different a policy's summaries are from each other, and how like the judge's ideal."""
    names = [name for name, one in runs[0]["policies"].items() if one.get("diversity")]
    rows = [
        [
            spoken(name),
            *(
                listed([run["policies"][name]["diversity"][figure] for run in runs], form)
                for figure, (_, form) in DIVERSITY.items()
            ),
        ]
        for name in names
    ]
    return (
        Finding({}, table(["summaries", *(said for said, _ in DIVERSITY.values())], rows)) if rows else None
    )


def errors(runs: Sequence[dict]) -> Finding | None:
    """The share of summaries with an error, by its kind."""
    names = [name for name in ("reference", *NETWORKS) if runs[0]["policies"].get(name, {}).get("errors")]
    found = {name: [run["policies"][name]["errors"] for run in runs] for name in names}
    kinds = dict.fromkeys(kind for some in found.values() for one in some for kind in one)
    rows = [
        [spoken(kind), *(listed([one.get(kind, 0.0) for one in found[name]], "{:.1%}") for name in names)]
        for kind in kinds
    ]
    return Finding({}, table(["error", *map(spoken, names)], rows)) if rows else None


def overoptimization(runs: Sequence[dict]) -> Finding:
    """Held where preference falls from its peak to the farthest policy, whose reward is not below the peak's.

    The peak of a run is the KL penalty with the highest mean preference of the other runs, so that no figure
    is chosen for being high and then called so. A lone run has its own.
    """
    policies = sorted(
        matched(runs, "ppo", "kl_coef").values(),
        key=lambda some: over_runs([one["kl"] for one in some])["value"],
    )
    pooled = [together(some) for some in policies]
    truths = list(pooled[0]["preference"])
    head = ["β", "KL, nats", "reward", *(f"preferred by {by(who)}" for who in truths)]
    rows = [
        [
            f"{one['kl_coef']:g}",
            plain(one["kl"]),
            plain(one["score"]["reward model"]),
            *(percent(one["preference"][who]) for who in truths),
        ]
        for one in pooled
    ]
    body, held = [table(head, rows)], {}
    for who in (one for one in truths if one != "reward model"):
        peaks = [peak_of(policies, i, who) for i in range(len(runs))]
        farthest = [farthest_of(policies, i) for i in range(len(runs))]
        change = lead(*([one["preference"][who] for one in each] for each in (farthest, peaks)))
        rise = lead(*([one["score"]["reward model"] for one in each] for each in (farthest, peaks)))
        held[who] = change["high"] < 0 <= rise["value"]
        place = listed([one["kl_coef"] for one in peaks], "{:g}")
        told = f"From the peak by {by(who)} (β {place}) to the farthest policy preference changes by "
        told += f"{points(change)} points, and the reward by {plain(rise)}."
        body.append(told + grown(peaks, farthest))
    body += errors_along(policies)
    percentile = listed([run["reference_percentile"] for run in runs], "{:.2f}")
    body.append(f"The {runs[0]['percentile']}th percentile of the references' rewards is {percentile}.")
    return Finding(held, "\n\n".join(body))


def peak_of(policies: Sequence[Sequence[dict]], run: int, who: str) -> dict:
    """The policy of a run at the penalty that is best in the others."""

    def elsewhere(some: Sequence[dict]) -> float:
        others = [one for i, one in enumerate(some) if i != run] or some
        return sum(one["preference"][who]["value"] for one in others)

    return max(policies, key=elsewhere)[run]


def farthest_of(policies: Sequence[Sequence[dict]], run: int) -> dict:
    return max((some[run] for some in policies), key=lambda one: one["kl"]["value"])


def kinds_of(policies: Sequence[dict]) -> list[str]:
    return sorted({kind for one in policies for kind in one["errors"]})


def shares_of(kind: str, policies: Sequence[dict]) -> list[Estimate]:
    """Of one error, a policy each; a kind that a policy never makes is not in its figures."""
    return [one["errors"].get(kind, {"value": 0.0, "low": 0.0, "high": 0.0}) for one in policies]


def grown(peaks: Sequence[dict], farthest: Sequence[dict]) -> str:
    """The errors that become more frequent between the two for sure, the three that do most."""
    kinds = kinds_of([*peaks, *farthest])
    growth = {kind: lead(shares_of(kind, farthest), shares_of(kind, peaks)) for kind in kinds}
    most = sorted(filter(lambda kind: above(growth[kind]), kinds), key=lambda kind: -growth[kind]["value"])
    if not most:
        return " No kind of error is shown to grow." if kinds else ""
    told = listed([f"{spoken(kind)} {points(growth[kind])}" for kind in most[:3]], "{}")
    return f" The errors that grow most on that way are, in points: {told}."


def errors_along(policies: Sequence[Sequence[dict]]) -> list[str]:
    """A table of the shares of summaries with an error, kind by kind."""
    kinds = kinds_of([one for some in policies for one in some])
    rows = []
    for some in policies:
        shares = [percent(over_runs(shares_of(kind, some))) for kind in kinds]
        kl = over_runs([one["kl"] for one in some])["value"]
        rows.append([f"{some[0]['kl_coef']:g}", f"{kl:.2f}", *shares])
    return [table(["β", "KL, nats", *map(spoken, kinds)], rows)] if kinds else []


def best_of_n(runs: Sequence[dict]) -> Finding:
    """PPO and best-of-N where their KL is equal."""
    pooled = [together(some) for some in matched(runs, "best_of_n", "n").values()]
    truths = list(pooled[0]["preference"])
    ppo = [together(some) for some in matched(runs, "ppo", "kl_coef").values()]
    rows = []
    for one in pooled:
        rows.append([one["n"], f"{one['kl_closed_form']:.2f}", plain(one["kl"])])
        for who in truths:
            there = at_kl(ppo, who, one["kl"]["value"])
            rows[-1] += [percent(one["preference"][who]), "" if there is None else f"{there:.1%}"]
    head = [cell for who in truths for cell in (f"preferred by {by(who)}", "PPO at that KL")]
    return Finding({}, table(["N", "KL, closed form", "KL, measured", *head], rows))


def at_kl(policies: Sequence[dict], who: str, kl: float) -> float | None:
    """A preference on the line through policies in the order of KL; None outside of them."""
    ordered = sorted((one["kl"]["value"], one["preference"][who]["value"]) for one in policies)
    for (low, before), (high, after) in pairwise(ordered):
        if low <= kl <= high:
            return before + (after - before) * (kl - low) / max(high - low, 1e-9)
    return None


def by_change(runs: Sequence[dict]) -> Finding | None:
    """Of two claims that differ in one thing, how often the reward model prefers the true one."""
    found = together(runs)["reward_model"].get("by_change")
    if not found:
        return None
    rows = [[spoken(kind), one["pairs"], percent(one)] for kind, one in found.items()]
    weak = [spoken(kind) for kind, one in found.items() if not above(one, 0.5)]
    told = (
        f"Not shown to be better than chance: {', '.join(weak)}." if weak else "All are better than chance."
    )
    return Finding({}, table(["what differs", "pairs, run 0", "reward model right"], rows) + f"\n\n{told}")


def agreement(runs: Sequence[dict]) -> Finding:
    """Held where the reward model leads ROUGE-L on pairs of every kind."""
    said = {"held_out": "held-out pairs", "sft": "SFT samples", "ppo": "PPO samples"}
    pooled = together([run["agreement"] for run in runs])
    names = [name for name in pooled["held_out"]["people"] if name != "lead_over_rougeL"]
    rows: list[Row] = []
    held: dict[str, bool] = {}
    behind: list[str] = []
    for kind, truths in pooled.items():
        for who, found in truths.items():
            shares = [percent(found.get(name)) for name in names]
            gain = found.get("lead_over_rougeL")
            rows.append([said[kind], who, found["reward_model"]["pairs"], *shares, points(gain)])
            held[who] = held.get(who, True) and above(gain)
            behind += [f"{said[kind]}, {by(who)}"] * (not above(gain))
    told = [f"It is not shown to lead on {'; '.join(behind)}."] if behind else []
    told += on_ppo_samples(pooled.get("ppo", {}))
    head = ["pairs", "held to", "pairs, run 0", *map(spoken, names), "lead over ROUGE-L, points"]
    return Finding(held, "\n\n".join([table(head, rows), *told]))


def on_ppo_samples(found: Mapping[str, dict]) -> list[str]:
    """What a reward model that did not train the policy knows of its samples, where one was asked."""
    return [
        f"On samples of a PPO policy the reward model that it was trained against agrees with {by(who)} on "
        f"{percent(one['reward_model'])} of the pairs, that of another run on "
        f"{percent(one['another_reward_model'])}."
        for who, one in found.items()
        if "another_reward_model" in one
    ]


def transfer(runs: Sequence[dict]) -> Finding:
    """Held where on news PPO is preferred over the SFT policy that it was trained from."""
    pooled = together(runs)
    policies, duels = pooled["policies"], pooled["over_sft"]
    names = [name for name, one in policies.items() if "preference" in one]
    truths = list(policies[names[0]]["preference"])
    rows: list[Row] = [
        [spoken(name), *(percent(policies[name]["preference"][who]) for who in truths)]
        + [plain(policies[name]["rougeL"])]
        for name in names
    ]
    second = [[spoken(name), *(percent(one[who]) for who in truths)] for name, one in duels.items()]
    tables = [
        table(
            ["summaries", *(f"preferred to the highlights by {by(who)}" for who in truths), "ROUGE-L"], rows
        ),
        table(["summaries", *(f"preferred to SFT by {by(who)}" for who in truths)], second),
    ]
    told = [
        f"The reward model agrees with {by(who)} on {percent(one)} of {one['pairs']:,} pairs of summaries."
        for who, one in pooled.get("reward_model", {}).items()
        if one.get("pairs")
    ]
    return Finding({who: above(duels["ppo"][who], 0.5) for who in truths}, "\n\n".join(tables + told))


def probes(runs: Sequence[dict]) -> Finding:
    """Held where the reward model is right more often than not on every kind of pairs there is."""
    pooled = together([run["probes"] for run in runs])
    rows = [[spoken(name), one["pairs"], percent(one)] for name, one in pooled.items()]
    held = all(above(one, 0.5) for one in pooled.values() if one["pairs"])
    truth = runs[0]["truth"]
    head = ["change", "pairs, run 0", f"reward model right, by {by(truth)}"]
    return Finding({truth: held}, table(head, rows))

"""The paper's findings, held to what was measured here.

A finding is a function of the JSON of runs, one a seed, and gives None where the runs do not have what it is
about. It holds where the intervals of 95% say so in every run.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from rlhf_jax.data.names import spoken
from rlhf_jax.evaluation.likert import AXES
from rlhf_jax.experiments.markdown import listed, percent, plain, rate_of, table

Row = list[Any]


class Finding(NamedTuple):
    """`held` is None where the paper makes no claim that could be held to; `body` is Markdown."""

    held: bool | None
    body: str


def headline(runs: Sequence[dict]) -> Finding:
    """Held where PPO is above the references and above the larger supervised policy."""
    rates = [run["preference_over_reference"] for run in runs]
    names = [name for name in ("base", "sft", "sft_10x", "ppo") if name in rates[0]]
    names += [name for name in rates[0] if name.startswith("best_of")]
    held = all(one["ppo"]["low"] > max(0.5, one.get("sft_10x", one["sft"])["high"]) for one in rates)
    rows: list[Row] = [[i, *(percent(rate_of(one[name])) for name in names)] for i, one in enumerate(rates)]
    rows.append(["mean", *(f"{sum(one[name]['rate'] for one in rates) / len(rates):.1%}" for name in names)])
    told = f"PPO ends {listed([run['ppo']['kl'] for run in runs], '{:.1f}')} nats from the supervised policy."
    facts = [run["policies"]["ppo"].get("key_fact") for run in runs]
    if None not in facts:
        told += f" It states the key fact in {listed(facts)} of its summaries."
    return Finding(held, table(["run", *map(spoken, names)], rows) + f"\n\n{told}")


def equal_length(runs: Sequence[dict]) -> Finding:
    """Held where PPO is above the references and above SFT, with all at the length of the references."""
    found = [
        {name: one["preference_at_equal_length"] for name, one in run["policies"].items()} for run in runs
    ]
    names = [name for name, rate in found[0].items() if rate]
    rows: list[Row] = [[i, *(percent(rates[name]) for name in names)] for i, rates in enumerate(found)]
    rows.append(["tokens, run 0", *(f"{runs[0]['policies'][name]['tokens']:.1f}" for name in names)])
    held = all(rates["ppo"]["low"] > max(0.5, rates["sft"]["high"]) for rates in found)
    return Finding(held, table(["run", *map(spoken, names)], rows))


def likert(runs: Sequence[dict]) -> Finding | None:
    """Held where PPO's summaries are rated above the references on every axis, by the most on coverage."""
    found = [run["likert"] for run in runs if run.get("likert")]
    if not found:
        return None
    names = [name for name in ("reference", "sft", "sft_10x", "ppo") if name in found[0]]
    rows = []
    for axis in ("overall", "overall_at_equal_length", "accuracy", "coverage", "coherence", "perfect"):
        told = percent if axis == "perfect" else plain
        rows.append([spoken(axis), *(told(found[0][name][axis]) for name in names)])
    held = True
    for one in found:
        ours, theirs = one["ppo"], one["reference"]
        held &= all(ours[axis]["low"] > theirs[axis]["high"] for axis in AXES)
        gains = {axis: ours[axis]["value"] - theirs[axis]["value"] for axis in AXES if axis != "overall"}
        held &= gains["coverage"] == max(gains.values())
    return Finding(held, table(["run 0", *map(spoken, names)], rows))


def overoptimization(runs: Sequence[dict]) -> Finding:
    """Held where true preference peaks before the farthest policy, whose reward is not below the peak's."""
    held, rows = True, []
    true = judge_of(runs)
    for i, run in enumerate(runs):
        policies = sorted(run["ppo"], key=lambda one: one["kl"]["value"])
        peak, farthest = max(policies, key=lambda one: one[true]["value"]), policies[-1]
        falls = peak[true]["low"] > farthest[true]["high"]
        held &= falls and farthest["reward"]["value"] >= peak["reward"]["value"]
        for one in policies:
            figures = [plain(one["kl"]), plain(one["reward"]), percent(one["reward_preference"])]
            rows.append([i, f"{one['kl_coef']:g}", *figures, percent(one.get("gold_preference"))])
    head = ["run", "β", "KL, nats", "reward", "preferred by the reward model", "by the gold judge"]
    percentile = listed([run["reference_percentile"] for run in runs], "{:.2f}")
    told = f"The {runs[0]['percentile']}th percentile of the references' rewards is {percentile}."
    return Finding(held, table(head, rows) + f"\n\n{told}")


def best_of_n(runs: Sequence[dict]) -> Finding:
    """PPO and best-of-N where their KL is equal."""
    true = judge_of(runs)
    rows = []
    for i, run in enumerate(runs):
        for one in run["best_of_n"]:
            ppo = at_kl(run["ppo"], true, one["kl"]["value"])
            kl = [f"{one['kl_closed_form']:.2f}", plain(one["kl"])]
            rows.append([i, one["n"], *kl, percent(one[true]), "" if ppo is None else f"{ppo:.1%}"])
    who = "gold judge" if true == "gold_preference" else "reward model"
    head = ["run", "N", "KL, closed form", "KL, measured", f"preferred by the {who}", "PPO at that KL"]
    return Finding(None, table(head, rows))


def judge_of(runs: Sequence[dict]) -> str:
    """The gold judge's preference, or the reward model's where there is no other."""
    return "gold_preference" if "gold_preference" in runs[0]["ppo"][0] else "reward_preference"


def at_kl(points: Sequence[dict], name: str, kl: float) -> float | None:
    """A value on the line through points in the order of KL; None outside of them."""
    ordered = sorted((point["kl"]["value"], point[name]["value"]) for point in points)
    for (low, before), (high, after) in pairwise(ordered):
        if low <= kl <= high:
            return before + (after - before) * (kl - low) / max(high - low, 1e-9)
    return None


def more_comparisons(runs: Sequence[dict]) -> Finding | None:
    """Held where a size's reward model of the most comparisons is above that of the fewest."""
    rows, held = [], True
    for i, run in enumerate(runs):
        tried = Counter(one["size"] for one in run["points"])
        points = [one for one in run["points"] if tried[one["size"]] > 1]
        for size in dict.fromkeys(one["size"] for one in points):
            same = sorted((one for one in points if one["size"] == size), key=lambda one: one["comparisons"])
            held &= same[-1][truth_of(runs)]["low"] > same[0][truth_of(runs)]["high"]
        rows += [reward_row(i, one) for one in points]
    return Finding(held, reward_table(rows, runs, "comparisons")) if rows else None


def larger_models(runs: Sequence[dict]) -> Finding | None:
    """Held where of models pretrained alike the largest is above the smallest, and no larger one is worse.

    All are of the most comparisons; those that were not pretrained alike stand beside them.
    """
    rows, held = [], True
    for i, run in enumerate(runs):
        most = max(one["comparisons"] for one in run["points"])
        points = [one for one in run["points"] if one["comparisons"] == most]
        alike = [one for one in points if one["size"] in run["alike"]]
        if len(alike) < 2:
            return None
        right = [one[truth_of(runs)] for one in sorted(alike, key=lambda one: one["parameters"])]
        held &= right[-1]["low"] > right[0]["high"]
        held &= all(small["value"] < large["value"] for small, large in pairwise(right))
        rows += [reward_row(i, one) for one in points]
    return Finding(held, reward_table(rows, runs, "parameters"))


def truth_of(runs: Sequence[dict]) -> str:
    """The gold judge's choices of held-out pairs, or people's where there is no judge."""
    return "gold_accuracy" if "gold_accuracy" in runs[0]["points"][0] else "valid_accuracy"


def reward_row(run: int, one: dict) -> Row:
    """A reward model, and how often it is right."""
    right = [percent(one.get(name)) for name in ("valid_accuracy", "gold_accuracy", "blind_accuracy")]
    return [run, one["size"], f"{one['parameters'] / 1e6:.2f}M", f"{one['comparisons']:,}", *right]


def reward_table(rows: list[Row], runs: Sequence[dict], doubled: str) -> str:
    """Reward models, and what a doubling adds where it was tried."""
    gains = [run["per_doubling"][truth_of(runs)].get(doubled) for run in runs]
    told = "" if None in gains else f"\n\nA doubling of the {doubled} adds {listed(gains, '{:+.1%}')}."
    head = ["run", "pretrained model", "parameters", "comparisons"]
    return table([*head, "right, people", "right, gold judge", "blind to the post"], rows) + told


def policy_size(runs: Sequence[dict]) -> Finding | None:
    """Held where human feedback at every size is above supervision at every size."""
    if not all(run["policies"] for run in runs):
        return None
    rows, held = [], True
    for i, run in enumerate(runs):
        supervised = max(one["sft"]["high"] for one in run["policies"])
        right = {one["size"]: one.get("gold_accuracy", one["valid_accuracy"]) for one in run["points"]}
        for one in run["policies"]:
            held &= one["ppo"]["low"] > supervised
            rates = [percent(rate_of(one.get(name))) for name in ("base", "sft", "ppo")]
            size = [one["size"], f"{one['parameters'] / 1e6:.2f}M"]
            rows.append([i, *size, *rates, f"{right[one['size']]['value']:.1%}"])
    head = ["run", "pretrained model", "parameters", "pretrained", "supervised", "human feedback"]
    return Finding(held, table([*head, "its reward model right"], rows))


def agreement(runs: Sequence[dict]) -> Finding:
    """Held where the reward model leads ROUGE-L on pairs of every kind in every run."""
    names = [name for name in runs[0]["agreement"]["people"] if name != "lead_over_rougeL"]
    kinds = {"people": "held-out, people", "sft": "SFT samples, gold judge", "ppo": "PPO samples, gold judge"}
    rows, led = [], dict.fromkeys(kinds, True)
    for i, run in enumerate(runs):
        for kind, found in run["agreement"].items():
            lead = found["lead_over_rougeL"]
            shares = [percent(found.get(name)) for name in names]
            rows.append([i, kinds[kind], found["reward_model"]["pairs"], *shares, percent(lead)])
            led[kind] &= bool(lead) and lead["low"] > 0
    told = [f"It does not lead on {kinds[kind]}." for kind in kinds if not led[kind]]
    told += on_ppo_samples([run["agreement"].get("ppo", {}) for run in runs])
    head = ["run", "of", "pairs", *map(spoken, names), "lead over ROUGE-L"]
    return Finding(all(led.values()), "\n\n".join([table(head, rows), *told]))


def on_ppo_samples(found: Sequence[dict]) -> list[str]:
    """Whether a reward model that did not train the policy knows more of its samples, where one was asked."""
    if not all("another_reward_model" in one for one in found):
        return []
    own, another = (
        [one[name]["value"] for one in found] for name in ("reward_model", "another_reward_model")
    )
    told = (
        f"On samples of a PPO policy the reward model that it was trained against agrees with the judge on "
        f"{listed(own)} of the pairs, that of another run on {listed(another)}."
    )
    if all(a < b for a, b in zip(own, another, strict=True)):
        told += " What its own can tell apart is what training has taken out of them."
    else:
        told += " So it is not that the policy was trained against it."
    return [told]


def transfer(runs: Sequence[dict]) -> Finding:
    """Held where on news PPO is preferred over the SFT policy that it was trained from."""
    policies = [run["policies"] for run in runs]
    names = [name for name, one in policies[0].items() if "preference" in one]
    rows: list[Row] = [[i, *(percent(one[n]["preference"]) for n in names)] for i, one in enumerate(policies)]
    rows.append(["ROUGE-L, run 0", *(plain(policies[0][name]["rougeL"]) for name in names)])
    duels = [run["over_sft"] for run in runs]
    held = all(duel["ppo"]["low"] > 0.5 for duel in duels)
    others = [name for name in duels[0] if name != "ppo"]
    told = ""
    if not held and all(duel[name]["low"] > 0.5 for duel in duels for name in others):
        told = "\n\nThe reward model transfers: it finds better summaries among samples of SFT."
    models = [run.get("reward_model", {}).get("accuracy", {}) for run in runs]
    head = [*(f"{spoken(name)}, preferred over SFT" for name in duels[0]), "reward model right", "of pairs"]
    second = [
        [i, *map(percent, duel.values()), percent(model), model.get("pairs", "")]
        for i, (duel, model) in enumerate(zip(duels, models, strict=True))
    ]
    tables = table(["run", *map(spoken, names)], rows), table(["run", *head], second)
    return Finding(held, "\n\n".join(tables) + told)


def probes(runs: Sequence[dict]) -> Finding:
    """Held where the reward model is right more often than not on every kind of pairs there is."""
    names = list(runs[0]["probes"])
    rows: list[Row] = [[i, *(percent(run["probes"][n]) for n in names)] for i, run in enumerate(runs)]
    rows.append(["pairs, run 0", *(f"{runs[0]['probes'][name]['pairs']:,}" for name in names)])
    held = all(one["low"] > 0.5 for run in runs for one in run["probes"].values() if one["pairs"])
    return Finding(held, table(["run", *map(spoken, names)], rows))

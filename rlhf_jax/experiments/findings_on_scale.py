"""The paper's findings about data and size, held to what was measured here; see findings.py."""

from collections.abc import Mapping, Sequence
from itertools import pairwise, product

from rlhf_jax.data.names import spoken
from rlhf_jax.evaluation.across_runs import lead, matched, together
from rlhf_jax.evaluation.intervals import Estimate
from rlhf_jax.experiments.findings import Finding, Row, above, rates_of
from rlhf_jax.experiments.markdown import by, listed, millions, percent, points, table

# Preferred over the reference, by people (Stiennon et al. 2020, figure 1).
PAPER: list[Row] = [
    ["paper", "1.3B", "", "", "61%"],
    ["paper", "6.7B", "", "", "about 70%"],
    ["paper", "12.9B", "", "43%", ""],
]


def more_comparisons(runs: Sequence[dict]) -> Finding | None:
    """Held where the reward model of the most comparisons is above that of the fewest, of one size."""
    models = matched(runs, "points", "size", "share")
    sizes = [size for size, _ in models]
    several = [some for (size, _), some in models.items() if sizes.count(size) > 1]
    return reward_models(runs, several, "comparisons") if several else None


def larger_models(runs: Sequence[dict]) -> Finding | None:
    """Held where of the most comparisons the largest is above the smallest, and no step up is one down."""
    models = matched(runs, "points", "size", "share")
    most = max(share for _, share in models)
    largest = sorted(
        (some for (_, share), some in models.items() if share == most), key=lambda some: some[0]["parameters"]
    )
    if len(largest) < 2:
        return None
    held, body = reward_models(runs, largest, "parameters")
    steps = {who: [gain(*pair, who)["value"] for pair in pairwise(largest)] for who in held}
    return Finding({who: held[who] and min(steps[who]) >= 0 for who in held}, body)


def reward_models(runs: Sequence[dict], models: Sequence[list[dict]], grows: str) -> Finding:
    """Held where that of the most is above that of the fewest; each model is one a run."""
    models = sorted(models, key=lambda some: some[0][grows])
    truths = list(models[0][0]["accuracy"])
    held, told, rows = {}, [], []
    for who in truths:
        gained = gain(models[0], models[-1], who)
        held[who] = above(gained)
        slopes = [run["per_doubling"][who].get(grows) for run in runs]
        doubled = ""
        if None not in slopes:
            doubled = f", and a doubling adds {listed([100 * slope for slope in slopes], '{:+.1f}')}"
        text = f"From the fewest to the most {grows} a reward model gains {points(gained)} points"
        told.append(f"{text} by {by(who)}{doubled}.")
    for one in map(together, models):
        right = [percent(one["accuracy"][who]) for who in truths] + [percent(one["blind_accuracy"])]
        rows.append([one["size"], millions(one["parameters"]), f"{one['comparisons']:,}", *right])
    head = ["pretrained model", "parameters", "comparisons", *(f"right, by {by(who)}" for who in truths)]
    return Finding(
        held, "\n\n".join([table([*head, f"blind to the post, by {by(truths[-1])}"], rows), *told])
    )


def gain(smaller: Sequence[dict], larger: Sequence[dict], who: str) -> Estimate:
    """By how much one reward model is right more often than another."""
    return lead(*([one["accuracy"][who] for one in some] for some in (larger, smaller)))


def policy_size(runs: Sequence[dict]) -> Finding | None:
    """Held where human feedback at every size is above supervision at every size."""
    if not all(run["policies"] for run in runs):
        return None
    sizes = list(matched(runs, "policies", "size").values())
    rates = [rates_of(some, runs[0]["judge"]) for some in sizes]
    truths = list(rates[0])
    held = {
        who: all(
            above(lead([one["ppo"] for one in ours[who]], [one["sft"] for one in theirs[who]]))
            for ours, theirs in product(rates, rates)
        )
        for who in truths
    }
    tables = []
    for who in truths:
        rows = []
        for some, rate in zip(sizes, rates, strict=True):
            told = together(rate[who])
            shares = [percent(told.get(name)) for name in ("base", "sft", "ppo")]
            rows.append([some[0]["size"], millions(some[0]["parameters"]), *shares])
        head = ["pretrained", "supervised", "human feedback"]
        names = [f"{name}, by {by(who)}" for name in head]
        tables.append(table(["pretrained model", "parameters", *names], rows + PAPER * (who == truths[0])))
    return Finding(held, "\n\n".join(tables))


def gates(runs: Sequence[dict]) -> Finding | None:
    """What the pretrained models know before anything is trained: which claims about a post are true."""
    found: Mapping[str, dict] = runs[0]["gates"]
    if not found:
        return None
    rows: list[Row] = [
        ["parameters", *(millions(one["parameters"]) for one in found.values())],
        ["tokens of pretraining", *(f"{one['tokens'] / 1e6:.0f}M" for one in found.values())],
    ]
    kinds = dict.fromkeys(kind for one in found.values() for kind in one["kinds"])
    for kind in kinds:
        told = [one["kinds"].get(kind) for one in found.values()]
        rows.append(
            [spoken(kind), *(f"{one['accuracy']:.1%}, {one['auc']:.2f}" if one else "" for one in told)]
        )
    return Finding({}, table(["what a false claim changes", *found], rows))

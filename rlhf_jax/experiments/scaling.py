"""What more comparisons and larger models buy (Stiennon et al. 2020, figures 1 and 6).

    rlhf-jax scaling --workdir=runs/mini --policies

--workdir=FOLDER   a run with stages sft and reward finished; configuration and data are its own
--shares=LIST      of its comparisons to train on (0.125,0.25,0.5,1); the smaller lie in the larger
--sizes=LIST       pretrained models; without it, the run's own and its sft.bigger_pretrained
--large_shares=LIST  of the comparisons for all sizes but the first; without it, the same
--alike=LIST       sizes that were pretrained alike, which tell what a larger model buys; without it, all
--seeds=N          reward models of each, the best on valid1 counts; without it, the run's reward.seeds
--policies         also PPO and evaluation at every size, with the largest share
--episodes=N       of these PPO runs; without it, the run's ppo.episodes

A reward model is trained for each size and share, on comparisons of one and the same SFT policy, and held to
the same held-out pairs: to people's choices, and to the gold judge where there is one. Every model starts
from its size's own SFT policy.

The runs lie in `<workdir>/scaling/<size>_<share>/`; started again, they resume. The figures are
`<workdir>/scaling.json` and .png. Intervals are of 95%, by bootstrap over posts; they do not hold what
another seed would change.
"""

import dataclasses
import json
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from absl import flags
from etils.epath import Path

from rlhf_jax.config import Config, ConfigError
from rlhf_jax.data.comparisons import comparisons_of_run
from rlhf_jax.data.record_json import write_jsonl
from rlhf_jax.data.records import Comparison
from rlhf_jax.evaluation.blind import blind_margins
from rlhf_jax.evaluation.choices import agreement
from rlhf_jax.evaluation.judges import gaps
from rlhf_jax.experiments.command import Opened, command, numbers, open_run, write_figures
from rlhf_jax.files import write_json
from rlhf_jax.model import heads, params
from rlhf_jax.pipeline import stages
from rlhf_jax.report.paper_figures import scaling_figure
from rlhf_jax.run import fork
from rlhf_jax.run import workdir as runs

POLICIES = ("base", "sft", "ppo")  # of the paper's figure 1


def main(argv: list[str]) -> int:
    options = flags.FlagValues()
    flags.DEFINE_list("shares", "0.125,0.25,0.5,1", "of the comparisons", flag_values=options)
    flags.DEFINE_list("large_shares", [], "of the comparisons, for the larger", flag_values=options)
    flags.DEFINE_list("sizes", [], "pretrained models", flag_values=options)
    flags.DEFINE_list("alike", [], "of them", flag_values=options)
    flags.DEFINE_integer("seeds", None, "reward models of each", 1, flag_values=options)
    flags.DEFINE_bool("policies", False, "also PPO at every size", flag_values=options)
    flags.DEFINE_integer("episodes", None, "of these PPO runs", 1, flag_values=options)

    def measure_and_draw(run: Opened) -> None:
        config, workdir = run.config, run.workdir
        config.ppo.episodes = options.episodes or config.ppo.episodes
        config.reward.seeds = options.seeds or config.reward.seeds
        own, bigger = config.model.pretrained, config.sft.bigger_pretrained  # "" where there is none
        sizes = options.sizes or ([own, bigger] if bigger else [own])
        if not set(options.alike) <= set(sizes):
            raise ConfigError(f"--alike: {','.join(options.alike)} should be some of {','.join(sizes)}")
        first, *larger = sizes
        shares = {first: numbers("shares", options.shares)}
        shares |= dict.fromkeys(larger, numbers("large_shares", options.large_shares or options.shares))
        if max(map(max, shares.values())) > 1:
            raise ConfigError("--shares: a share of the comparisons is at most 1")
        points = [point(config, workdir, size, share) for size in sizes for share in shares[size]]
        policies = []
        if options.policies:
            policies = [policy(config, workdir, size, max(shares[size])) for size in sizes]
        figures = {
            "seed": config.seed,
            "points": points,
            "policies": policies,
            "alike": options.alike or sizes,
            "per_doubling": doublings(points, options.alike or sizes),
        }
        write_figures(workdir / "scaling.json", figures)
        scaling_figure([figures], workdir / "scaling.png")

    return command(argv, options, measure_and_draw)


def point(config: Config, workdir: Path, size: str, share: float) -> dict[str, Any]:
    """Accuracy of the reward model of one size, trained on one share; kept on disk once it is known."""
    folder = prepare(config, workdir, size, share)
    file = folder / "accuracy.json"
    if not file.exists():
        stages.run_stages(runs.read_config(folder), folder, ("sft", "collect", "reward"))
        write_json(file, accuracies(folder))
    return {"size": size, "share": share} | json.loads(file.read_text(encoding="utf-8"))


def policy(config: Config, workdir: Path, size: str, share: float) -> dict[str, Any]:
    """How often one size's policies, the run's own where they serve, are preferred over the reference."""
    folder, own = workdir, size == config.model.pretrained and share == 1
    if not own or config != runs.read_config(workdir) or not runs.stage_done(workdir, "eval"):
        folder = prepare(config, workdir, size, share)
        stages.run_stages(runs.read_config(folder), folder)
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    rates = results["preference_over_reference"]
    found = {name: rates[name] for name in POLICIES if name in rates}
    return {
        "size": size,
        "parameters": parameters(folder),
        "judge": results["judge"],
        "kl": results["ppo"]["kl"],
    } | found


def prepare(config: Config, workdir: Path, size: str, share: float) -> Path:
    """The run of one size and share, with its comparisons; what `workdir` has trained already is linked."""
    own = size == config.model.pretrained
    theirs = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, pretrained=size),
        sft=dataclasses.replace(config.sft, bigger_pretrained=""),
    )
    taken = {"sft": "sft"} if own else {}
    if not own and size == config.sft.bigger_pretrained:
        taken = {"sft": "sft_10x"}
    if own and share == 1 and config.reward == runs.read_config(workdir).reward:
        taken |= {"collect": "collect", "reward": "reward"}
    name = size.replace("/", "-") or "own"
    folder = runs.open_workdir(workdir / "scaling" / f"{name}_{share:g}", theirs)
    fork.take_over(workdir, folder, taken, stages.STAGES)
    if not (folder / "comparisons.jsonl").exists():
        write_jsonl(folder / "comparisons.jsonl", first_share(comparisons_of_run(config, workdir), share))
    return folder


def first_share(comparisons: Sequence[Comparison], share: float) -> list[Comparison]:
    """All that are held out, and of those to train on the first share of one random order."""
    train = [comparison for comparison in comparisons if comparison.split == "train"]
    held_out = [comparison for comparison in comparisons if comparison.split != "train"]
    order = np.random.default_rng(0).permutation(len(train))  # published ones stand batch by batch
    return [train[i] for i in sorted(order[: max(1, round(share * len(train)))])] + held_out


def accuracies(folder: Path) -> dict[str, Any]:
    """How often the reward model of a run picks what people, and the gold judge, prefer of held-out pairs."""
    run = open_run(folder)
    train, held_out = run.pairs()
    with run.on_mesh():
        margins = run.reward_model.margins(held_out)
    truths = {"valid_accuracy": np.ones(len(held_out))}
    if judge := run.task.judge:
        truths["gold_accuracy"] = gaps(judge, held_out)
    posts = [pair.info.id for pair in held_out]
    found = {name: agreement(margins, truth, posts) for name, truth in truths.items()}
    blind = agreement(blind_margins(train, held_out), list(truths.values())[-1], posts)
    return {"parameters": parameters(folder), "comparisons": len(train)} | found | {"blind_accuracy": blind}


def parameters(folder: Path) -> int:
    """Of the reward model of a run."""
    run = open_run(folder)
    with run.on_mesh():
        return params.count(heads.specs(run.reward_model.model, run.tokenizer.vocab_size))


def doublings(points: Sequence[dict], alike: Collection[str]) -> dict[str, dict[str, float]]:
    """What a doubling adds to each accuracy: of the comparisons, and of the parameters of those `alike`.

    By least squares, comparisons within each size and sizes within each number of comparisons; a doubling
    that was not tried is left out.
    """
    similar = [one for one in points if one["size"] in alike]
    gains: dict[str, dict[str, float]] = {}
    for name in ("valid_accuracy", "gold_accuracy"):
        if name in points[0]:
            slopes = {
                "comparisons": slope(points, "comparisons", name, within="size"),
                "parameters": slope(similar, "parameters", name, within="comparisons"),
            }
            gains[name] = {column: found for column, found in slopes.items() if found is not None}
    return gains


def slope(points: Sequence[dict], column: str, accuracy: str, within: str) -> float | None:
    """Of an accuracy along log₂ of a column, each group of points around its mean; None without spread."""
    group = np.unique([one[within] for one in points], return_inverse=True)[1]
    columns = [np.log2([one[column] for one in points]), np.array([one[accuracy]["value"] for one in points])]
    x, y = (values - (np.bincount(group, values) / np.bincount(group))[group] for values in columns)
    return float(x @ y / (x @ x)) if x @ x > 1e-9 else None

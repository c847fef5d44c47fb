"""What more comparisons and larger models buy (Stiennon et al. 2020, figures 1 and 6).

    rlhf-jax scaling --workdir=runs/mini --policies

--workdir=FOLDER   a run with stages sft and reward finished; configuration and data are its own
--shares=LIST      of its comparisons (0.125,0.25,0.5,1), on each of which a reward model of the run's own
                   size is trained; the smaller lie in the larger. All other sizes get the largest
--sizes=LIST       pretrained models; without it, the ladder of the miniature where the run's own is a rung of
                   it, elsewhere the run's own and its sft.bigger_pretrained
--policies         also PPO and evaluation at every size, with the largest share

All reward models are trained on comparisons of one and the same run, and held to the same held-out pairs: to
people's choices, and to the gold judge where there is one. Every model starts from its size's own SFT policy.

The runs lie in `<workdir>/scaling/<size>_<share>/`, but for the run's own size with all comparisons, which is
the run itself; started again, they resume. The figures are `<workdir>/scaling.json` and .png, with the gates
of every size: what its pretrained model knows, as its folder's gates.json has it. Intervals are of 95%, by
bootstrap over posts; runs of several seeds tell what another seed would change.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags
from etils.epath import Path

from rlhf_jax.config import ConfigError
from rlhf_jax.data.comparisons import Pair, comparisons_of_run
from rlhf_jax.data.record_json import write_jsonl
from rlhf_jax.data.records import Comparison
from rlhf_jax.evaluation.blind import blind_margins
from rlhf_jax.evaluation.choices import agreement
from rlhf_jax.evaluation.intervals import Estimate
from rlhf_jax.evaluation.judges import gaps
from rlhf_jax.experiments.command import Opened, command, numbers, open_run, write_figures
from rlhf_jax.files import read_object, write_json
from rlhf_jax.model import heads, params, pretrained
from rlhf_jax.pipeline import stages
from rlhf_jax.report.paper_figures import scaling_figure
from rlhf_jax.run import fork
from rlhf_jax.run import workdir as runs

LADDER = ("mini/tiny", "mini/small", "mini/medium", "mini/large")  # pretrained on the same tokens
POLICIES = ("base", "sft", "ppo")  # of the paper's figure 1
RATES = ("people_over_reference", "preference_over_reference")


def main(argv: list[str]) -> int:
    options = flags.FlagValues()
    flags.DEFINE_list("shares", "0.125,0.25,0.5,1", "of the comparisons", flag_values=options)
    flags.DEFINE_list("sizes", [], "pretrained models", flag_values=options)
    flags.DEFINE_bool("policies", False, "also PPO at every size", flag_values=options)

    def measure_and_draw(run: Opened) -> None:
        own, bigger = run.config.model.pretrained, run.config.sft.bigger_pretrained  # "" where there is none
        sizes = options.sizes or (LADDER if own in LADDER else (own, bigger) if bigger else (own,))
        shares = numbers("shares", options.shares)
        if max(shares) > 1:
            raise ConfigError("--shares: a share of the comparisons is at most 1")
        tried = [(size, share) for size in sizes for share in (shares if size == own else [max(shares)])]
        points = [point(run, size, share) for size, share in tried]
        figures = {
            "seed": run.config.seed,
            "judge": "gold judge" if run.task.judge else "reward model",
            "points": points,
            "policies": [policy(run, size, max(shares)) for size in sizes if options.policies],
            "per_doubling": doublings(points),
            "gates": {size: found for size in sizes if (found := gates(size))},
        }
        write_figures(run.workdir / "scaling.json", figures)
        scaling_figure([figures], run.workdir / "scaling.png")

    return command(argv, options, measure_and_draw)


def point(run: Opened, size: str, share: float) -> dict[str, Any]:
    """Accuracy of the reward model of one size, trained on one share; kept on disk once it is known."""
    folder = prepare(run, size, share)
    file = folder / "accuracy.json"
    if not file.exists():
        stages.run_stages(runs.read_config(folder), folder, ("sft", "collect", "reward"))
        write_json(file, accuracies(folder))
    return {"size": size, "share": share} | read_object(file, ConfigError)


def policy(run: Opened, size: str, share: float) -> dict[str, Any]:
    """How often one size's policies are preferred over the reference, by whom they were judged."""
    folder = prepare(run, size, share)
    stages.run_stages(runs.read_config(folder), folder)
    results = read_object(folder / "results.json", ConfigError)
    found = {
        by: {name: results[by][name] for name in POLICIES if name in results[by]}
        for by in RATES
        if by in results
    }
    return {"size": size, "parameters": parameters(folder), "kl": results["ppo"]["kl"]} | found


def gates(size: str) -> dict[str, Any]:
    """What is known of a pretrained model: tokens, parameters, and how well it tells claims of each kind."""
    return read_object(pretrained.folder_of(size) / "gates.json", ConfigError, missing={}) if size else {}


def prepare(run: Opened, size: str, share: float) -> Path:
    """The run of one size and share, with its comparisons; what `run` has trained already is linked."""
    config, workdir = run.config, run.workdir
    own = size == config.model.pretrained
    if own and share == 1:
        return workdir
    theirs = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, pretrained=size),
        sft=dataclasses.replace(config.sft, bigger_pretrained=""),
    )
    name = size.replace("/", "-") or "own"
    folder = runs.open_workdir(workdir / "scaling" / f"{name}_{share:g}", theirs)
    there = "sft" if own else "sft_10x" if size == config.sft.bigger_pretrained else None
    fork.take_over(workdir, folder, {"sft": there} if there else {}, stages.STAGES)
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
    """How often the reward model of a run is right about held-out pairs, by what people and judge prefer.

    The scorer that is blind to the post is held to the judge, or to people where there is none.
    """
    run = open_run(folder)
    train, held_out = run.pairs()
    with run.on_mesh():
        accuracy = accuracy_of(run, held_out)
    truth = gaps(run.task.judge, held_out) if run.task.judge else np.ones(len(held_out))
    posts = [pair.info.id for pair in held_out]
    return {
        "parameters": parameters(folder),
        "comparisons": len(train),
        "accuracy": accuracy,
        "blind_accuracy": agreement(blind_margins(train, held_out), truth, posts),
    }


def accuracy_of(run: Opened, pairs: Sequence[Pair]) -> dict[str, Estimate]:
    """How often the reward model of a run is right about pairs, by people and by the gold judge."""
    margins, posts = run.reward_model.margins(pairs), [pair.info.id for pair in pairs]
    truths = {"people": np.ones(len(pairs))}
    if judge := run.task.judge:
        truths["gold judge"] = gaps(judge, pairs)
    return {who: agreement(margins, truth, posts) for who, truth in truths.items()}


def parameters(folder: Path) -> int:
    """Of the reward model of a run."""
    run = open_run(folder)
    with run.on_mesh():
        return params.count(heads.specs(run.reward_model.model, run.tokenizer.vocab_size))


def doublings(points: Sequence[dict]) -> dict[str, dict[str, float]]:
    """What a doubling of the comparisons, and of the parameters, adds to each accuracy.

    By least squares, comparisons within each size and sizes within each number of comparisons; a doubling
    that was not tried is left out.
    """
    within = {"comparisons": "size", "parameters": "comparisons"}
    return {
        truth: {
            column: found
            for column, group in within.items()
            if (found := slope(points, column, truth, group)) is not None
        }
        for truth in points[0]["accuracy"]
    }


def slope(points: Sequence[dict], column: str, truth: str, within: str) -> float | None:
    """Of an accuracy along log₂ of a column, each group of points around its mean; None without spread."""
    group = np.unique([one[within] for one in points], return_inverse=True)[1]
    right = np.array([one["accuracy"][truth]["value"] for one in points])
    columns = [np.log2([one[column] for one in points]), right]
    x, y = (values - (np.bincount(group, values) / np.bincount(group))[group] for values in columns)
    return float(x @ y / (x @ x)) if x @ x > 1e-9 else None

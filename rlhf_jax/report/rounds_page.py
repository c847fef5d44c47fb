"""The page of a run in rounds, rounds.html: what each round's reward model and PPO policy came to."""

from pathlib import Path

from rlhf_jax.files import write_json, write_text
from rlhf_jax.report.page import ReportError, read_json, template
from rlhf_jax.report.page_plots import rounds_plot


def write_rounds_report(workdir: Path, count: int) -> None:
    """Writes `workdir`/rounds.html and rounds.json from the results of rounds 1 to `count`."""
    rounds = [summary(workdir / "rounds" / str(number)) for number in range(1, count + 1)]
    write_json(workdir / "rounds.json", rounds)
    page = template("rounds.html.jinja").render(
        run=workdir.resolve().name,
        rounds=rounds,
        plot=rounds_plot(
            [one["ppo"]["rate"] for one in rounds],
            [one["ppo"]["stderr"] for one in rounds],
            [one["sft"]["rate"] for one in rounds],
        ),
    )
    write_text(workdir / "rounds.html", page)


def summary(folder: Path) -> dict:
    """A round in a few numbers: `ppo` and `sft` are their rates of preference over the reference."""
    file = folder / "results.json"
    results = read_json(file)
    with open(folder / "comparisons.jsonl", encoding="utf-8") as lines:
        comparisons = sum(1 for _ in lines)
    try:
        return {
            "comparisons": comparisons,
            "judge": results["judge"],
            "posts": results["posts"],
            "valid_accuracy": results["reward_model"]["valid_accuracy"],
            "gold_accuracy": results["reward_model"]["gold_accuracy"],
            "ppo": results["preference_over_reference"]["ppo"],
            "sft": results["preference_over_reference"]["sft"],
            "key_fact": results["policies"]["ppo"].get("key_fact"),
            "kl": results["ppo"]["kl"],
        }
    except KeyError as missing:
        raise ReportError(
            f"{file}: field {missing.args[0]} is missing; `rlhf-jax run --stage=eval` there makes it again"
        ) from None

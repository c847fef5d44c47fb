"""Which kind of human feedback is worth its price: preference along hours of labelling.

    rlhf-jax feedback --workdir=runs/mini

--workdir=FOLDER   a run of the miniature with stages sft and collect finished; all else is its own
--kinds=LIST       (all) comparison, nine_point, rating, demonstration, edit, edit_target, explanation
--budgets=LIST     (67,167,427,1066) hours of work, each spent on one kind alone; the last is what the demo's
                   comparisons cost
--seconds=LIST     what an answer costs, such as comparison:30,edit:90, for comparison, nine_point, rating,
                   demonstration, edit and explanation. Without it 240, 240, 195, 390, 270 and 240, whose
                   sources, and which are guessed, say PRICES of experiments/feedback_kinds.py and the figures
--episodes=N       of each PPO run; without it, the run's ppo.episodes
--posts=N          (500) unseen posts that every policy summarizes, greedily

Stiennon et al. (2020, §5 and appendix D) name demonstrations, edits and explanations as other feedback than
comparisons, and found the experiment too expensive. Here simulated people give each of them with the same
noise: data/mini/labelers.py, editor.py, posts.py and explanations.py. What becomes of each kind, the module
feedback_kinds says. Every policy begins at the run's supervised one, which learned from references that cost
nothing: by fine-tuning on demonstrations and edits, with the settings of stage distill, or by a reward model
and PPO. The run's held-out comparisons, on which reward models are measured, are not counted either.

The runs lie in `<workdir>/feedback/<kind>_<hours>/`; started again, they resume. The figures are
`<workdir>/feedback.json` and .png. Intervals are of 95%, by bootstrap over posts.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags
from etils.epath import Path

from rlhf_jax.config import ConfigError
from rlhf_jax.data.comparisons import comparisons_of_run
from rlhf_jax.data.record_json import read_posts, write_jsonl
from rlhf_jax.data.records import Record
from rlhf_jax.data.tasks.mini import Mini
from rlhf_jax.evaluation.errors import error_shares
from rlhf_jax.evaluation.intervals import Estimate, mean
from rlhf_jax.experiments.command import Opened, command, numbers, write_figures
from rlhf_jax.experiments.feedback_kinds import KINDS, PRICES, Material, prices_of
from rlhf_jax.experiments.scaling import accuracy_of
from rlhf_jax.files import read_object, write_json
from rlhf_jax.pipeline import distill, stages
from rlhf_jax.report.paper_figures import feedback_figure
from rlhf_jax.run import fork
from rlhf_jax.run import workdir as runs

BUDGETS = "67,167,427,1066"
TAUGHT = "sft_on_feedback"  # the network that is fine-tuned on what people wrote
COMPARISONS, DEMONSTRATIONS = "comparisons.jsonl", "demonstrations.jsonl"  # what they answered


def main(argv: list[str]) -> int:
    options = flags.FlagValues()
    flags.DEFINE_list("kinds", list(KINDS), "of feedback", flag_values=options)
    flags.DEFINE_list("budgets", BUDGETS, "hours of labelling", flag_values=options)
    flags.DEFINE_list("seconds", [], "of work an answer", flag_values=options)
    flags.DEFINE_integer("episodes", None, "of each PPO run", 1, flag_values=options)
    flags.DEFINE_integer("posts", 500, "that policies summarize", 1, flag_values=options)

    def measure_and_draw(run: Opened) -> None:
        if not isinstance(run.task, Mini):
            raise ConfigError(
                f"--workdir: {run.workdir} is a run on {run.config.data.source}; people who give every kind "
                "of feedback are simulated in the miniature alone (data.source=mini)"
            )
        if unknown := [name for name in options.kinds if name not in KINDS]:
            raise ConfigError(f"--kinds: {unknown[0]!r} is none of {', '.join(KINDS)}")
        prices = prices_of(options.seconds)
        asked = [
            Purchase(kind, hours, prices[KINDS[kind].price])
            for kind in options.kinds
            for hours in numbers("budgets", options.budgets)
        ]
        opened = {one: prepare(run, one, options.episodes) for one in asked}
        for one in asked:
            train(opened[one], one)
        figures = measure(run, opened, prices, options.posts)
        write_figures(run.workdir / "feedback.json", figures)
        feedback_figure([figures], run.workdir / "feedback.png")

    return command(argv, options, measure_and_draw)


@dataclasses.dataclass(frozen=True)
class Purchase:
    """A kind of feedback for some hours of work, at so many seconds an answer."""

    kind: str
    hours: float
    seconds: float

    @property
    def answers(self) -> int:
        """How many there are in the hours, the last one whole."""
        return int(self.hours * 3600 / self.seconds + 1e-9)


def prepare(run: Opened, purchase: Purchase, episodes: int | None) -> Opened:
    """The run that will learn from a purchase, with the supervised policy and with what people answered."""
    config, loss = run.config, KINDS[purchase.kind].loss
    ppo = dataclasses.replace(config.ppo, episodes=episodes or config.ppo.episodes)
    reward = dataclasses.replace(config.reward, loss=loss or config.reward.loss)
    config = dataclasses.replace(config, ppo=ppo, reward=reward)
    workdir = run.workdir / "feedback" / f"{purchase.kind}_{purchase.hours:g}"
    folder = runs.open_workdir(workdir, config)
    hold_price(folder, purchase)
    fork.take_over(run.workdir, folder, {"sft": "sft"}, stages.STAGES)
    ask(run, purchase, folder)
    return dataclasses.replace(run, workdir=folder, config=config)


def train(run: Opened, purchase: Purchase) -> None:
    """A reward model and PPO against it, or the supervised policy fine-tuned on what people wrote."""
    if KINDS[purchase.kind].loss:
        stages.run_stages(run.config, run.workdir, ("collect", "reward", "ppo"))
    else:
        with run.on_mesh():
            records: list[Record] = [*read_posts(run.workdir / DEMONSTRATIONS)]
            distill.fine_tune(TAUGHT, run.network("sft"), records, run.config, run.workdir)


def hold_price(folder: Path, purchase: Purchase) -> None:
    """Keeps what was bought in the folder. Raises ConfigError where it was bought at another price."""
    file, bought = folder / "purchase.json", dataclasses.asdict(purchase)
    before = read_object(file, ConfigError, missing=bought)
    if before != bought:
        raise ConfigError(
            f"{folder}: its answers cost {before.get('seconds')} seconds each, not {purchase.seconds:g}: "
            f"move it away, or give --seconds={KINDS[purchase.kind].price}:{before.get('seconds')}"
        )
    write_json(file, bought)


def ask(run: Opened, purchase: Purchase, folder: Path) -> None:
    """Has people answer, once: comparisons, which join the run's held-out ones, or posts with summaries."""
    kind = KINDS[purchase.kind]
    file = folder / (COMPARISONS if kind.loss else DEMONSTRATIONS)
    if not file.exists():
        comparisons = comparisons_of_run(run.config, run.workdir)
        train = [one for one in comparisons if one.split == "train"]
        order = np.random.default_rng([run.config.seed, 1]).permutation(len(train))
        material = Material([train[i] for i in order], run.task.records()["train"], run.config.seed)
        held_out = [one for one in comparisons if one.split != "train" and kind.loss]
        write_jsonl(file, [*kind.ask(material, purchase.answers), *held_out])


def measure(
    run: Opened, opened: Mapping[Purchase, Opened], prices: Mapping[str, float], count: int
) -> dict[str, Any]:
    """All figures, as plain JSON values."""
    posts = run.unseen()[:count]
    with run.on_mesh():
        supervised = preferred(run, run.network("sft").write(posts), posts)
        points = [point(*each, posts) for each in opened.items()]
    told = {
        name: price.source if prices[name] == price.seconds else "given" for name, price in PRICES.items()
    }
    return {
        "seed": run.config.seed,
        "posts": len(posts),
        "prices": {name: {"seconds": prices[name], "source": told[name]} for name in PRICES},
        "sft": supervised,
        "points": points,
    }


def point(purchase: Purchase, run: Opened, posts: Sequence[Record]) -> dict[str, Any]:
    """How good the policy of one run is, how often its reward model is right, and what it was trained on."""
    has_reward_model = bool(KINDS[purchase.kind].loss)
    texts = run.network("ppo" if has_reward_model else TAUGHT).write(posts)
    found = {
        "kind": purchase.kind,
        "hours": purchase.hours,
        "answers": purchase.answers,
        "preference": preferred(run, texts, posts),
        "errors": error_shares(run.task, posts, texts),
    }
    if has_reward_model:
        train, held_out = run.pairs()
        found |= {"pairs": len(train), "accuracy": accuracy_of(run, held_out)}
    return found


def preferred(run: Opened, texts: Sequence[str], posts: Sequence[Record]) -> dict[str, Estimate]:
    """How often a summary is preferred over the reference, by people and by the gold judge."""
    references = [post.reference for post in posts]
    return {who: mean(judge(posts, texts, references)) for who, judge in run.truths.items()}

"""Ways to learn from the same feedback, beside each other: what each gains, how far it goes, what it costs.

    rlhf-jax methods --workdir=runs/mini

--workdir=FOLDER   a run with stages sft, collect and reward finished; configuration and data are its own
--methods=LIST     names of rows of METHODS, in rlhf_jax/experiments/methods.py (all of them)
--strengths=N      of each method, spread over those of its row (all of them)
--episodes=N       of PPO and its variants; without it, the run's ppo.episodes
--posts=N          unseen posts that every policy summarizes (1000)
--pool=N           (128) samples of the SFT policy for each of them, from which best-of-N is told

Every policy samples at eval.temperature. Its KL from the SFT policy is measured on those samples, and so is
how often a summary is preferred over the reference: by the run's reward model and, where there are any, by
the gold judge and by simulated people; which errors the task finds; and how many summaries differ. The cost
is the seconds of training beyond the run's SFT policy, and the comparisons and demonstrations that it takes.
Preference is told of each half of the posts, too, so that a strength can be chosen on one of them and
reported on the other.

Each method and strength is a run of its own in `<workdir>/methods/<method>_<strength>/`, which goes on from
the finished stages; started again, they resume. The figures are `<workdir>/methods.json` and .png. Intervals
are of 95%, by bootstrap over posts; runs of several seeds tell what another seed would change.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from absl import flags
from etils.epath import Path

from rlhf_jax.config import Config, ConfigError, Settings, changed
from rlhf_jax.data.tasks.mini import Mini
from rlhf_jax.evaluation.intervals import Estimate
from rlhf_jax.experiments.command import Opened, branch, command, open_run, write_figures
from rlhf_jax.experiments.written import (
    Scores,
    Written,
    by_best_of_n,
    by_policy,
    figures_of,
    pool_of,
    scores_of,
    told,
)
from rlhf_jax.pipeline import stages
from rlhf_jax.report.paper_figures import methods_figure
from rlhf_jax.run import workdir as runs
from rlhf_jax.validation import validate


@dataclass(frozen=True)
class Method:
    """A row of the table: a way to learn, and the strengths at which it is tried."""

    name: str
    label: str  # what people call it
    # The stages whose training it takes beyond the run's SFT policy. The last leaves the policy; where that
    # is the reward model, the best of several samples of the SFT policy is chosen at every use.
    trains: tuple[str, ...] = ()
    settings: Settings = field(default_factory=dict)  # fields of the configuration that it changes
    strength: str = ""  # the field that takes its strengths
    sign: str = ""  # what stands before one where people read
    strengths: tuple[float | None, ...] = (None,)

    @property
    def chooses(self) -> bool:
        return self.trains[-1:] == ("reward",)

    @property
    def policy(self) -> str:
        return self.trains[-1] if self.trains else "sft"

    @property
    def is_online(self) -> bool:
        """Whether the policy learns from what it writes while it learns."""
        return self.policy == "ppo"

    @property
    def compares(self) -> bool:
        """Whether it takes people's comparisons."""
        return any("collect" in stages.find(stage).needs for stage in self.trains)


def online(name: str, label: str, **ppo: Any) -> Method:
    """A row of stage ppo, with other values for these of its fields."""
    ppo = {"kl_controller": "fixed", "ensemble": "best"} | ppo
    settings = {f"ppo.{field}": value for field, value in ppo.items()}
    return Method(name, label, ("reward", "ppo"), settings, "ppo.kl_coef", "β", (0.2, 0.05, 0.01))


def several(name: str, label: str, ensemble: str) -> Method:
    """PPO against three reward models, which are trained once for all such rows."""
    row = online(name, label, ensemble=ensemble)
    return replace(row, settings=row.settings | {"reward.seeds": 3})


MORE = "data.mini_posts"  # of which a strength is a multiple of the run's own
METHODS = (
    Method("sft", "SFT"),
    Method("more_sft", "SFT, more demonstrations", ("sft",), {"sft.bigger_pretrained": ""}, MORE, "×", (2,)),
    Method("best_of_n", "best-of-N", ("reward",), {}, "eval.best_of", "N", (2, 4, 8, 16, 32, 64)),
    Method("distill", "best-of-N, distilled", ("reward", "distill"), {}, "distill.best_of", "N", (4, 16, 64)),
    Method("dpo", "DPO", ("dpo",), {}, "dpo.beta", "β", (0.3, 0.1, 0.03, 0.01)),
    online("online_dpo", "online DPO", algorithm="online_dpo", samples=4, epochs=1),
    online("rloo", "RLOO", algorithm="rloo", samples=4, epochs=1, ratio="sequence", loss_mean="rows"),
    online("grpo", "GRPO", algorithm="grpo", samples=4, loss_mean="rows", kl_in="loss", kl_estimator="k3"),
    online("ppo", "PPO", algorithm="ppo"),
    several("ppo_worst", "PPO, the worst of 3 reward models", "worst"),
    several("ppo_mean", "PPO, the mean of 3 reward models", "mean"),
)


@dataclass(frozen=True)
class Trial:
    """A method at one strength; a method without any has one trial."""

    method: Method
    strength: float | None

    @property
    def name(self) -> str:
        return self.method.name + ("" if self.strength is None else f"_{self.strength:g}")

    @property
    def setting(self) -> str:
        return "" if self.strength is None else f"{self.method.sign} {self.strength:g}"

    def config(self, config: Config, episodes: int | None) -> Config:
        """That of a run with this method. Raises ConfigError naming the trial where it cannot run."""
        settings = dict(self.method.settings)
        if self.method.strength == MORE:
            settings[MORE] = int(config.data.mini_posts * (self.strength or 1))
        elif self.method.strength:
            settings[self.method.strength] = self.strength
        if self.method.is_online and episodes:
            settings["ppo.episodes"] = episodes
        try:
            return validate(changed(config, settings))
        except ConfigError as error:
            raise ConfigError(f"{self.name}: {error}") from None


def main(argv: list[str]) -> int:
    options = flags.FlagValues()
    flags.DEFINE_list("methods", [], "rows of METHODS", flag_values=options)
    flags.DEFINE_integer("strengths", None, "of each method", 1, flag_values=options)
    flags.DEFINE_integer("episodes", None, "of PPO and its variants", 1, flag_values=options)
    flags.DEFINE_integer("posts", 1000, "that policies summarize", 2, flag_values=options)
    flags.DEFINE_integer("pool", 128, "samples a post", 2, flag_values=options)

    def measure_and_draw(run: Opened) -> None:
        trials = [
            Trial(method, strength)
            for method in chosen(run, options.methods)
            for strength in spread(method.strengths, options.strengths)
        ]
        most = max((trial.strength or 0 for trial in trials if trial.method.chooses), default=0)
        if most > options.pool:
            raise ConfigError(f"--pool: best of {most:g} takes as many samples a post at least")
        configs = [trial.config(run.config, options.episodes) for trial in trials]
        folders = [train(run, *each) for each in zip(trials, configs, strict=True)]
        figures = measure(run, trials, folders, options.posts, options.pool)
        write_figures(run.workdir / "methods.json", figures)
        methods_figure([figures], run.workdir / "methods.png")

    return command(argv, options, measure_and_draw)


def chosen(run: Opened, names: Sequence[str]) -> list[Method]:
    """The rows of these names, in the order of the table, or all; but for what a task does not have."""
    known = [method.name for method in METHODS]
    for name in names:
        if name not in known:
            raise ConfigError(f"--methods: {name!r} is none of {', '.join(known)}")
    found = [method for method in METHODS if not names or method.name in names]
    if isinstance(run.task, Mini):
        return found
    return [method for method in found if method.strength != MORE]  # all that there are were learned from


def spread(strengths: Sequence[float | None], count: int | None) -> list[float | None]:
    """So many of them, or all: those in the midst of parts of equal length."""
    parts = min(count or len(strengths), len(strengths))
    return [strengths[(2 * i + 1) * len(strengths) // (2 * parts)] for i in range(parts)]


def train(run: Opened, trial: Trial, config: Config) -> Path:
    """The folder of the run in which the trial's policy is."""
    method, place = trial.method, run.workdir / "methods"
    if not method.trains or method.chooses:
        return run.workdir
    needed = stages.before(method.policy)
    earlier = tuple(beginning for name in needed for beginning in stages.find(name).fields)
    if shared := {name: value for name, value in method.settings.items() if name.startswith(earlier)}:
        reward_models = branch(run, place / "reward_models", changed(run.config, shared), "reward")
        run = replace(run, workdir=reward_models)
    return branch(run, place / trial.name, config, method.policy)


def measure(
    run: Opened, trials: Sequence[Trial], folders: Sequence[Path], count: int, pool: int
) -> dict[str, Any]:
    """All figures, as plain JSON values."""
    posts, points = run.unseen()[:count], []
    comparisons, demonstrations = len(run.pairs()[0]), len(run.demonstrations())
    with run.on_mesh():
        references = scores_of(run, posts, [post.reference for post in posts])
        samples = pool_of(run, posts, pool) if any(trial.method.chooses for trial in trials) else None
        for trial, folder in zip(trials, folders, strict=True):
            if samples and trial.method.chooses:
                written = by_best_of_n(samples, int(trial.strength or 0))
            else:
                written = by_policy(run, run.network(trial.method.policy, folder), posts)
            about = {"method": trial.method.name, "label": trial.method.label, "setting": trial.setting}
            points.append(
                about
                | costs(trial, folder, comparisons, demonstrations)
                | figures_of(run, written, references)
                | by_halves(written, references)
            )
    return {
        "seed": run.config.seed,
        "posts": len(posts),
        "pool": pool,
        "temperature": run.config.eval.temperature,
        "points": points,
    }


def costs(trial: Trial, folder: Path, comparisons: int, demonstrations: int) -> dict[str, Any]:
    """Seconds of training, what people did for it, and how often the policy writes for one summary.

    The run has so many comparisons and demonstrations.
    """
    method, seconds = trial.method, runs.read_seconds(folder)
    if method.strength == MORE:
        demonstrations = len(open_run(folder).demonstrations())
    return {
        "online": method.is_online,
        "seconds": sum(seconds[stage] for stage in method.trains),
        "comparisons": comparisons if method.compares else 0,
        "demonstrations": demonstrations,
        "samples": trial.strength if method.chooses else 1,
    }


def by_halves(written: Written, references: Scores) -> dict[str, dict[str, Estimate]]:
    """Preference on the first half of the posts, to choose a strength on, and on the others, to report."""

    def on(half: slice) -> dict[str, Estimate]:
        verdicts, theirs = (
            {who: values[half] for who, values in scores.items()} for scores in (written.verdicts, references)
        )
        return told(verdicts, theirs, written.weights[half])["preference"]

    middle = len(written.posts) // 2
    return {"to_choose": on(slice(middle)), "to_report": on(slice(middle, None))}

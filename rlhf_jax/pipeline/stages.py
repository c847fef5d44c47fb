"""The stages of the pipeline, in order: one table, which all else asks, and how they are run."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
from etils.epath import Path

from rlhf_jax import inference
from rlhf_jax.config import MODEL, Config, ConfigError, ModelConfig
from rlhf_jax.data.tokenizer import GENERATION_FILE, TEMPLATE_FILE
from rlhf_jax.pipeline import collect, distill, dpo, ppo, reward, sft
from rlhf_jax.run import hosts
from rlhf_jax.run import workdir as runs

STAGE_END_SECONDS = 3600  # the other processes wait so long for process 0, which evaluates and writes alone

ROUND = "round"  # not a stage of a run, but runs of their own within it

# (config, model, vocabulary) → the step of a stage, traced without arrays
Program = Callable[[Config, ModelConfig, int], jax.stages.Traced]


class Output(NamedTuple):
    """A network that a stage leaves in checkpoints/: what people call it, and what its model card says.

    Both may hold a field of `words_of`, the card's text also those of the task's words.
    """

    label: str
    description: str
    scalar: bool = False  # scores responses and writes none


@dataclass(frozen=True)
class Stage:
    """A row of the table: everything that the rest of the code knows of a stage."""

    name: str  # the first word of the names of its networks and of their metrics
    label: str  # what people call it
    run: Callable[[Config, Path], None]  # resumes where it was stopped
    wanted: Callable[[Config], bool] = lambda config: True  # whether a run of all stages goes through it
    needs: tuple[str, ...] = ()  # stages whose networks or files it reads; where none is named, all before it
    fields: tuple[str, ...] = ()  # beginnings of fields: a fork that changes one runs the stage anew
    files: tuple[str, ...] = ()  # what it leaves beside checkpoints and metrics, as patterns
    networks: Mapping[str, Output] = field(default_factory=dict)
    programs: Mapping[str, Program] = field(default_factory=dict)  # that `rlhf-jax plan` compiles

    def about(self, config: Config) -> dict:
        """What a work folder keeps of the stage, so that the report can name it without this table."""
        words = words_of(config)
        networks = {name: left.label.format(**words) for name, left in self.networks.items()}
        return {"label": self.label.format(**words), "networks": networks}


def words_of(config: Config) -> dict[str, str]:
    """What stands for the fields of a label."""
    direct = {"dpo": "DPO", "ipo": "IPO", "simpo": "SimPO"}[config.dpo.algorithm]
    algorithm = {"online_dpo": "online DPO"}.get(config.ppo.algorithm, config.ppo.algorithm.upper())
    return {"algorithm": algorithm, "direct": direct}


def evaluate(config: Config, workdir: Path) -> None:
    """The last stage. Its plots and statistics take longer to import than the other stages together."""
    from rlhf_jax.pipeline import evaluate

    evaluate.run(config, workdir)


def scores_by_model(config: Config) -> bool:
    """Whether a reward model is among the rewards: of PPO, and of those by which evaluation measures."""
    return MODEL in config.ppo.rewards


def learns_from_pairs(config: Config) -> bool:
    """Whether people's comparisons are needed."""
    return scores_by_model(config) or "dpo" in config.policies


STAGES = [
    Stage(
        "sft",
        "Supervised fine-tuning",
        sft.train,
        fields=("sft.", "model.", "data.template_variables"),  # which stand in every prompt that it learned
        files=("tokenizer*", TEMPLATE_FILE, GENERATION_FILE),
        networks={
            "sft": Output("SFT", "a policy fine-tuned on {responses} that people wrote or preferred"),
            "sft_10x": Output(
                "SFT, 10× larger",
                "a larger policy, fine-tuned on the same {responses}",
            ),
        },
        programs={"sft": sft.traced},
    ),
    Stage(
        "collect",
        "Comparisons",
        collect.run,
        wanted=learns_from_pairs,
        needs=("sft",),
        fields=(
            "data.comparisons",
            "data.files",
            "data.columns",
            "data.mini_pairs",
            "data.mini_policies",
            "eval.shots",
        ),
        files=("comparisons.jsonl",),
    ),
    Stage(
        "reward",
        "Reward model",
        reward.train,
        wanted=scores_by_model,
        needs=("sft", "collect"),
        fields=("reward.",),
        networks={
            "reward": Output(
                "Reward model",
                "a reward model: it scores a {response} to a {prompt} as people would prefer it",
                scalar=True,
            ),
            "reward_averaged": Output(
                "Reward models, averaged",
                "a reward model whose weights are the mean of several, which learned people's preferences",
                scalar=True,
            ),
        },
        programs={"reward": reward.traced},
    ),
    Stage(
        "dpo",
        "{direct}",
        dpo.train,
        wanted=lambda config: "dpo" in config.policies,
        needs=("sft", "collect"),
        fields=("dpo.", "reward.batches"),
        networks={
            "dpo": Output("{direct}", "a policy trained with {direct} on {responses} that people compared")
        },
        programs={"dpo": dpo.traced},
    ),
    Stage(
        "distill",
        "Best-of-N distillation",
        distill.train,
        wanted=lambda config: "distill" in config.policies,
        needs=("sft", "reward"),
        fields=("distill.", "ppo.reward"),
        files=("distill*.jsonl",),
        networks={
            "distill": Output(
                "best-of-N, distilled", "a policy fine-tuned on the best of its own {responses}, by a reward"
            )
        },
        programs={"distill": distill.traced},
    ),
    Stage(
        "ppo",
        "{algorithm}",
        ppo.train,
        wanted=lambda config: "ppo" in config.policies,
        needs=("sft", "reward"),
        fields=("ppo.",),
        networks={
            "ppo": Output(
                "{algorithm}",
                "a policy trained with {algorithm} against a reward model of which {responses} people prefer",
            )
        },
        programs={"ppo": ppo.traced},
    ),
    Stage(
        "eval",
        "Evaluation",
        evaluate,
        programs={"eval.write": inference.traced_write, "eval.read": inference.traced_read},
    ),
]


def names() -> list[str]:
    return [stage.name for stage in STAGES]


def planned(config: Config) -> list[str]:
    """The stages that a run goes through where none is named."""
    return [stage.name for stage in STAGES if stage.wanted(config)]


def find(name: str) -> Stage:
    return next(stage for stage in STAGES if stage.name == name)


def before(name: str) -> list[str]:
    """The stages that one needs, and what these need, in order."""
    needs = find(name).needs
    return list(dict.fromkeys([*(each for need in needs for each in before(need)), *needs]))


def programs() -> dict[str, Program]:
    return {name: traced for stage in STAGES for name, traced in stage.programs.items()}


def networks() -> dict[str, Output]:
    """Every network that a run may leave."""
    return {name: left for stage in STAGES for name, left in stage.networks.items()}


def run_stages(config: Config, workdir: Path, wanted: Sequence[str] | None = None) -> None:
    """Runs those stages that have not finished: all that the configuration plans, or those of `wanted`."""
    wanted = planned(config) if wanted is None else wanted

    def finished() -> list[str]:
        started = runs.read_seconds(workdir)
        for stage in STAGES:
            if stage.name in started:  # a folder of an older version gets its labels now
                runs.record_stage(workdir, stage.name, **stage.about(config))
        return [stage.name for stage in STAGES if runs.stage_done(workdir, stage.name)]

    done = hosts.from_first("progress", finished)
    for stage in (stage for stage in STAGES if stage.name in wanted):
        if stage.name in done:
            print(f"{stage.name}: finished before in {workdir}, skipped", flush=True)
        else:
            run_stage(stage, config, workdir)


def run_stage(stage: Stage, config: Config, workdir: Path) -> None:
    """Runs one stage, finished before or not; the first host keeps the record of it."""
    start = time.monotonic()
    if hosts.is_first():
        runs.record_stage(workdir, stage.name, **stage.about(config))
    try:
        stage.run(config, workdir)
    finally:
        if hosts.is_first():
            runs.record_stage(workdir, stage.name, time.monotonic() - start)
    if hosts.is_first():
        runs.record_stage(workdir, stage.name, done=True)
        print(f"{stage.name}: finished, {runs.read_seconds(workdir)[stage.name]:.0f} s", flush=True)
    hosts.gather(f"the end of stage {stage.name}", timeout=STAGE_END_SECONDS)


def refuse_interrupted(config: Config, workdir: Path, name: str) -> None:
    """Raises ConfigError where a stage that `name` reads from was stopped before its end.

    A stage that a run of this configuration does not go through is not read from.
    """
    interrupted = runs.stages_interrupted(workdir)
    needs = ("sft",) if name == ROUND else find(name).needs or names()[: names().index(name)]
    for needed in needs:
        if needed in interrupted and find(needed).wanted(config):
            raise ConfigError(
                f"{name} needs stage '{needed}', which was stopped before its end in {workdir}: "
                f"`rlhf-jax run --stage={needed}` resumes it"
            )

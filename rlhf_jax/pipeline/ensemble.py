"""Which reward models score PPO's responses (`ppo.ensemble`): the best of several, all, or their average.

A policy finds what one reward model mistakes for good. Models that differ in the order of their pairs, and in
the head that they began with, make different mistakes: together they are harder to please by an error, and
where they disagree, the policy has left what they know (Coste et al. 2023, "Reward Model Ensembles Help
Mitigate Overoptimization"; Ramé et al. 2024, "WARM", of the mean of their weights).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from rlhf_jax import inference
from rlhf_jax.config import MODEL, Config, ConfigError
from rlhf_jax.run import checkpoint

T = TypeVar("T")


def scoring(config: Config) -> list[str]:
    """The names of the reward models that score; none where no model is among the rewards."""
    if MODEL not in config.ppo.rewards:
        return []
    if config.ppo.ensemble in ("mean", "worst"):
        return [f"reward_seed{k}" for k in range(config.reward.seeds)]
    return [leading(config)]


def read(config: Config) -> list[str]:
    """The names of all reward models that PPO reads."""
    return list(dict.fromkeys([*scoring(config), leading(config)])) if scoring(config) else []


def leading(config: Config) -> str:
    """The one whose usual scores are known, and from which the value network starts."""
    return "reward_averaged" if config.ppo.ensemble == "averaged" else "reward"


def together(members: Sequence[T]) -> T | tuple[T, ...] | None:
    """Several models as a tuple, a single one as it is, and None of none: as `rollout.sample` takes them."""
    return tuple(members) if len(members) > 1 else next(iter(members), None)


def load(config: Config, workdir: Path) -> Any:
    """What is trained of the models that score, each with training references at 0; see `together`.

    Raises ConfigError where an older version trained them, which did not measure where all have their 0.
    """
    members = [inference.load(workdir, name, config=config).trained for name in scoring(config)]
    if len(members) > 1:
        shifts = checkpoint.read_meta(*checkpoint.require(workdir, "reward")).get("shifts", [])
        if len(shifts) != len(members):
            raise ConfigError(
                f"ppo.ensemble: {workdir} does not tell where each of its {len(members)} reward models has "
                "its 0, as an older version trained them: `rlhf-jax run --stage=reward` measures it"
            )
        for member, shift in zip(members, shifts, strict=True):
            member["head"]["bias"] -= shift
    return together(members)

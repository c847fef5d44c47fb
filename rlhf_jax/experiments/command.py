"""A finished run, opened to measure its networks; and what the commands of this package share."""

import functools
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from os import PathLike

import jax
import numpy as np
from absl import flags
from etils.epath import Path
from jaxtyping import Float

from rlhf_jax import command_line, inference
from rlhf_jax.config import Config, ConfigError
from rlhf_jax.data import task as tasks
from rlhf_jax.data.comparisons import Pair, comparisons_of_run, pairs_of
from rlhf_jax.data.records import Record, with_reference
from rlhf_jax.data.task import Task
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.evaluation.judges import PairJudge, by_score, gold_scores, simulated
from rlhf_jax.files import write_json
from rlhf_jax.inference import Network
from rlhf_jax.mesh import make_mesh
from rlhf_jax.run import workdir as runs


@dataclass(frozen=True)
class Opened:
    """A finished run on a task, which is its own or another. Its networks are used `with run.on_mesh()`."""

    workdir: Path
    config: Config
    task: Task

    def on_mesh(self) -> AbstractContextManager:
        return jax.set_mesh(make_mesh(self.config.mesh))

    def network(self, name: str) -> Network:
        """That of `checkpoints/<name>`."""
        return inference.load(self.workdir, name, config=self.config, task=self.task)

    @functools.cached_property
    def reward_model(self) -> Network:
        return self.network("reward")

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        return self.task.load_tokenizer(self.workdir)

    @property
    def truths(self) -> dict[str, PairJudge]:
        """Who says which of two summaries is better, where the task has them: "people" and "gold judge"."""
        found: dict[str, PairJudge] = {}
        if labelers := self.task.labelers:
            found["people"] = simulated(labelers)
        if judge := self.task.judge:
            found["gold judge"] = by_score(functools.partial(gold_scores, judge))
        return found

    def score(self, records: Sequence[Record], texts: Sequence[str]) -> Float[np.ndarray, "N"]:
        """The reward model's scores; a text that stands several times under one record is read once."""
        keys = [(record.id, text) for record, text in zip(records, texts, strict=True)]
        unique = dict(zip(keys, records, strict=True))
        scores = self.reward_model.score(list(unique.values()), [text for _, text in unique])
        found = dict(zip(unique, scores, strict=True))
        return np.array([found[key] for key in keys])

    def unseen(self) -> Sequence[Record]:
        """Those of split test, or of valid where there is none, with a reference and past the filters."""
        splits = self.task.records()
        found = with_reference(splits.get("test") or splits["valid"], "unseen")
        return self.task.filtered(found, self.tokenizer)

    def pairs(self) -> tuple[list[Pair], list[Pair]]:
        """The pairs that the reward model was trained on, and those that it has not seen."""
        comparisons = comparisons_of_run(self.config, self.workdir)
        held_out = pairs_of(comparisons, "valid2") or pairs_of(comparisons, "valid1")
        return pairs_of(comparisons, "train"), held_out


def open_run(workdir: PathLike[str]) -> Opened:
    config = runs.read_config(Path(workdir))
    return Opened(Path(workdir), config, tasks.find(config.data, config.seed))


def command(argv: list[str], options: flags.FlagValues, run: Callable[[Opened], None]) -> int:
    """Exit status of `run()`, which gets the run --workdir once `options` have taken the command line."""
    flags.DEFINE_string("workdir", None, "folder of the run", required=True, flag_values=options)

    def parse_and_run() -> None:
        command_line.parse_flags(argv, options)
        run(open_run(options.workdir))

    return command_line.command(argv, parse_and_run)


def numbers(flag: str, values: Sequence[str]) -> list[float]:
    """The numbers of a list flag, none below 0. Raises ConfigError naming the flag."""
    try:
        found = [float(value) for value in values]
    except ValueError:
        found = []
    if not found or not all(0 <= number < math.inf for number in found):
        raise ConfigError(f"--{flag}: {','.join(values)!r} should be numbers with commas, none below 0")
    return found


def write_figures(file: Path, figures: dict) -> None:
    write_json(file, figures)
    print(file, flush=True)

"""A finished run, opened to measure its networks; and what the commands of this package share."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import jax
import numpy as np
from absl import flags, logging
from etils.epath import Path
from jaxtyping import Float

from rlhf_jax import command_line, inference
from rlhf_jax.config import Config, ConfigError, ModelConfig
from rlhf_jax.data.records import Article, Post
from rlhf_jax.data.tokenizer import Tokenizer, load_tokenizer
from rlhf_jax.files import write_json
from rlhf_jax.model import heads, params, pretrained, transformer
from rlhf_jax.run import checkpoint
from rlhf_jax.run import workdir as runs


@dataclass(frozen=True)
class Opened:
    """A run and what its networks are loaded with. The methods need a mesh set."""

    workdir: Path
    config: Config
    tokenizer: Tokenizer
    model: ModelConfig

    @property
    def setting(self) -> dict[str, Any]:
        """What the functions of `inference` take."""
        return {"model": self.model, "tokenizer": self.tokenizer, "data": self.config.data}

    def policy(self, stage: str):
        """The weights of `checkpoints/<stage>`."""
        return self._load(stage, transformer.specs(self.model, self.tokenizer.vocab_size))

    @functools.cached_property
    def reward_model(self):
        return self._load("reward", heads.specs(self.model, self.tokenizer.vocab_size))

    def _load(self, stage: str, specs):
        found = checkpoint.require(self.workdir, stage, "this experiment")
        return checkpoint.restore_params(*found, params.abstract(specs, jax.sharding.get_mesh()))

    def score(self, infos: Sequence[Post | Article], texts: Sequence[str]) -> Float[np.ndarray, "N"]:
        """The reward model's scores; a text that stands several times under one post is read once."""
        keys = [(info.id, text) for info, text in zip(infos, texts, strict=True)]
        unique = dict(zip(keys, infos, strict=True))
        scores = inference.score(
            self.reward_model, list(unique.values()), [text for _, text in unique], **self.setting
        )
        found = dict(zip(unique, scores, strict=True))
        return np.array([found[key] for key in keys])


def open_run(workdir: PathLike[str]) -> Opened:
    config = runs.read_config(Path(workdir))
    return Opened(Path(workdir), config, load_tokenizer(workdir), pretrained.architecture(config.model))


def command(
    argv: Sequence[str], name: str, usage: str | None, options: flags.FlagValues, run: Callable[[], None]
) -> int:
    """Exit status of a command: of `run()`, called once `options` have taken the command line."""
    logging.set_verbosity(logging.WARNING)  # Orbax tells every file it reads

    def parse_and_run() -> None:
        command_line.parse_flags(argv, options)
        run()

    return command_line.command(argv, f"rlhf-jax {name}", usage, parse_and_run)


def numbers(flag: str, values: Sequence[str]) -> list[float]:
    """The numbers of a list flag, none below 0. Raises ConfigError naming the flag."""
    try:
        found = [float(value) for value in values]
    except ValueError:
        found = []
    if not found or min(found) < 0:
        raise ConfigError(f"--{flag}: {','.join(values)!r} should be numbers with commas, none below 0")
    return found


def write_figures(file: Path, figures: dict) -> None:
    write_json(file, figures)
    print(file, flush=True)

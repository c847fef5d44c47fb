"""The model of a run that is planned: its shape without its weights, as an accelerator compiles it."""

import dataclasses
from pathlib import Path

from rlhf_jax.config import Config, ConfigError, ModelConfig
from rlhf_jax.data.tokenizer import load_tokenizer
from rlhf_jax.model import attention, families, pretrained
from rlhf_jax.plan.published import SHAPES
from rlhf_jax.plan.topologies import Topology
from rlhf_jax.validation import check_context


def architecture(config: Config, topology: Topology) -> tuple[ModelConfig, int]:
    """The model as an accelerator compiles it, and the rows of its embedding.

    Raises ConfigError for a pretrained model that is neither on disk nor published: planning asks no hub.
    """
    model, vocabulary = _shape(config)
    check_context(config, model)
    return as_on(topology.platform, model), vocabulary


def _shape(config: Config) -> tuple[ModelConfig, int]:
    name = config.model.pretrained
    if name in SHAPES and not Path(name).is_dir():
        fields, vocabulary = SHAPES[name]
        return pretrained.in_run(families.read(fields, name)[1], config.model, name), vocabulary
    if name and not name.startswith("mini/") and not Path(name).expanduser().is_dir():
        raise ConfigError(
            f"model.pretrained: {name!r} is no folder here, nor known to planning, which asks no hub: name "
            "a folder, or set --config.model.pretrained= with the sizes of --config.model and "
            "--config.data.vocabulary"
        )
    model = pretrained.architecture(config.model)
    if name:
        return model, load_tokenizer(pretrained.folder_of(name)).vocab_size
    if config.data.tokenizer:
        return model, load_tokenizer(Path(config.data.tokenizer).expanduser()).vocab_size
    return model, config.data.vocabulary


def as_on(platform: str, model: ModelConfig) -> ModelConfig:
    """`model` with what its `auto` settings are on a platform: they ask the backend, which is a CPU here."""
    if platform == "cpu":
        return model
    loop = "scan" if model.layer_loop == "auto" else model.layer_loop
    backend = "gpu" if platform == "cuda" else platform
    kernel = attention.choose(model.attention, model.dtype, model.head_dimension, backend)
    return dataclasses.replace(model, layer_loop=loop, attention=kernel)

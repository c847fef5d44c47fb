"""Base checkpoints: a folder with `config.json`, `model.safetensors` and `tokenizer.model`.

The weights are stored in bfloat16 under their path in the pytree, such as `layers.mlp.up`.
"""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
from safetensors.flax import load_file, save_file

from rlhf_jax.config import ConfigError, ModelConfig

SHIPPED = Path(__file__).parent.parent / "data" / "mini" / "base"
NOT_ARCHITECTURE = ("base", "dtype", "layer_loop", "rematerialize")  # a run's choice, not the checkpoint's


def folder_of(base: str) -> Path:
    """The folder that `model.base` names: `mini/<name>` ships with the package, the rest are paths."""
    folder = Path(base).expanduser()
    if base.startswith("mini/") and not folder.exists():
        folder = SHIPPED / base.removeprefix("mini/")
    if not (folder / "model.safetensors").is_file():
        raise ConfigError(f"model.base: {base!r} has no model.safetensors (looked in {folder})")
    return folder


def architecture(model: ModelConfig, base: str | None = None) -> ModelConfig:
    """`model` with the fields that its base checkpoint, or the one given, decides."""
    base = model.base if base is None else base
    if not base:
        return model
    file = folder_of(base) / "config.json"
    return dataclasses.replace(model, **json.loads(file.read_text(encoding="utf-8")))


def save(folder: Path, params, model: ModelConfig) -> None:
    """Writes a base checkpoint, apart from its tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {_name(path): x.astype(jnp.bfloat16) for path, x in jax.tree_util.tree_leaves_with_path(params)}
    save_file(tensors, folder / "model.safetensors")
    fields = {k: v for k, v in dataclasses.asdict(model).items() if k not in NOT_ARCHITECTURE}
    (folder / "config.json").write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")


def load(folder: Path, like):
    """The weights in float32, laid out as the abstract tree `like` says."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    wanted = {_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(like)}
    for name in sorted(wanted.keys() ^ tensors.keys()):
        raise ConfigError(
            f"{file}: tensor {name} is {'missing' if name in wanted else 'not part of this model'}"
        )
    for name, x in wanted.items():
        if tensors[name].shape != x.shape:
            raise ConfigError(
                f"{file}: tensor {name} has shape {tensors[name].shape}, the model needs {x.shape}"
            )

    def place(path, x):
        return jax.device_put(tensors[_name(path)].astype(x.dtype), x.sharding)

    return jax.tree_util.tree_map_with_path(place, like)


def _name(path) -> str:
    return ".".join(key.key for key in path)

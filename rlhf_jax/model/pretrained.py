"""Pretrained models: Hugging Face folders to our pytree and back.

A folder holds `config.json`, `model.safetensors` (or an index and its shards) and a tokenizer.
Weights are read tensor by tensor into the shards of this host's devices, so that the host never
holds more than one tensor beside them.
"""

import dataclasses
import math
from collections.abc import Callable, Container, Iterator
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import jax
import ml_dtypes  # noqa: F401  teaches numpy, and so safetensors, what bfloat16 is
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rlhf_jax.config import ConfigError, ModelConfig
from rlhf_jax.data.hub import folder_of_hub
from rlhf_jax.files import read_object, write_json
from rlhf_jax.model import families
from rlhf_jax.model.family import Family, Tensor

SHIPPED = Path(__file__).parent.parent / "data" / "mini" / "base"
HUB_FILES = ["*.json", "*.jinja", "*.safetensors", "tokenizer.model"]
WEIGHTS = "model.safetensors"
ADAPTER = "adapter_config.json"  # of PEFT
COMPARED = 2**24  # elements of two tensors that are compared at once
DTYPES = ("F64", "F32", "F16", "BF16")  # of safetensors, that weights may have
SHARD_BYTES = 5_000_000_000  # of a file of weights that we write
SCORE = Tensor("score.weight", ("weight",), "1 d -> d")  # the scalar head in transformers' classifiers
SHIFT = "reward_shift"  # in config.json: our head's bias, which transformers' classifiers do not have


# Finding and describing ----------------------------------------------------------------------


def folder_of(name: str | PathLike[str]) -> Path:
    """The folder that `model.pretrained` names: one on disk, `mini/<name>` of this package, or the hub's."""
    name = fspath(name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name.startswith("mini/") and (SHIPPED / name.removeprefix("mini/")).is_dir():
        return SHIPPED / name.removeprefix("mini/")
    return folder_of_hub(name, "pretrained model", HUB_FILES)


def architecture(model: ModelConfig, name: str | PathLike[str] | None = None) -> ModelConfig:
    """`model` with the fields that its pretrained model, or the one named, decides.

    Raises ConfigError where that one is not supported, or is without a matrix of `lora.targets`.
    """
    name = model.pretrained if name is None else name
    if not name:
        return model
    return in_run(_read_config(folder_of(name))[1], model, name)


def in_run(described: ModelConfig, model: ModelConfig, name: str | PathLike[str]) -> ModelConfig:
    """What `config.json` of `name` describes, with the fields of `model` that are of a run.

    Raises ConfigError where it is without a matrix of `lora.targets`.
    """
    if "gate" in model.lora.targets and not described.gated:
        raise ConfigError(f"model.lora.targets: the MLP of {name} has no gate")
    kept = {field: getattr(model, field) for field in families.RUN_FIELDS}
    return dataclasses.replace(described, **kept)


def _read_config(folder: Path) -> tuple[Family, ModelConfig, dict[str, Any]]:
    file, adapter = folder / "config.json", folder / ADAPTER
    if adapter.is_file():
        raise ConfigError(
            f"{adapter}: an adapter of another model: name that one, and this folder in model.lora.start, or "
            "merge the two first"
        )
    fields = read_object(file, ConfigError)
    return *families.read(fields, file), fields


# Reading -------------------------------------------------------------------------------------


class Tensors:
    """The tensors of a folder, read one at a time. As in transformers, a whole file goes before an index."""

    def __init__(self, folder: Path):
        whole, index = folder / WEIGHTS, folder / f"{WEIGHTS}.index.json"
        self.source = whole if whole.is_file() else index
        if whole.is_file():
            self._files = dict.fromkeys(opened(whole).keys(), whole)
        elif index.is_file():
            self._files = {name: folder / file for name, file in _weight_map(index).items()}
            self._check_shards()
        else:
            hint = "; convert its .bin weights to safetensors" if list(folder.glob("*.bin")) else ""
            raise ConfigError(f"{folder} has no {WEIGHTS} and no {WEIGHTS}.index.json{hint}")
        self._opened: dict[Path, Any] = {}

    def names(self) -> set[str]:
        return set(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.rows_of(name).get_shape())

    def dtype(self, name: str) -> str:
        return self.rows_of(name).get_dtype()

    def read(self, name: str) -> np.ndarray:
        return self._file(name).get_tensor(name)

    def rows_of(self, name: str):
        """What reads rows of it where it is indexed."""
        return self._file(name).get_slice(name)

    def _check_shards(self) -> None:
        """Raises ConfigError unless the shards hold what the index says: transformers reads all they hold."""
        for file in sorted(set(self._files.values())):
            held = set(opened(file).keys())
            promised = {name for name, place in self._files.items() if place == file}
            for name in sorted(promised - held):
                raise ConfigError(f"{file}: tensor {name} is missing, which {self.source.name} promises")
            for name in sorted(held - promised):
                raise ConfigError(
                    f"{file}: tensor {name} is here, and not where {self.source.name} says; "
                    "one of the two is of another model"
                )

    def _file(self, name: str):
        file = self._files[name]
        if file not in self._opened:
            self._opened = {file: opened(file)}  # one at a time: an open file keeps what was read of it
        return self._opened[file]


def _weight_map(index: Path) -> dict[str, str]:
    names = read_object(index, ConfigError).get("weight_map")
    if not isinstance(names, dict):
        raise ConfigError(f"{index}: not the index of a sharded model (weight_map: tensor → file)")
    for tensor, file in names.items():
        named = isinstance(file, str) and file.endswith(".safetensors") and Path(file).name == file
        if not named or not (index.parent / file).is_file():
            raise ConfigError(f"{index}: field weight_map.{tensor}: {file!r} is no file of this folder")
    return names


def opened(file: Path):
    """What reads the tensors of a file one by one. Raises ConfigError where it is not whole."""
    try:
        return safe_open(file, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{file}: not a whole safetensors file ({error})") from None


def load(folder: str | PathLike[str], like, held: Callable[[str, jax.Array], Any] = lambda name, x: x):
    """The weights of a folder, as the abstract tree `like` says: float32, each in its shards.

    `like` is that of `transformer.specs`, or of `heads.specs` with its scalar head. `held(name, x)` is what
    is kept of a leaf such as "layers.mlp.up" before the next one is read. Raises ConfigError naming the
    first tensor that is missing, left over or of another shape.
    """
    folder = Path(folder).expanduser()
    family, model, fields = _read_config(folder)
    tensors, leaves = Tensors(folder), _leaves(like)
    vocabulary = leaves["embed.tokens"].shape[0]
    bare = not any(name.startswith(family.prefix) for name in tensors.names())
    table = list(_table(family, leaves, bare))
    _check(tensors, family, model, vocabulary, table)
    if model.tied_head and "weight" not in leaves and family.output in tensors.names():
        _check_tied(tensors, family.output, table[0].name)
    loaded: dict[str, Any] = {}
    for line in table:
        read = _load_line(line, leaves, tensors, model, vocabulary)
        loaded |= {leaf: held(leaf, read.pop(leaf)) for leaf in line.leaves}
    body = like.get("transformer", like)
    tree = jax.tree_util.tree_map_with_path(lambda path, _: loaded[name_of(path)], body)
    if body is like:
        return tree
    bias = jax.device_put(_shift(fields, folder), like["head"]["bias"].sharding)
    return {"transformer": tree, "head": {"weight": loaded["weight"], "bias": bias}}


def _shift(fields: dict[str, Any], folder: Path) -> np.float32:
    shift = fields.get(SHIFT, 0.0)
    if type(shift) not in (int, float) or not abs(shift) < np.finfo(np.float32).max:
        raise ConfigError(f"{folder / 'config.json'}: field {SHIFT} is {shift!r}, it should be a number")
    return np.float32(shift)


def _table(family: Family, present: Container[str], bare: bool = False) -> Iterator[Tensor]:
    """The lines of the family's table whose leaves are present, under their full names and leaves."""
    for line in family.tensors:
        leaves = tuple(f"layers.{leaf}" if line.of_layer else leaf for leaf in line.leaves)
        if leaves[0] in present:
            yield Tensor(line.name if bare else family.prefix + line.name, leaves, line.pattern)
    if "head" in present:
        yield Tensor(family.output, ("head",), "v d -> d v")
    if "weight" in present:
        yield SCORE


def _check(
    tensors: Tensors, family: Family, model: ModelConfig, vocabulary: int, table: list[Tensor]
) -> None:
    wanted: dict[str, tuple[int, ...]] = {}
    held = tensors.names()
    for line in table:
        for name in _names(line, model):
            if name not in held:  # told at the first, for a damaged config.json may ask for a billion layers
                raise ConfigError(f"{tensors.source}: tensor {name} is missing")
            wanted[name] = line.shape(model, vocabulary)
    # A tied output matrix repeats the embedding, and a scorer has no use for one, nor a policy for a score.
    ignored = {family.output, SCORE.name}
    for name in sorted(held - wanted.keys() - ignored):
        if not name.endswith(family.buffers):
            raise ConfigError(f"{tensors.source}: tensor {name} is not part of this {family.name} model")
    for name, shape in wanted.items():
        if tensors.shape(name) != shape:
            raise ConfigError(
                f"{tensors.source}: tensor {name} has shape {tensors.shape(name)}, config.json and tokenizer "
                f"say {shape}"
            )
        if tensors.dtype(name) not in DTYPES:
            raise ConfigError(
                f"{tensors.source}: tensor {name} is of type {tensors.dtype(name)}, not one of "
                f"{', '.join(DTYPES)}; quantized weights are not supported"
            )


def _check_tied(tensors: Tensors, output: str, embedding: str) -> None:
    """Raises ConfigError where a tied output matrix is not the embedding: transformers keeps these apart."""
    rows, *columns = tensors.shape(embedding)
    step = max(COMPARED // math.prod(columns), 1)
    parts = (slice(i, min(i + step, rows)) for i in range(0, rows, step))
    alike = tensors.shape(output) == (rows, *columns) and all(
        np.array_equal(tensors.rows_of(output)[part], tensors.rows_of(embedding)[part]) for part in parts
    )
    if not alike:
        raise ConfigError(
            f"{tensors.source}: tensor {output} differs from {embedding}, and config.json ties them: set its "
            "tie_word_embeddings to false to use both, or delete the tensor"
        )


def _names(line: Tensor, model: ModelConfig) -> Iterator[str]:
    return (line.name.format(i) for i in range(model.layers if line.of_layer else 1))


def _load_line(
    line: Tensor, like: dict[str, Any], tensors: Tensors, model: ModelConfig, vocabulary: int
) -> dict[str, jax.Array]:
    """The leaves that one line of the table holds, from its tensor or from those of all layers."""
    wanted = {leaf: like[leaf] for leaf in line.leaves}
    places = {leaf: x.sharding.addressable_devices_indices_map(x.shape) for leaf, x in wanted.items()}
    shards = {
        leaf: {device: np.empty(x.sharding.shard_shape(x.shape), x.dtype) for device in places[leaf]}
        for leaf, x in wanted.items()
    }
    for i, name in enumerate(_names(line, model)):
        parts = line.split(tensors.read(name), model, vocabulary)
        for leaf, part in zip(line.leaves, parts, strict=True):
            for device, index in places[leaf].items():
                if line.of_layer:
                    shards[leaf][device][i] = part.reshape(wanted[leaf].shape[1:])[index[1:]]
                else:
                    shards[leaf][device][...] = part.reshape(wanted[leaf].shape)[index]
    return {leaf: _assemble(x, shards.pop(leaf)) for leaf, x in wanted.items()}


def _assemble(like, shards: dict[jax.Device, np.ndarray]) -> jax.Array:
    arrays = [jax.device_put(shard, device) for device, shard in shards.items()]
    return jax.make_array_from_single_device_arrays(like.shape, like.sharding, arrays)


# Writing -------------------------------------------------------------------------------------


def save(
    folder: str | PathLike[str],
    params,
    model: ModelConfig,
    dtype: str = "float32",
    extra: dict | None = None,
) -> None:
    """Writes `config.json` and the weights, for `AutoModelForCausalLM` or, with a scalar head,
    `AutoModelForSequenceClassification`. `extra` are more fields of `config.json`.

    Raises ConfigError where no family of the transformers library has this architecture.
    """
    folder, family, leaves = Path(folder).expanduser(), families.family_of(model), _leaves(params)
    vocabulary, scalar = leaves["embed.tokens"].shape[0], "transformer" in params
    task = "ForSequenceClassification" if scalar else "ForCausalLM"
    fields = family.write(model) | {
        "architectures": [family.class_for(task)],
        "vocab_size": vocabulary,
        "dtype": dtype,
        "torch_dtype": dtype,  # the same, for transformers before version 5
    }
    if scalar:
        fields |= {"num_labels": 1, "id2label": {"0": "reward"}, "label2id": {"reward": 0}}
        fields[SHIFT] = float(params["head"]["bias"])
    folder.mkdir(parents=True, exist_ok=True)
    _write_weights(folder, _tensors_of(family, leaves, model, vocabulary), np.dtype(dtype))
    write_json(folder / "config.json", fields | (extra or {}))


def _tensors_of(
    family: Family, leaves: dict[str, jax.Array], model: ModelConfig, vocabulary: int
) -> Iterator[tuple[str, np.ndarray]]:
    """(name, tensor) of a checkpoint, each brought to the host when it is asked for."""
    for line in _table(family, leaves):
        for i, name in enumerate(_names(line, model)):
            own = [np.asarray(leaves[leaf][i] if line.of_layer else leaves[leaf]) for leaf in line.leaves]
            yield name, line.join(own, model, vocabulary)


def write_tensors(file: Path, tensors: dict[str, np.ndarray]) -> None:
    """A safetensors file that whoever may read other new files can read, not its owner alone."""
    file.touch()
    mode = file.stat().st_mode
    save_file(tensors, file, metadata={"format": "pt"})
    file.chmod(mode)


def _write_weights(folder: Path, tensors: Iterator[tuple[str, np.ndarray]], dtype: np.dtype) -> None:
    """One file, or an index and shards of at most SHARD_BYTES, of which the host holds one."""
    parts: list[Path] = []
    weight_map: dict[str, int] = {}
    total = 0
    for shard in _in_shards(tensors, dtype):
        parts.append(folder / f"{WEIGHTS}.{len(parts)}.part")
        write_tensors(parts[-1], shard)
        weight_map |= dict.fromkeys(shard, len(parts) - 1)
        total += sum(tensor.nbytes for tensor in shard.values())
    if len(parts) == 1:
        parts[0].replace(folder / WEIGHTS)
        return
    files = [f"model-{i + 1:05}-of-{len(parts):05}.safetensors" for i in range(len(parts))]
    for part, file in zip(parts, files, strict=True):
        part.replace(folder / file)
    index = {
        "metadata": {"total_size": total},
        "weight_map": {name: files[i] for name, i in weight_map.items()},
    }
    write_json(folder / f"{WEIGHTS}.index.json", index)


def _in_shards(tensors: Iterator[tuple[str, np.ndarray]], dtype: np.dtype) -> Iterator[dict[str, np.ndarray]]:
    shard: dict[str, np.ndarray] = {}
    size = 0
    for name, tensor in tensors:
        tensor = np.ascontiguousarray(tensor.astype(dtype))
        if shard and size + tensor.nbytes > SHARD_BYTES:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    yield shard


def _leaves(params) -> dict[str, Any]:
    """The leaves of a transformer by name, and `weight`, that of its scalar head where it has one."""
    body = params.get("transformer", params)
    leaves = {name_of(path): x for path, x in jax.tree_util.tree_leaves_with_path(body)}
    return leaves if body is params else leaves | {"weight": params["head"]["weight"]}


def name_of(path) -> str:
    return ".".join(key.key for key in path)

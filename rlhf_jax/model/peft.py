"""Adapters as folders of the PEFT library: `adapter_config.json` and `adapter_model.safetensors`, and back.

PEFT changes the modules of transformers, some of which hold several matrices of ours (`c_attn` of GPT-2).
There it has one A and one B, and we a pair for each matrix. From there each matrix gets that A, and its part
of B. The way back is exact, too, at n times the rank: the As stand one upon the other, and each B is 0 but in
the columns of its own A.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rlhf_jax.config import ConfigError, LoraConfig, ModelConfig
from rlhf_jax.files import read_object, write_json
from rlhf_jax.model import families, pretrained
from rlhf_jax.model.hf_config import HfConfig
from rlhf_jax.model.lora import Adapter

CONFIG, WEIGHTS = pretrained.ADAPTER, "adapter_model.safetensors"
PREFIX = "base_model.model."  # of all names: what PEFT has laid around the model
TRANSPOSED = ("gpt2",)  # families whose matrices transformers keeps as [in, out]
# Of adapter_config.json: what only these values of are computed here.
PLAIN: tuple = (None, False, [], {})
ONLY: dict[str, tuple] = dict.fromkeys(
    (
        "use_dora use_qalora lora_bias modules_to_save layers_to_transform layer_replication "
        "trainable_token_indices target_parameters alora_invocation_tokens use_bdlora arrow_config "
        "kasa_config monteclora_config"
    ).split(),
    PLAIN,
)
ONLY |= {"peft_type": ("LORA",), "bias": ("none", None), "use_rslora": (False, None, True)}
ONLY["init_lora_weights"] = (True, False, None, "gaussian", "orthogonal", "eva")  # others change the base


class Module(NamedTuple):
    """A module of transformers and the matrices of one layer that it holds."""

    name: str  # with {} for the layer
    leaves: tuple[tuple[str, str], ...]  # ("attention", "query")
    line: Any  # of the family's table

    @property
    def target(self) -> str:
        """What names it, and no other, in `target_modules`: self_attn.q_proj."""
        return self.name.partition("{}.")[2]

    @property
    def is_rank_first(self) -> bool:
        """Whether B lies in the line's tensor with its rank, which stands for the inputs, in front."""
        return isinstance(self.line.pattern, str) and self.line.pattern.startswith("d ")


def modules(model: ModelConfig, adapters) -> Iterator[Module]:
    """Those whose matrices have adapters. Raises ConfigError where only some matrices of one have."""
    family = families.family_of(model)
    present = {(part, name) for part, tree in adapters["layers"].items() for name in tree}
    for line in family.tensors:
        leaves = tuple(
            (leaf.split(".")[0], leaf.split(".")[1]) for leaf in line.leaves if leaf.count(".") == 1
        )
        changed = [leaf for leaf in leaves if leaf in present]
        if changed and len(changed) < len(leaves):
            names = ", ".join(name for _, name in leaves)
            raise ConfigError(
                f"model.lora.targets: PEFT changes {line.name} of {family.name} as a whole: name all of "
                f"{names}, or none"
            )
        if changed and line.of_layer:
            yield Module(family.prefix + line.name.removesuffix(".weight"), leaves, line)


# Writing -------------------------------------------------------------------------------------


def save(folder: str | PathLike[str], adapters, model: ModelConfig) -> None:
    """Writes the adapters of a policy as a folder that PEFT opens beside `model.pretrained`.

    Raises ConfigError where no module of transformers has these matrices.
    """
    folder, lora = Path(folder), model.lora
    tensors: dict[str, np.ndarray] = {}
    ranks: dict[str, int] = {}
    found = list(modules(model, adapters))
    for module in found:
        ranks[module.target] = lora.rank * len(module.leaves)
        own = [jax.device_get(adapters["layers"][part][name]) for part, name in module.leaves]
        for i in range(model.layers):
            a, b = _joined(module, [(np.asarray(x.a[i]), np.asarray(x.b[i])) for x in own], model)
            name = PREFIX + module.name.format(i)
            for letter, x in (("A", a), ("B", b)):
                tensors[f"{name}.lora_{letter}.weight"] = np.ascontiguousarray(x)
    wider = {target: rank for target, rank in ranks.items() if rank != lora.rank}
    power = 0.5 if lora.rank_stabilized else 1.0
    fields = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": model.pretrained,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "use_rslora": lora.rank_stabilized,
        "target_modules": list(ranks),
        "rank_pattern": wider,
        "alpha_pattern": {k: lora.alpha * (rank / lora.rank) ** power for k, rank in wider.items()},
        "fan_in_fan_out": families.family_of(model).name in TRANSPOSED,
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    pretrained.write_tensors(folder / WEIGHTS, tensors)
    write_json(folder / CONFIG, fields)


def _joined(module: Module, pairs: list[tuple[np.ndarray, np.ndarray]], model: ModelConfig):
    """PEFT's A [rank, in] and B [out, rank] of a module from ours."""
    rank, count = model.lora.rank, len(pairs)
    a = np.concatenate([a.reshape(-1, rank).T for a, _ in pairs])
    if count == 1:
        return a, pairs[0][1].reshape(rank, -1).T
    own = [np.zeros((count * rank, *b.shape[1:]), b.dtype) for _, b in pairs]
    for i, (_, b) in enumerate(pairs):
        own[i][i * rank : (i + 1) * rank] = b
    b = module.line.join(own, _with_inputs(model, count * rank), 0)
    return a, b.T if module.is_rank_first else b


def _with_inputs(model: ModelConfig, rank: int) -> ModelConfig:
    """The model whose matrices have a rank in place of their inputs, and the same outputs."""
    return replace(model, width=rank, head_size=model.head_dimension, ff=model.hidden_units)


# Reading -------------------------------------------------------------------------------------


def load(folder: Path, model: ModelConfig, like):
    """The adapters of a folder of PEFT, as the abstract tree `like` of those of a policy says.

    Raises ConfigError where the folder changes the model in other ways, or by another rank.
    """
    fields, file = read_object(folder / CONFIG, ConfigError), folder / WEIGHTS
    c = HfConfig(fields, folder / CONFIG)
    _check(fields, folder / CONFIG, model.lora)
    source = pretrained.opened(file)
    found = list(modules(model, like))
    wanted = {
        f"{PREFIX}{module.name.format(i)}.lora_{x}.weight"
        for module in found
        for i in range(model.layers)
        for x in "AB"
    }
    for problem, names in (
        ("is missing", wanted - set(source.keys())),
        ("is left over", set(source.keys()) - wanted),
    ):
        if names:
            raise ConfigError(
                f"{file}: tensor {min(names)} {problem}; model.pretrained and model.lora.targets should be "
                f"those of the folder, whose target_modules are {fields.get('target_modules')}"
            )
    tree: dict[str, dict[str, Adapter]] = {part: {} for part in like["layers"]}
    for module in found:
        own = [like["layers"][part][name] for part, name in module.leaves]
        layers = [_split(module, source, i, c, model, own, file) for i in range(model.layers)]
        for (part, name), of_layers in zip(module.leaves, zip(*layers, strict=True), strict=True):
            wants = like["layers"][part][name]
            a, b = (np.stack(x) for x in zip(*of_layers, strict=True))
            tree[part][name] = Adapter(_placed(a, wants.a), _placed(b, wants.b))
    return {"layers": tree}


def _check(fields: dict[str, Any], file: Path, lora: LoraConfig) -> None:
    for name, values in ONLY.items():
        if fields.get(name) not in values:
            raise ConfigError(f"{file}: field {name} is {fields.get(name)!r}, which is not supported")
    if fields.get("r") != lora.rank:
        raise ConfigError(
            f"{file}: field r is {fields.get('r')!r}, and model.lora.rank {lora.rank}: set it to that"
        )


def _split(
    module: Module,
    source,
    i: int,
    c: HfConfig,
    model: ModelConfig,
    like: list[Adapter],
    file: Path,
):
    """Our pairs (A, B) of one layer from PEFT's; B takes the difference of the scales."""
    name, rank, count = PREFIX + module.name.format(i), model.lora.rank, len(like)
    own_rank = _of_module("rank_pattern", "r", int, module.name.format(i), c)
    a, b = (_tensor(f"{name}.lora_{x}.weight", source, file) for x in "AB")
    inputs = math.prod(like[0].a.shape[1:-1])
    outputs = sum(math.prod(adapter.b.shape[2:]) for adapter in like)
    if a.shape != (own_rank, inputs) or b.shape != (outputs, own_rank):
        raise ConfigError(
            f"{file}: {name} has A {a.shape} and B {b.shape}, which do not fit the model and the rank "
            f"{own_rank} of {CONFIG}"
        )
    alpha = _of_module("alpha_pattern", "lora_alpha", float, module.name.format(i), c)
    b = b * (alpha / (own_rank**0.5 if c.get("use_rslora", bool, False) else own_rank) / model.lora.scale)
    if count == 1 and len(a) == rank:
        return [(a.T, b.T)]
    if count > 1:
        of_rank = _with_inputs(model, len(a))
        parts = module.line.split(b.T if module.is_rank_first else b, of_rank, 0)
        if len(a) == rank:
            return [(a.T, part.reshape(rank, -1)) for part in parts]
        blocks = [slice(k * rank, (k + 1) * rank) for k in range(count)]
        own = [
            (a[block].T, part.reshape(len(a), -1)[block]) for block, part in zip(blocks, parts, strict=True)
        ]
        others = [np.delete(part, block, axis=0) for block, part in zip(blocks, parts, strict=True)]
        if len(a) == count * rank and not any(other.any() for other in others):
            return own
    raise ConfigError(f"{file}: {name} is of rank {len(a)}, and model.lora.rank {rank}")


def _tensor(name: str, source, file: Path) -> np.ndarray:
    dtype = source.get_slice(name).get_dtype()
    if dtype not in pretrained.DTYPES:
        known = ", ".join(pretrained.DTYPES)
        raise ConfigError(f"{file}: tensor {name} is of type {dtype}, not one of {known}")
    x = source.get_tensor(name).astype(np.float32)
    if not np.isfinite(x).all():
        raise ConfigError(f"{file}: tensor {name} has entries that are not finite: its training went wrong")
    return x


def _of_module(patterns: str, field: str, kind: type, module: str, c: HfConfig) -> Any:
    """What the first of the `patterns` says that PEFT takes for a module, or the `field` for all others."""
    own = c.inner(patterns)
    for pattern in own.names:
        try:
            if re.fullmatch(rf"(.*\.)?({pattern})", module):
                return own.get(pattern, kind)
        except re.error:
            raise ConfigError(f"{own.file}: {pattern!r} is no regular expression") from None
    return c.get(field, kind)


def _placed(x: np.ndarray, like) -> jax.Array:
    x = x.reshape(like.shape)
    return jax.make_array_from_callback(like.shape, like.sharding, lambda index: x[index])

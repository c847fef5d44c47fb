"""What a family of the transformers library is: how `config.json` and tensors map onto the one transformer.

A family is two tables, of the fields of `config.json` and of tensors, each read and written by the same
lines, and parts for what no single field says. A line of the second table names the tensor, the leaves of
our pytree that it holds, and the rearrangement between them as an einops pattern, which serves both
directions. Letters: v vocabulary, d width, p positions, f hidden units, h key-value heads, g query heads of
each, k head dimensions, n leaves in one tensor.
"""

import dataclasses
import math
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from einops import rearrange

from rlhf_jax.config import ModelConfig
from rlhf_jax.model.hf_config import HfConfig
from rlhf_jax.model.hf_parts import Part

ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh"}
ACTIVATIONS |= {"gelu": "gelu", "silu": "silu", "swish": "silu"}
ACTIVATION_NAMES = {"gelu_tanh": "gelu_new", "gelu": "gelu", "silu": "silu"}
# Of config.json in every family: what only this value of is computed here.
ONLY = {
    "is_causal": True,
    "use_bidirectional_attention": False,
    "num_experts": None,
    "num_local_experts": None,
    "quantization_config": None,
    "per_layer_config": None,
    "transformers_weights": None,
}
# Fields of ModelConfig whose 0 stands for a value, and the property that gives it.
SPELLED_OUT = {"ff": "hidden_units", "kv_heads": "key_value_heads", "head_size": "head_dimension"}


class Tensor(NamedTuple):
    """One tensor of a checkpoint: its name, the leaves it holds, `tensor axes -> leaf axes`.

    Leaves of one shape are stacked on the pattern's axis n. Others have a pattern each, and lie one
    behind the other on the tensor's first axis.
    """

    name: str  # with {} for the layer
    leaves: tuple[str, ...]  # without "layers."
    pattern: str | tuple[str, ...]

    @property
    def of_layer(self) -> bool:
        return "{}" in self.name

    def shape(self, model: ModelConfig, vocabulary: int) -> tuple[int, ...]:
        """The shape it has in a checkpoint."""
        if isinstance(self.pattern, str):
            return self._shape(self.pattern.split("->")[0], model, vocabulary)
        shapes = [part.shape(model, vocabulary) for part in self._parts()]
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])

    def split(self, tensor: np.ndarray, model: ModelConfig, vocabulary: int) -> list[np.ndarray]:
        """The leaves in the order of `leaves`, as views where numpy can."""
        if isinstance(self.pattern, str):
            sizes = self._sizes(model, vocabulary)
            out = rearrange(tensor, self.pattern, **{k: n for k, n in sizes.items() if k in self.pattern})
            return list(out) if len(self.leaves) > 1 else [out]
        ends = np.cumsum([part.shape(model, vocabulary)[0] for part in self._parts()])
        pieces = zip(self._parts(), np.split(tensor, ends[:-1]), strict=True)
        return [leaf for part, piece in pieces for leaf in part.split(piece, model, vocabulary)]

    def join(self, leaves: list[np.ndarray], model: ModelConfig, vocabulary: int) -> np.ndarray:
        """The tensor that `split` takes apart."""
        if not isinstance(self.pattern, str):
            pairs = zip(self._parts(), leaves, strict=True)
            return np.concatenate([part.join([leaf], model, vocabulary) for part, leaf in pairs])
        left, right = self.pattern.split("->")
        leaf_axes = right.replace("n ", "", 1) if len(leaves) > 1 else right
        shape = self._shape(leaf_axes, model, vocabulary)
        shaped = [leaf.reshape(shape) for leaf in leaves]
        return rearrange(np.stack(shaped) if len(shaped) > 1 else shaped[0], f"{right} -> {left}")

    def _parts(self) -> list["Tensor"]:
        """A tensor for each leaf."""
        pairs = zip(self.leaves, self.pattern, strict=True)
        return [Tensor(self.name, (leaf,), pattern) for leaf, pattern in pairs]

    def _sizes(self, model: ModelConfig, vocabulary: int) -> dict[str, int]:
        heads = model.key_value_heads
        return {
            "v": vocabulary,
            "d": model.width,
            "p": model.context,
            "f": model.hidden_units,
            "h": heads,
            "g": model.heads // heads,
            "k": model.head_dimension,
            "n": len(self.leaves),
        }

    def _shape(self, axes: str, model: ModelConfig, vocabulary: int) -> tuple[int, ...]:
        sizes = self._sizes(model, vocabulary) | {"1": 1}
        axes_found = re.findall(r"\((.*?)\)|(\w)", axes)  # a group in parentheses, or a letter
        return tuple(math.prod(sizes[x] for x in (group or letter).split()) for group, letter in axes_found)


class Field(NamedTuple):
    """A number or flag of `config.json` and the field of ModelConfig that it is."""

    name: str
    ours: str
    kind: type
    default: Any  # of transformers, where the file leaves it out
    null: Any = None  # and where it says null, if that is something else


@dataclass(frozen=True)
class Family:
    """How one architecture of the transformers library maps onto ours."""

    name: str  # model_type
    class_name: str  # with ForCausalLM or ForSequenceClassification behind it
    prefix: str  # of the tensors below the heads; some checkpoints leave it out
    fields: tuple[Field, ...]
    activation: tuple[str, str]  # name of the field, and its default
    tensors: tuple[Tensor, ...]
    output: str  # name of the output matrix, where it is not tied
    buffers: tuple[str, ...]  # endings of tensors that are no parameters: masks and tables
    always: dict[str, Any]  # of ModelConfig, in every model of the family
    only: dict[str, Any]  # of config.json, where another value computes what we do not have
    parts: tuple[Part, ...] = ()
    scorer: str = ""  # the name before ForSequenceClassification, where it is another
    # Second names of `fields`, which go before them.
    aliases: dict[str, str] = dataclasses.field(default_factory=dict)

    def read(self, c: HfConfig) -> ModelConfig:
        c.refuse(**ONLY, **self.only)
        c = c.renamed(self.aliases)
        values = {field.ours: c.get(field.name, field.kind, *field[3:]) for field in self.fields}
        c = c.changed(max_position_embeddings=values["context"])  # by which rotary positions are stretched
        for part in self.parts:
            values |= part.read(c, values["layers"])
        rotary = values.get("rotary")
        if rotary and rotary.scaling == "longrope":  # beyond it all frequencies are others
            values["context"] = min(values["context"], rotary.original_context)
        activation = c.choose(self.activation[0], ACTIVATIONS, self.activation[1])
        return ModelConfig(**values, **self.always, activation=activation)

    def write(self, model: ModelConfig) -> dict[str, Any]:
        """The fields of `config.json` that `read` takes `model` from."""
        fields: dict[str, Any] = {"model_type": self.name}
        for field in self.fields:
            fields[field.name] = getattr(model, SPELLED_OUT.get(field.ours, field.ours))
        name, usual = self.activation
        same = ACTIVATIONS[usual] == model.activation
        fields[name] = usual if same else ACTIVATION_NAMES[model.activation]
        for part in self.parts:
            fields |= part.write(model)
        return fields

    def class_for(self, task: str) -> str:
        """Of transformers; `task` is ForCausalLM or ForSequenceClassification."""
        scores = task == "ForSequenceClassification" and self.scorer
        return (self.scorer if scores else self.class_name) + task

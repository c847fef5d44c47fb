"""The frozen model beside which a run trains adapters: found, held against its digest, and loaded once.

Where the whole model is trained, there is none: the base is {}, and what is trained is all.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from rlhf_jax.config import ModelConfig
from rlhf_jax.model import lora, params, pretrained, quantized, transformer
from rlhf_jax.training import inputs
from rlhf_jax.training.inputs import InputError


def base_of(model: ModelConfig, vocabulary: int, expected: str | None = None) -> Any:
    """The frozen transformer of a network, as `model.lora.base` says. Needs a mesh set.

    All networks of a process that have the same base share its arrays. Raises InputError where it has
    another digest than `expected`.
    """
    if not model.lora.rank:
        return {}
    digest = inputs.of_base(model.pretrained)
    if expected not in (None, digest):
        raise InputError(
            f"model.pretrained: {model.pretrained} is not the model beside which these adapters were trained "
            f"({expected} then, {digest} now): name that one"
        )
    folder = pretrained.folder_of(model.pretrained)
    return _loaded(folder, digest, model.dtype, model.lora.base, vocabulary, jax.sharding.get_mesh())


_hold = jax.jit(quantized.hold, static_argnames=("name", "kind"))


@functools.lru_cache(maxsize=1)
def _loaded(folder: Path, digest: str, dtype: str, kind: str, vocabulary: int, mesh: Mesh) -> Any:
    del digest  # by which the cache knows that something else lies there now
    specs = transformer.specs(pretrained.architecture(ModelConfig(), folder), vocabulary)
    like = params.abstract(specs, mesh, dtype)
    return pretrained.load(folder, like, lambda name, x: _hold(name=name, stack=x, kind=kind))


def whole_base_of(model: ModelConfig, vocabulary: int) -> Any:
    """`base_of` in the type of the computation, though it is quantized in training."""
    whole = dataclasses.replace(model.lora, base="whole")
    return base_of(dataclasses.replace(model, lora=whole), vocabulary)


def abstract_base(model: ModelConfig, vocabulary: int, mesh: Mesh) -> Any:
    """`base_of` without values. Needs the mesh set."""
    if not model.lora.rank:
        return {}

    def hold(path, stack):
        return _hold(name=pretrained.name_of(path), stack=stack, kind=model.lora.base)

    like = params.abstract(transformer.specs(model, vocabulary), mesh, model.dtype)
    return jax.eval_shape(functools.partial(jax.tree_util.tree_map_with_path, hold), like)


def abstract_trained(specs, model: ModelConfig, mesh: Mesh) -> Any:
    """What is trained of a network with these specs, without values; a scalar head is always float32."""
    trained = lora.trained(specs, model.lora)
    if "transformer" not in trained:
        return params.abstract(trained, mesh, model.weights)
    body = params.abstract(trained["transformer"], mesh, model.weights)
    return {"transformer": body, "head": params.abstract(trained["head"], mesh)}

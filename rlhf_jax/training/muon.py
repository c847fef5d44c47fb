"""Muon: an update of a matrix goes the same length in every direction (Jordan et al., 2024).

A matrix's momentum is replaced by the nearest matrix whose singular values are all about 1, with entries as
large as those of Adam's steps, so that learning rates of AdamW serve (Liu et al., 2025, "Muon is Scalable for
LLM Training"). All that is no matrix of a layer has Adam. The iteration is optax's; here stands which leaves
are matrices, and where they lie meanwhile.
"""

import math

import jax
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from rlhf_jax.config import OptimizerConfig
from rlhf_jax.mesh import reshard
from rlhf_jax.model.lora import SUMMED

MOMENTUM = 0.95  # Nesterov's, as published
ENTRIES = 0.2  # root mean square of a step's


def scale_by_muon_or_adam(options: OptimizerConfig) -> optax.GradientTransformation:
    """Steps of float32 gradients. Momenta lie where the weights do."""
    of_matrices = optax.chain(optax.trace(MOMENTUM, nesterov=True), optax.stateless(_orthogonal))
    others = optax.scale_by_adam(options.beta1, options.beta2, options.epsilon)
    return optax.partition({True: of_matrices, False: others}, _are_matrices)


def _are_matrices(params):
    return jax.tree_util.tree_map_with_path(lambda path, _: _inputs(path) > 0, params)


def _inputs(path) -> int:
    """How many axes of a leaf, after that of the layers, are a matrix's inputs; 0: it is none."""
    names = [str(getattr(key, "key", key)) for key in path]
    return SUMMED.get(names[-1], 0) if "layers" in names else 0


def _orthogonal(momenta, params):
    del params
    return jax.tree_util.tree_map_with_path(lambda path, x: _orthogonal_stack(x, _inputs(path)), momenta)


def _orthogonal_stack(stack: jax.Array, inputs: int) -> jax.Array:
    """Of [L, *in, *out]. A device computes matrices of its share of the layers, and gathers the others."""
    outputs = tuple(range(1 + inputs, stack.ndim))
    numbers = MuonDimensionNumbers(tuple(range(1, 1 + inputs)), outputs)
    once = scale_by_muon(beta=0.0, nesterov=False, weight_dimension_numbers=numbers)  # the momentum as it is
    sides = math.prod(stack.shape[1 : 1 + inputs]), math.prod(stack.shape[1 + inputs :])
    whole = reshard(stack, _share_of_layers(stack.shape[0]))
    found, _ = once.update(whole, once.init(whole))
    everywhere = reshard(ENTRIES * math.sqrt(max(sides)) * found)
    return reshard(everywhere, *jax.typeof(stack).sharding.spec)


def _share_of_layers(layers: int) -> str | None:
    """The axis of the mesh along which layers are shared out, where it divides them."""
    mesh = jax.sharding.get_abstract_mesh()
    return "fsdp" if not mesh.empty and layers % mesh.shape["fsdp"] == 0 else None

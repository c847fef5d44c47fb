"""Muon: which leaves it is of, what its steps are, and that a mesh changes nothing of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from rlhf_jax.config import MeshConfig, ModelConfig, OptimizerConfig
from rlhf_jax.mesh import make_mesh
from rlhf_jax.model import params, transformer
from rlhf_jax.training.optimizers import direction

MODEL = ModelConfig(width=16, layers=2, heads=4, kv_heads=2)
OPTIONS = OptimizerConfig(name="muon")
# Each of five iterations rounds a matrix of norm about 1 in a few products, and grows what is off by 3.4445
# at most; then its entries are scaled by 0.2 · √64.
ROUNDING = 10 * 3.4445**5 * np.finfo(np.float32).eps * 1.6


def weights():
    return params.init(transformer.specs(MODEL, 32), jax.random.key(0))


def two_steps(options: OptimizerConfig, like):
    """The second of two steps of gradients that have nothing to do with the weights."""
    optimizer = direction(options)
    state = optimizer.init(like)
    for i in range(2):
        gradients = jax.tree.map(lambda x, i=i: jnp.sin((37 + i) * x + 0.3), like)
        steps, state = optimizer.update(gradients, state, like)
    return steps


def by_hand(gradients: list[np.ndarray]) -> np.ndarray:
    """One matrix's step after these gradients, by Jordan's code: Nesterov, then five iterations."""
    momentum = np.zeros_like(gradients[0])
    for gradient in gradients:
        momentum = gradient + 0.95 * momentum
    x = gradients[-1] + 0.95 * momentum
    x = x / np.linalg.norm(x)
    if tall := x.shape[0] > x.shape[1]:
        x = x.T
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    return 0.2 * np.sqrt(max(x.shape)) * (x.T if tall else x)


@pytest.mark.parametrize(
    "name,matrix",
    [("query", (16, 16)), ("key", (16, 8)), ("out", (16, 16)), ("up", (16, 64)), ("down", (64, 16))],
)
def test_steps_of_matrices_are_those_by_hand(name, matrix):
    like = weights()
    steps, part = two_steps(OPTIONS, like), "mlp" if name in ("up", "down") else "attention"
    stack = np.asarray(like["layers"][part][name], np.float64)
    for layer in range(2):
        gradients = [np.sin((37 + i) * stack[layer].reshape(matrix) + 0.3) for i in range(2)]
        found = np.asarray(steps["layers"][part][name][layer]).reshape(matrix)
        np.testing.assert_allclose(found, by_hand(gradients), atol=ROUNDING)


def test_all_else_has_adam():
    like = weights()
    muon, adam = two_steps(OPTIONS, like), two_steps(OptimizerConfig(), like)
    for part in ("embed", "norm"):
        tiny.assert_same(muon[part], adam[part])
    for part, leaves in muon["layers"].items():
        for name, found in leaves.items():
            same = np.array_equal(found, adam["layers"][part][name])
            assert same == ("bias" in name or "norm" in part), (part, name)


@pytest.mark.parametrize("shape", [(2, 2, 2), (1, 4, 2), (8, 1, 1)])
def test_on_a_mesh_the_steps_are_the_same(shape):
    alone = jax.device_get(two_steps(OPTIONS, weights()))
    with jax.set_mesh(make_mesh(MeshConfig(*shape))):
        like = jax.jit(weights)()
        found = jax.jit(lambda like: two_steps(OPTIONS, like))(like)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(like), strict=True):
            assert one.sharding.is_equivalent_to(other.sharding, one.ndim)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(one, other, atol=ROUNDING)


def test_a_momentum_is_all_that_it_keeps_of_a_matrix():
    like = weights()
    kept = sum(x.size for x in jax.tree.leaves(direction(OPTIONS).init(like)))
    matrices = [
        x for part in ("attention", "mlp") for name, x in like["layers"][part].items() if "bias" not in name
    ]
    in_matrices = sum(x.size for x in matrices)
    assert kept == in_matrices + 2 * (optax.tree.size(like) - in_matrices) + 1  # and Adam's count

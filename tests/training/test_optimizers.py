"""An optimizer's state on the host: the same numbers, in the other memory, and so again from a checkpoint."""

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from rlhf_jax.config import HealthConfig, MeshConfig, OptimizerConfig
from rlhf_jax.mesh import make_mesh
from rlhf_jax.run import checkpoint
from rlhf_jax.training.state import starting, update, without_values


def memories(state):
    return {x.sharding.memory_kind for x in jax.tree.leaves(state.opt_state) if x.ndim}


def test_on_the_host_it_is_the_same(tmp_path):
    mesh = make_mesh(MeshConfig(1, 1, 1))
    weights = np.random.default_rng(0).normal(size=(2, 8, 16)).astype(np.float32)
    step = jax.jit(update, donate_argnums=0)
    found = []
    with jax.set_mesh(mesh):
        split = jax.NamedSharding(mesh, jax.P(None, "fsdp", "tensor"))
        gradients = {"w": jax.device_put(np.sin(weights), split)}
        for on_host in (False, True):
            create = jax.jit(starting(OptimizerConfig(0.1, on_host=on_host), 4, HealthConfig()))
            fresh = {"w": jax.device_put(weights, split)}
            state = create(fresh)
            assert memories(state) == {"pinned_host" if on_host else "device"}
            planned = without_values(create, fresh)
            for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(planned), strict=True):
                assert jax.typeof(one).memory_space == jax.typeof(other).memory_space
            for _ in range(2):
                state, _ = step(state, jnp.float32(1.0), gradients)
            found.append(jax.device_get((state.params, state.opt_state)))
            params, rest = state.parts()
            checkpoint.save(tmp_path / str(on_host), 2, params=params, rest=rest, meta={})
            params, rest = checkpoint.restore(tmp_path / str(on_host), 2, *create(fresh).parts())
            again = rest.with_params(params)
            tiny.assert_same(again, state)
            assert memories(again) == memories(state)
            step(again, jnp.float32(1.0), gradients)
    tiny.assert_same(*found)

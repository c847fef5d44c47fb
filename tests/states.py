"""What tests of checkpoints and of runs share: a state with moments, and what runs left to be compared."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp

from rlhf_jax.run import checkpoint
from rlhf_jax.training.metrics import read_metrics

P = jax.P
CLOCK = ("rows_per_second", "pairs_per_second", "episodes_per_second", "tokens_per_second")


@flax.struct.dataclass
class Rest:
    optimizer: optax.OptState
    step: jax.Array
    key: jax.Array


def make_state(mesh, seed=0, rows=16):
    """Parameters on `mesh`, and an Adam state with moments that are not zero."""
    rng = np.random.default_rng(seed)
    params = {"embed": rng.normal(size=(rows, 8)), "head": {"bias": rng.normal(size=8)}}
    specs = {"embed": P("fsdp", "tensor"), "head": {"bias": P("tensor")}}
    params = jax.tree.map(
        lambda x, spec: jax.device_put(x.astype(np.float32), jax.NamedSharding(mesh, spec)), params, specs
    )
    optimizer = optax.adam(1e-3)
    state = optimizer.init(params)
    with jax.set_mesh(mesh):
        _, state = jax.jit(optimizer.update)(params, state)
    copy = jax.NamedSharding(mesh, P())
    step, key = jax.jit(lambda: (jnp.int32(7), jax.random.key(5)), out_shardings=copy)()
    return params, Rest(state, step, key)


def abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def assert_same(ours, theirs):
    def same(a, b):
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))

    jax.tree.map(same, ours, theirs)


def save_steps(folder, state, *steps, **options):
    params, rest = state
    for step in steps:
        checkpoint.save(folder, step, params=params, rest=rest, meta={"step": step}, **options)


def flip_a_byte(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def largest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def numbers_of(workdir, name):
    records = read_metrics(workdir / "metrics" / f"{name}.jsonl")
    return [{k: v for k, v in record.items() if k not in CLOCK} for record in records]


def last_checkpoint(workdir, name):
    """All arrays of it: parameters, moments, counts, key, coefficient."""
    folder = workdir / "checkpoints" / name
    path = folder / str(checkpoint.latest_step(folder))
    with ocp.StandardCheckpointer() as orbax:
        return int(path.name), {item: orbax.restore(path / item) for item in ("params", "rest")}

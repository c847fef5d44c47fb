import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from rlhf_jax.plan.collectives import group_size, received_bytes, result_bytes


def compiled_text(f, *arguments):
    return jax.jit(f).lower(*arguments).compile().as_text()


@pytest.fixture
def mesh():
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        yield mesh


def test_a_collective_in_a_loop_counts_as_often_as_the_loop_turns(mesh):
    def summed(x):
        def step(total, _):
            return jax.lax.psum(total * 1.5, "x"), None

        return jax.lax.scan(step, x, length=5)[0]

    f = jax.shard_map(summed, mesh=mesh, in_specs=P(None, "y"), out_specs=P(None, "y"), check_vma=False)
    x = jax.ShapeDtypeStruct((16, 64), jnp.float32, sharding=jax.sharding.NamedSharding(mesh, P(None, "y")))
    local = 16 * 32 * 4
    assert received_bytes(compiled_text(f, x)) == {"all-reduce": 5 * 2 * local * 3 / 4}


def test_nested_loops_multiply(mesh):
    def twice(x):
        def inner(total, _):
            return jax.lax.ppermute(total, "x", [(i, (i + 1) % 4) for i in range(4)]) + 1, None

        def outer(total, _):
            return jax.lax.scan(inner, total, length=3)[0], None

        return jax.lax.scan(outer, x, length=7)[0]

    f = jax.shard_map(twice, mesh=mesh, in_specs=P("x"), out_specs=P("x"), check_vma=False)
    x = jax.ShapeDtypeStruct((16, 8), jnp.float32, sharding=jax.sharding.NamedSharding(mesh, P("x")))
    assert received_bytes(compiled_text(f, x)) == {"collective-permute": 21 * 4 * 8 * 4}


def test_gathered_is_what_a_device_did_not_have(mesh):
    x = jax.ShapeDtypeStruct((16, 8), jnp.float32, sharding=jax.sharding.NamedSharding(mesh, P("x")))
    text = compiled_text(lambda x: jax.reshard(x, P()), x)
    assert received_bytes(text) == {"all-gather": 16 * 8 * 4 * 3 / 4}


def test_a_loop_that_may_end_early_counts_to_its_limit(mesh):
    def until(x):
        def step(carry):
            i, x = carry
            return i + 1, jax.lax.psum(x, "y")

        return jax.lax.while_loop(lambda c: (c[0] < 9) & (c[1].sum() < 1e9), step, (0, x))[1]

    f = jax.shard_map(until, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)
    x = jax.ShapeDtypeStruct((16,), jnp.float32, sharding=jax.sharding.NamedSharding(mesh, P()))
    assert received_bytes(compiled_text(f, x)) == {"all-reduce": 9 * 2 * 64 / 2}


def test_of_branches_the_one_that_sends_the_most_counts(mesh):
    def either(which, x):
        branches = [lambda x: x, lambda x: jax.lax.psum(x, "x"), lambda x: jax.lax.psum(x, ("x", "y"))]
        return jax.lax.switch(which, branches, x)

    f = jax.shard_map(either, mesh=mesh, in_specs=(P(), P()), out_specs=P(), check_vma=False)
    whole = jax.sharding.NamedSharding(mesh, P())
    which = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
    x = jax.ShapeDtypeStruct((16,), jnp.float32, sharding=whole)
    assert received_bytes(compiled_text(f, which, x)) == {"all-reduce": 2 * 64 * 7 / 8}


ASYNCHRONOUS = """HloModule jit_f

ENTRY %main (x: bf16[4,8]) -> bf16[16,8] {
  %x = bf16[4,8]{1,0} parameter(0)
  %g.1 = (bf16[4,8]{1,0}, bf16[16,8]{1,0}) all-gather-start(%x), channel_id=1, replica_groups={{0,1,2,3}}
  %g.1.done = bf16[16,8]{1,0} all-gather-done(%g.1)
  ROOT %r = bf16[16,8]{1,0} copy(%g.1.done)
}
"""

FUSED = """HloModule jit_f

%start (p: f32[4]) -> f32[16] {
  %p = f32[4]{0:T(128)} parameter(0)
  ROOT %a.1 = f32[16]{0:T(128)} all-gather(%p), channel_id=7, replica_groups=[2,4]<=[8], dimensions={0}
}

%done (p: f32[4]) -> f32[16] {
  %p = f32[4]{0:T(128)} parameter(0)
  ROOT %a.2 = f32[16]{0:T(128)} all-gather(%p), channel_id=7, replica_groups=[2,4]<=[8], dimensions={0}
}

%all-reduce-scatter.3 (p: f32[16]) -> f32[4] {
  %p = f32[16]{0:T(128)} parameter(0)
  %r = f32[16]{0:T(128)} all-reduce(%p), channel_id=8, replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %s = f32[4]{0:T(128)} dynamic-slice(%r), dynamic_slice_sizes={4}
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %x = f32[4]{0:T(128)} parameter(0)
  %b = f32[16]{0:T(128)} fusion(%x), kind=kCustom, calls=%start
  %e = f32[16]{0:T(128)} fusion(%x), kind=kCustom, calls=%done
  ROOT %s = f32[4]{0:T(128)} fusion(%e), kind=kCustom, calls=%all-reduce-scatter.3
}
"""


def test_an_asynchronous_gather_counts_its_result_once():
    assert received_bytes(ASYNCHRONOUS) == {"all-gather": 16 * 8 * 2 * 3 / 4}


def test_a_channel_in_two_fusions_is_one_collective_and_a_fused_scatter_sends_half():
    assert received_bytes(FUSED) == {"all-gather": 64 * 3 / 4, "reduce-scatter": 64 * 3 / 4}


@pytest.mark.parametrize(
    "attributes, size",
    [
        ("replica_groups={{0,1},{2,3},{4,5}}, x", 2),
        ("replica_groups=[2,4]<=[8]", 4),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", 2),
        ("replica_groups=mesh['a'=4,'b'=2] {'b'}, x", 2),
        ("replica_groups=mesh['a'=4,'b'=2], device_ids=([4,2]T(1,0)) {'a','b'}", 8),
    ],
)
def test_groups_in_every_spelling(attributes, size):
    assert group_size(attributes) == size


def test_unknown_groups_are_an_error():
    with pytest.raises(ValueError, match="not understood"):
        group_size("replica_groups=somehow")


def test_bytes_of_types():
    assert result_bytes("(bf16[2,3]{1,0:T(8,128)(2,1)}, /*index=1*/ f32[], pred[5], s4[8])") == 12 + 4 + 5 + 4

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash_kernel
from jax.sharding import PartitionSpec as P

from rlhf_jax.config import PLAIN, ConfigError, LayerKind, MeshConfig
from rlhf_jax.mesh import ROWS, make_mesh, to_devices
from rlhf_jax.model import attention

T, HEADS, GROUP, K = 300, 2, 3, 4  # more than two blocks of queries


def plain_attention(query, key, value, segments):
    """One query at a time, float64: softmax over the earlier keys of its segment."""
    out = np.zeros(query.shape)
    first = key.shape[2] - query.shape[3]
    for b, h, g, t in np.ndindex(*query.shape[:4]):
        place = first + t
        seen = [s for s in range(place + 1) if segments[b, s] == segments[b, place]]
        scores = key[b, h, seen] @ query[b, h, g, t] / np.sqrt(query.shape[-1])
        weights = np.exp(scores - scores.max())
        out[b, h, g, t] = weights / weights.sum() @ value[b, h, seen]
    return out


@pytest.fixture(scope="module")
def case():
    """Query, key, value and segments: a left-padded row, and a packed one with padding at its end."""
    rng = np.random.default_rng(0)
    query = rng.standard_normal((2, HEADS, GROUP, T, K))
    key, value = rng.standard_normal((2, 2, HEADS, T, K))
    segments = np.ones((2, T), np.int32)
    segments[0, :50] = 0
    segments[1] = np.repeat([1, 2, 3, 0], [100, 40, 150, 10])
    return query, key, value, segments


@pytest.mark.parametrize("last", [T, 170, 1])
def test_blocks_of_queries_equal_one_masked_attention(case, last):
    query, key, value, segments = case
    query = query[:, :, :, -last:]
    expected = plain_attention(query, key, value, segments)
    floats = [x.astype(np.float32) for x in (query, key, value)]
    ours = np.asarray(jax.jit(attention.causal_attention)(*floats, segments))
    real = segments[:, -last:] > 0
    ours_of, expected_of = (x.transpose(0, 3, 1, 2, 4)[real] for x in (ours, expected))
    tiny.assert_close(ours_of, expected_of, 2 * T + K)  # a score, a softmax and a mean of values
    assert np.isfinite(ours).all()  # a padding query has nothing to attend to


# The kernels against `attend` with a whole mask, which they never build.


@pytest.fixture
def without_accelerator(monkeypatch):
    """Splash interpreted, and cuDNN's arguments computed by XLA."""
    make = functools.partial(splash_kernel.make_splash_mha, interpret=True)
    monkeypatch.setattr(splash_kernel, "make_splash_mha", make)
    plain = jax.nn.dot_product_attention

    def by_xla(*arrays, implementation, **options):
        assert implementation == "cudnn"
        return plain(*arrays, **options, implementation="xla")

    monkeypatch.setattr(jax.nn, "dot_product_attention", by_xla)


def arrays(length, last, heads=2, group=1, size=64, rows=2, dtype=jnp.float32):
    """Query, key, value and segments; rows in turn padded on the left, packed, and whole."""
    rng = np.random.default_rng(length + last)
    query = jnp.asarray(rng.standard_normal((rows, heads, group, last, size)), dtype)
    key, value = (jnp.asarray(x, dtype) for x in rng.standard_normal((2, rows, heads, length, size)))
    segments = np.ones((rows, length), np.int32)
    segments[0::3, : length // 3] = 0
    segments[1::3] = np.repeat([1, 2, 3, 0], [length // 3, length // 4, length // 4, length])[:length]
    return query, key, value, segments


def whole(query, key, value, segments, kind=PLAIN):
    first = key.shape[2] - query.shape[3]
    mask = attention.causal_mask(segments[:, first:], segments, first, kind.window)
    return attention.attend(query, key, value, mask, kind)


def value_and_gradients(attend, query, key, value, segments):
    """The output, and the gradients of a weighted sum of it, as float32."""
    weights = np.random.default_rng(9).standard_normal(query.shape).astype(np.float32)

    @jax.jit
    def run(query, key, value, segments):
        def weighted(*qkv):
            heads = attend(*qkv, segments).astype(jnp.float32)
            return jnp.sum(heads * weights), heads

        gradients, heads = jax.grad(weighted, (0, 1, 2), has_aux=True)(query, key, value)
        return heads, *(x.astype(jnp.float32) for x in gradients)

    return jax.device_get(run(query, key, value, segments))


def sums(query, key, value, segments):
    """Additions behind a gradient: scores, softmax and mean forward, and about twice that backward."""
    return 3 * (query.shape[-1] + 2 * key.shape[2])


SHAPES = {  # of several lengths, heads, groups and suffixes of queries
    "one block": {"length": 100, "last": 100, "group": 2},
    "last of several": {"length": 300, "last": 170, "size": 128},
    "one query": {"length": 257, "last": 1, "group": 3, "heads": 1},
    "longer block": {"length": 512, "last": 512, "heads": 1, "rows": 3},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["splash", "cudnn"])
def test_kernels_equal_attention_with_a_whole_mask(without_accelerator, name, shape):
    case = arrays(**SHAPES[shape])
    ours = value_and_gradients(getattr(attention, name), *case)
    tiny.assert_close(ours, value_and_gradients(whole, *case), sums(*case))


KINDS = {
    "splash": LayerKind(window=40, scale=0.5, cap=2.0),
    "cudnn": LayerKind(window=40, scale=0.5),
    "blocked": LayerKind(window=40, scale=0.5, cap=2.0),
}


@pytest.mark.parametrize("shape", ["last of several", "one query", "longer block"])
@pytest.mark.parametrize("name", KINDS)
def test_windows_scales_and_caps_are_the_same_everywhere(without_accelerator, monkeypatch, name, shape):
    """Also where most keys are behind every query, or behind every query of a block."""
    monkeypatch.setattr(attention, "choose", lambda implementation, *_: implementation)
    case = arrays(**SHAPES[shape])
    attend = functools.partial(attention.causal_attention, implementation=name, kind=KINDS[name])
    expected = value_and_gradients(functools.partial(whole, kind=KINDS[name]), *case)
    tiny.assert_close(value_and_gradients(attend, *case), expected, sums(*case))


def test_a_window_a_scale_and_a_cap_by_hand(case):
    kind = LayerKind(window=5, scale=0.7, cap=1.5)
    query, key, value = (x[:1, :1, ..., :20, :] for x in case[:3])
    floats = (x.astype(np.float32) for x in (query, key, value))
    ours = np.asarray(whole(*floats, np.ones((1, 20), np.int32), kind))
    for g, t in np.ndindex(GROUP, 20):
        seen = slice(max(t - 4, 0), t + 1)
        scores = 1.5 * np.tanh(0.7 * key[0, 0, seen] @ query[0, 0, g, t] / 1.5)
        expected = np.exp(scores) / np.exp(scores).sum() @ value[0, 0, seen]
        tiny.assert_close(ours[0, 0, g, t], expected, 20 + K, scale=1.0)


def test_the_gradient_of_a_cap_is_that_of_its_formula(case):
    kind = LayerKind(scale=0.7, cap=1.5)
    query, key, value = (x[:1, :1, ..., :20, :].astype(np.float32) for x in case[:3])

    def plain(query, key, value, segments):
        scores = 1.5 * jnp.tanh(0.7 / 1.5 * jnp.einsum("bhgqk,bhtk->bhgqt", query, key))
        scores = jnp.where(jnp.tri(20, dtype=bool), scores, -jnp.inf)
        return jnp.einsum("bhgqt,bhtk->bhgqk", jax.nn.softmax(scores), value)

    inputs = query, key, value, np.ones((1, 20), np.int32)
    ours = value_and_gradients(functools.partial(whole, kind=kind), *inputs)
    tiny.assert_close(ours, value_and_gradients(plain, *inputs), sums(*inputs))


@pytest.mark.parametrize("name", ["splash", "cudnn", "blocked"])
def test_bfloat16_stays_within_two_percent_of_the_spread(without_accelerator, name):
    case = arrays(150, 150, group=2, dtype=jnp.bfloat16)
    ours = value_and_gradients(functools.partial(attention.causal_attention, implementation=name), *case)
    exact = value_and_gradients(whole, *(x.astype(jnp.float32) for x in case[:3]), case[3])
    for a, b in zip(ours, exact, strict=True):
        assert np.sqrt(np.mean((a - b) ** 2)) < 0.02 * np.std(b)


@pytest.mark.parametrize("name", ["splash", "cudnn"])
def test_each_device_computes_its_rows_and_heads(without_accelerator, monkeypatch, name):
    monkeypatch.setattr(attention, "choose", lambda implementation, *_: implementation)
    case = arrays(150, 90, rows=4, group=2)
    expected = value_and_gradients(whole, *case)
    mesh = make_mesh(MeshConfig(2, 2, 2))
    with jax.set_mesh(mesh):
        sharded = [jax.device_put(x, jax.NamedSharding(mesh, P(ROWS, "tensor"))) for x in case[:3]]
        attend = functools.partial(attention.causal_attention, implementation=name)
        ours = value_and_gradients(attend, *sharded, to_devices(case[3], mesh))
    tiny.assert_close(ours, expected, sums(*case))


@pytest.mark.parametrize(("queries", "mask"), [(64, "CAUSAL"), (31, "NO_MASK")])
def test_cudnn_is_called_where_it_is_asked_for(monkeypatch, queries, mask):
    """Lowered for a GPU that is not here: the forward and the backward call, with the mask as a bias."""
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91000)
    attend = functools.partial(attention.causal_attention, implementation="cudnn")
    case = arrays(64, queries, group=2, dtype=jnp.bfloat16)
    gradient = jax.jit(jax.grad(lambda *qkv: attend(*qkv, case[3]).astype(jnp.float32).sum(), (0, 1, 2)))
    program = gradient.trace(*case[:3]).lower(lowering_platforms=("cuda",)).as_text()
    assert "fmhaScaleBiasSoftmax(" in program and "fmhaScaleBiasSoftmaxBackward(" in program
    assert f"mask_type\\22: \\22{mask}" in program


@pytest.mark.parametrize("kind", [PLAIN, KINDS["splash"]], ids=["plain", "window, scale and cap"])
def test_splash_is_called_where_it_is_asked_for(kind):
    """Lowered for a TPU that is not here: the kernels of the output and of both gradients."""
    attend = functools.partial(attention.causal_attention, implementation="splash", kind=kind)
    case = arrays(100, 60, group=2)
    gradient = jax.jit(jax.grad(lambda *qkv: attend(*qkv, case[3]).sum(), (0, 1, 2)))
    program = gradient.trace(*case[:3]).lower(lowering_platforms=("tpu",)).as_text()
    assert program.count("@tpu_custom_call") == 3


@pytest.mark.parametrize(
    ("backend", "dtype", "size", "expected"),
    [
        ("cpu", jnp.bfloat16, 64, "blocked"),
        ("tpu", jnp.float32, 80, "splash"),
        ("gpu", jnp.bfloat16, 80, "cudnn"),
        ("gpu", jnp.float32, 64, "blocked"),
        ("gpu", jnp.bfloat16, 84, "blocked"),
        ("gpu", jnp.bfloat16, 256, "blocked"),
    ],
)
def test_auto_is_what_the_backend_can_do(backend, dtype, size, expected):
    assert attention.choose("auto", dtype, size, backend) == expected


def test_cudnn_caps_no_scores():
    capped = LayerKind(cap=50.0)
    assert attention.choose("auto", jnp.bfloat16, 64, "gpu", capped) == "blocked"
    with pytest.raises(ConfigError, match="^model.attention: cudnn cannot cap scores"):
        attention.choose("cudnn", jnp.bfloat16, 64, "gpu", capped)


def test_a_window_that_leaves_nothing_out_is_no_part_of_the_program():
    case = arrays(20, 20)

    def program(kind):
        return str(jax.make_jaxpr(functools.partial(attention.causal_attention, kind=kind))(*case))

    assert program(LayerKind(window=20)) == program(PLAIN) != program(LayerKind(window=19))


def test_cudnn_refuses_float32():
    with pytest.raises(ConfigError, match="^model.attention: .*float32"):
        attention.causal_attention(*arrays(8, 8), implementation="cudnn")


def test_positions_count_the_tokens_before_in_the_same_segment():
    segments = np.array([[0, 0, 1, 1, 1, 0], [1, 1, 2, 2, 2, 3], [1, 1, 1, 0, 0, 0]])
    expected = [[0, 1, 2], [0, 1, 0, 1, 2, 0], [0, 1, 2]]
    positions = np.asarray(attention.positions_of(segments))
    for row, segment, wanted in zip(positions, segments, expected, strict=True):
        np.testing.assert_array_equal(row[segment > 0], wanted)

"""A frozen base of a byte a weight: by hand, against what it stands for, and what it was made of."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny import PAD, VOCABULARY

from rlhf_jax.config import ConfigError, LoraConfig, MeshConfig
from rlhf_jax.mesh import make_mesh, to_devices
from rlhf_jax.model import lora, params, pretrained, quantized, transformer
from rlhf_jax.training import adapters

LORA = LoraConfig(rank=3, alpha=6.0, base="int8")
T, ROWS = 10, 4
TOKENS = tiny.random_tokens(ROWS, T)
SEGMENTS = (TOKENS != PAD).astype(np.int32)


def model_of(name, layer_loop):
    return dataclasses.replace(tiny.FAMILIES[name], lora=LORA, layer_loop=layer_loop)


def held(base, kind="int8"):
    return jax.tree_util.tree_map_with_path(
        lambda path, x: quantized.hold(pretrained.name_of(path), x, kind), base
    )


def meant(base):
    """What a quantized base stands for, as matrices."""
    return jax.tree.map(
        lambda x: x.whole("float32") if quantized.is_quantized(x) else x, base, is_leaf=quantized.is_quantized
    )


def of_tiny(model):
    base = tiny.parameters(transformer.specs(model, VOCABULARY))
    specs = lora.trained(transformer.specs(model, VOCABULARY), model.lora)
    return base, jax.tree.map(lambda x: 0.3 * x, tiny.parameters(specs, seed=1))


def logits(network, model, tokens=TOKENS, segments=SEGMENTS):
    hidden = transformer.apply(network, model, tokens, segments)
    return transformer.logits(network, model, hidden)


def loss(network, model):
    logp = jax.nn.log_softmax(logits(network, model)[:, :-1])
    return -jnp.mean(jnp.take_along_axis(logp, TOKENS[:, 1:, None], axis=-1))


def test_by_hand():
    """Columns whose largest are 127, 2.54 and 0: scales 1, 0.02 and anything."""
    stack = jnp.array([[[127.0, -2.54, 0.0], [-63.6, 1.003, 0.0]]])
    found = quantized.Int8.of(stack, inputs=1)
    np.testing.assert_array_equal(found.q, [[[127, -127, 0], [-64, 50, 0]]])
    np.testing.assert_allclose(found.scale[0, 0, :2], [1.0, 0.02], rtol=1e-6)
    np.testing.assert_allclose(found.whole("float32"), [[[127, -2.54, 0], [-64, 1.0, 0]]], rtol=1e-6)


def test_an_entry_is_off_by_half_a_step_of_its_channel_at_most():
    """Channels of attention's output sum over heads, groups and dimensions: one scale for all of these."""
    stack = np.random.default_rng(0).normal(size=(2, 2, 4, 8, 32)).astype(np.float32)
    found = quantized.Int8.of(stack, inputs=3)
    assert found.q.dtype == jnp.int8 and found.scale.shape == (2, 1, 1, 1, 32)
    off = np.abs(found.whole("float32") - stack) / found.scale
    assert 0.49 < off.max() < 0.5 + 127 * np.finfo(np.float32).eps


def test_four_bits_by_hand():
    """Blocks of four, for a row has twelve: the largest are 2, −4 and 0. The first byte is 15 + 16 · 7."""
    row = [2.0, 0.0, -2.0, 0.15, -4.0, 4 * 0.44, 4 * -0.39, 4 * 0.6, 0.0, 0.0, 0.0, 0.0]
    found = quantized.Nf4.of(jnp.array([[row]]), inputs=1)
    np.testing.assert_array_equal(
        found.codes, [[[15 + 16 * 7, 0 + 16 * 8, 0 + 16 * 12, 3 + 16 * 13, 119, 119]]]
    )
    np.testing.assert_array_equal(found.largest, [[[2.0, 4.0, 0.0]]])
    expected = [2, 0, -2, 2 * 0.0795803, -4, 4 * 0.4407098, 4 * -0.3949175, 4 * 0.562617, 0, 0, 0, 0]
    np.testing.assert_allclose(found.whole("float32"), [[expected]], rtol=1e-6)


def test_sixteen_numbers_are_taken_about_equally_often():
    """By normally distributed weights in blocks of 64, of which the largest takes the first or the last."""
    stack = np.random.default_rng(0).normal(size=(4, 64, 256)).astype(np.float32)
    found = quantized.Nf4.of(jnp.asarray(stack), inputs=1)
    assert found.codes.shape == (4, 64, 128) and found.largest.shape == (4, 64, 4)
    codes = np.stack([found.codes & 15, found.codes >> 4])
    shares = np.bincount(codes.ravel(), minlength=16) / codes.size
    assert shares.min() > 0.25 / 16 and shares.max() < 2 / 16
    off = np.abs(found.whole("float32") - stack).reshape(4, 64, 4, 64) / found.largest[..., None]
    gaps = np.diff(quantized.NORMAL_FLOATS)
    assert off.max() <= gaps.max() / 2 + 1e-6 and off.max() > gaps.max() / 2.1


def test_a_mesh_that_would_split_blocks_is_refused():
    mesh = make_mesh(MeshConfig(1, 8, 1))
    with jax.set_mesh(mesh):
        stack = jax.device_put(
            np.ones((1, 8, 192), np.float32), jax.NamedSharding(mesh, jax.P(None, None, "fsdp"))
        )
        with pytest.raises(
            ConfigError, match="blocks of 64 weights, and mesh.fsdp=8 does not divide the 3 of"
        ):
            quantized.Nf4.of(stack, inputs=1)


@pytest.mark.parametrize(
    ("name", "layer_loop", "kind"),
    [
        ("gpt2", "unroll", "int8"),
        ("neox", "scan", "nf4"),
        ("llama", "scan", "int8"),
        ("llama", "unroll", "nf4"),
    ],
)
def test_logits_and_gradients_are_those_of_the_matrices_that_are_meant(name, layer_loop, kind):
    model = model_of(name, layer_loop)
    base, trained = of_tiny(model)
    base = held(base, kind)
    together = jax.jit(jax.value_and_grad(lambda own, base: loss(lora.attach(base, own), model)))
    ours, theirs = (together(trained, each) for each in (base, meant(base)))
    tiny.assert_close(ours, theirs, tiny.additions(model, T, ROWS), tiny.largest(theirs[1]))
    merged = jax.grad(lambda own: loss(lora.merged(lora.attach(meant(base), own), LORA), model))(trained)
    scale = tiny.largest(merged)
    tiny.assert_close(ours[1], merged, tiny.additions(model, T, ROWS), scale)
    assert scale > 0.01


def test_logits_are_off_by_what_rounding_makes_of_them():
    """An error is uniform within half a step, s / √12: that part of a matrix's entries in each product.

    Products follow each other, and errors add up as independent ones do: √(products of two layers).
    """
    model = model_of("llama", "unroll")
    base, trained = of_tiny(model)
    steps = held(base)["layers"]["mlp"]["up"].scale / 12**0.5
    relative = float(np.mean(steps)) / float(jnp.std(base["layers"]["mlp"]["up"]))
    exact, ours = (logits(lora.attach(each, trained), model) for each in (base, held(base)))
    off = float(jnp.sqrt(jnp.mean((ours - exact) ** 2)) / jnp.std(exact))
    expected = relative * (7 * model.layers) ** 0.5
    assert expected / 4 < off < 4 * expected < 0.2


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_byte_a_weight_and_four_a_channel_or_half_a_byte_and_four_a_block(kind):
    model = model_of("llama", "scan")
    model = dataclasses.replace(model, lora=dataclasses.replace(LORA, base=kind))
    mesh = make_mesh(MeshConfig(1, 1, 1))
    with jax.set_mesh(mesh):
        base = adapters.abstract_base(model, VOCABULARY, mesh)
    sizes = [(32, 32), (32, 8), (32, 8), (32, 32), (32, 64), (32, 64), (64, 32)]
    others = 4 * (2 * VOCABULARY * 32 + 32 + model.layers * 2 * 32)  # embedding and output, norms
    blocks = [4, 4, 4, 32, 64, 64, 32]  # heads have four dimensions
    of_layer = {
        "int8": sum(a * b + 4 * b for a, b in sizes),
        "nf4": sum(a * b / 2 + 4 * a * b / block for (a, b), block in zip(sizes, blocks, strict=True)),
    }
    expected = others + model.layers * of_layer[kind]
    assert sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(base)) == expected


@pytest.mark.parametrize(("shape", "kind"), [((1, 8, 1), "int8"), ((2, 2, 2), "nf4")])
def test_on_a_mesh_it_is_the_same(shape, kind, monkeypatch):
    """The bytes bit for bit, on the devices of the weights; logits to rounding."""
    monkeypatch.setattr(quantized, "BLOCK", 2)  # for heads of four dimensions
    model = model_of("llama", "scan")
    model = dataclasses.replace(model, lora=dataclasses.replace(LORA, base=kind))
    base, trained = of_tiny(model)
    expected = held(base, kind)
    specs = transformer.specs(model, VOCABULARY)
    mesh = make_mesh(MeshConfig(*shape))
    with jax.set_mesh(mesh):

        def place(tree, like):
            return jax.tree.map(lambda x, y: jax.device_put(x, y.sharding), tree, like)

        ours = jax.jit(held, static_argnums=1)(place(base, params.abstract(specs, mesh)), kind)
        planned = adapters.abstract_base(model, VOCABULARY, mesh)
        assert jax.tree.map(jax.typeof, ours) == jax.tree.map(jax.typeof, planned)
        tiny.assert_same(ours, expected)
        own = place(trained, params.abstract(lora.trained(specs, LORA), mesh))
        tokens, segments = (to_devices(np.tile(x, (2, 1)), mesh) for x in (TOKENS, SEGMENTS))
        found = jax.jit(logits, static_argnums=1)(lora.attach(ours, own), model, tokens, segments)
    alone = logits(lora.attach(expected, trained), model)
    tiny.assert_close(jax.device_get(found)[:ROWS], alone, tiny.additions(model, T))


def test_of_a_loop_one_layer_at_a_time_is_whole():
    """Kept for the backward pass, the matrices of both layers would be an output of the loop forward."""
    model = model_of("llama", "scan")
    base, trained = of_tiny(model)
    gradient = jax.grad(lambda own, base: loss(lora.attach(base, own), model))
    program = str(jax.make_jaxpr(gradient)(trained, held(base)))
    assert "i8[2,32,64]" in program and "f32[32,64]" in program
    assert "f32[2,32,64]" not in program

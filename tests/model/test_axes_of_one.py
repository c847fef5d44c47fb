"""Rows, responses, positions, layers and heads may be one: JAX keeps the layout of each, on any mesh.

A wrong layout is an error where a function is traced, so that nothing has to be computed here.
"""

import dataclasses
import math

import jax
import pytest
import tiny
from tiny import EOS, PAD, VOCABULARY

from rlhf_jax import inference
from rlhf_jax.config import MeshConfig
from rlhf_jax.mesh import abstract_rows, make_mesh, row_shards
from rlhf_jax.model import heads, likelihood, params, transformer
from rlhf_jax.pipeline import reward

MODELS = {
    "one head": dataclasses.replace(tiny.GPT2, heads=1),
    "one key-value head": dataclasses.replace(tiny.LLAMA, kv_heads=1),
    "one layer": dataclasses.replace(tiny.NEOX, layers=1),
    "one layer and head": dataclasses.replace(tiny.LLAMA, layers=1, heads=1, kv_heads=1),
    "one layer in a loop": dataclasses.replace(tiny.NEOX, layers=1, layer_loop="scan"),
}


def traced(model, mesh, rows, query_tokens, tokens, count):
    """(name, result, its right shape) of each function, for `count` responses to each of `rows` queries."""
    policy = params.abstract(transformer.specs(model, VOCABULARY), mesh)
    scorer = params.abstract(heads.specs(model, VOCABULARY), mesh)
    query = abstract_rows(mesh, (rows, query_tokens))
    responses = abstract_rows(mesh, (rows, count, tokens))
    one = abstract_rows(mesh, (rows, tokens))
    sampling = dict(response_tokens=tokens, eos_ids=(EOS,), pad_id=PAD, temperature=0.7)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def logp(weights, query, response):
        return likelihood.response_logprobs(weights, model, query, response, PAD, 1.0)[0].sum()

    def loss(weights, query, response):
        batch = {"query": query, "chosen": response, "rejected": response}
        return reward.loss(weights, model, batch, PAD, rows)[0]

    def write(weights, query, key):
        return inference.write(weights, model, query, key, samples=count, **sampling)

    def draw(weights, query, key):
        return inference.draw(weights, weights, query, key, model=model, **sampling)

    def read(weights, query, responses):
        return inference.read(weights, model, query, responses, PAD)

    def response_logp(weights, query, responses):
        return inference.response_logp(weights, model, query, responses, PAD)

    def score(weights, query, response):
        return heads.score(weights, model, query, response, PAD)

    yield "read", jax.eval_shape(read, scorer, query, responses), (rows, count)
    yield "score", jax.eval_shape(score, scorer, query, one), (rows,)
    yield "write", jax.eval_shape(write, policy, query, key), (rows * count, tokens)
    yield "draw", jax.eval_shape(draw, policy, query, key)[1], (rows,)
    yield "response_logp", jax.eval_shape(response_logp, policy, query, responses), (rows, 1)
    gradient = jax.eval_shape(jax.grad(logp), policy, query, one)
    yield "gradient", gradient["embed"]["tokens"], policy["embed"]["tokens"].shape
    gradient = jax.eval_shape(jax.grad(loss), scorer, query, one)
    yield "reward gradient", gradient["head"]["weight"], (model.width,)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 4, 1)], ids=["alone", "eight devices"])
@pytest.mark.parametrize("name", MODELS)
def test_an_axis_may_be_one(name, shape):
    model = MODELS[name]
    mesh = make_mesh(MeshConfig(*shape), jax.devices()[: math.prod(shape)])
    with jax.set_mesh(mesh):
        for lengths in ((1, 1, 1), (4, 2, 1), (4, 1, 2)):
            for what, made, wanted in traced(model, mesh, row_shards(mesh), *lengths):
                assert made.shape == wanted, (what, lengths)

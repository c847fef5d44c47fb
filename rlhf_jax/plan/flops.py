"""Useful floating point operations of every stage, and the memory traffic it cannot do without.

A multiplication and an addition count two. Counted is what the result needs and no more: the causal
half of attention, logits and the last layer only at positions that are read, no recomputation, no
norms, activations or softmax. A backward pass needs twice the operations of its forward pass; beside a
frozen model as many, for its matrices need no gradient. Products with adapters are too small to count.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp

from rlhf_jax import inference
from rlhf_jax.config import Config, ModelConfig
from rlhf_jax.model import lora, params, transformer
from rlhf_jax.pipeline import ensemble

OPTIMIZER_BYTES = 28  # a parameter and update: read weight, gradient and two moments, write all but one


class Phase(NamedTuple):
    name: str
    flops: float  # of all devices together
    recomputed: float  # more of them, where activations are not kept
    traffic: float  # bytes that each device reads from or writes to its memory, at the least


class Placed(NamedTuple):
    """The transformer of a run and how many ways rows and weights are split."""

    model: ModelConfig
    vocabulary: int
    rows: int  # replica × fsdp
    fsdp: int
    tensor: int


def layer_matrices(model: ModelConfig) -> tuple[int, int]:
    """Entries of one layer's matrices: those of keys and values, and the others."""
    key_value = 2 * model.width * model.key_value_heads * model.head_dimension
    mlp = (3 if model.gated else 2) * model.width * model.hidden_units
    return key_value, 2 * model.width * model.heads * model.head_dimension + mlp


def forward(model: ModelConfig, tokens: int, outputs: int) -> float:
    """One row of `tokens` through all layers, of which the last `outputs` positions are read.

    A layer: 2 · tokens · entries of its matrices, and for a query at position t (from 1) 4 · width of the
    heads · t, or · the window where t is more, half of it for the scores and half for the weighted sum. The
    last layer computes keys and values everywhere, all else at the outputs.
    """
    key_value, others = layer_matrices(model)
    *inner, last = windows(model)
    matrices = len(inner) * tokens * (key_value + others) + tokens * key_value + outputs * others
    seen = sum(pairs(tokens, tokens, window) for window in inner) + pairs(tokens, outputs, last)
    return 2 * matrices + 4 * model.heads * model.head_dimension * seen


def forward_to_ends(model: ModelConfig, query: int, responses: int, response: int) -> float:
    """One row of a query and so many responses to it, each read at its last token.

    The query is computed once; a response attends to it and to itself.
    """
    tokens = query + responses * response
    key_value, others = layer_matrices(model)
    *inner, last = windows(model)
    matrices = len(inner) * tokens * (key_value + others) + tokens * key_value + responses * others
    seen = responses * pairs(query + response, 1, last)
    for window in inner:
        seen += pairs(query, query, window) + responses * pairs(query + response, response, window)
    return 2 * matrices + 4 * model.heads * model.head_dimension * seen


def forward_to_responses(model: ModelConfig, query: int, responses: int, response: int) -> float:
    """One row of a query and so many responses to it, each of whose tokens is predicted.

    The query is computed once; of a response, all but its last token.
    """
    own = response - 1
    outputs = 1 + responses * own
    key_value, others = layer_matrices(model)
    *inner, last = windows(model)
    tokens = query + responses * own
    matrices = len(inner) * tokens * (key_value + others) + tokens * key_value + outputs * others
    seen = pairs(query, 1, last) + responses * pairs(query + own, own, last)
    for window in inner:
        seen += pairs(query, query, window) + responses * pairs(query + own, own, window)
    return 2 * matrices + 4 * model.heads * model.head_dimension * seen


def windows(model: ModelConfig) -> list[int]:
    """Of every layer; 0 where a query sees all keys before it."""
    kinds = model.kinds
    return [kinds[i % len(kinds)].window for i in range(model.layers)]


def pairs(tokens: int, queries: int, window: int = 0) -> int:
    """Keys that the last `queries` of `tokens` positions see: Σ min(t, window) for t = T − S + 1 … T."""
    wide = min(max(tokens - window, 0), queries) if window else 0  # queries that have left keys behind
    tokens, queries = tokens - wide, queries - wide
    return wide * window + queries * (2 * tokens - queries + 1) // 2


def logits(model: ModelConfig, vocabulary: int, positions: int) -> float:
    return 2 * positions * model.width * vocabulary


def phases(program: str, config: Config, model: ModelConfig, vocabulary: int, mesh: Mapping) -> list[Phase]:
    """The parts, one after another, of one step of a program in its longest bucket.

    `mesh` maps axes to sizes. All rows are taken to be full and no response to end early.
    """
    net = Placed(model, vocabulary, mesh["replica"] * mesh["fsdp"], mesh["fsdp"], mesh["tensor"])
    data = config.data
    q, r, long = data.query_tokens, data.response_tokens, data.reward_response_tokens
    imitating = {"sft": config.sft, "distill": config.distill}.get(program)
    if imitating:
        rows, read = imitating.batch_size, q + r - 1 if imitating.query_loss else r
        work = rows * forward(model, q + r - 1, read)
        return [train("update", net, work, rows * read, imitating.microbatches)]
    if program == "reward":
        work = config.reward.batch_size * forward_to_ends(model, q, 2, long)
        return [train("update", net, work, 0, config.reward.microbatches)]
    if program == "dpo":
        rows = config.dpo.batch_size
        work = rows * forward_to_responses(model, q, 2, long)
        return [train("update", net, work, rows * (2 * long - 1), config.dpo.microbatches)]
    n = config.eval.best_of
    if program == "eval.write":
        return sample(net, inference.batch_size(net.rows, n), q, r, n)
    if program == "eval.read":
        work = inference.batch_size(net.rows, n) * forward_to_ends(model, q, n, long)
        return [read_only("score", net, work, 0)]
    ppo = config.ppo
    parts, micro = ppo.minibatches, ppo.microbatches
    work = ppo.prompts * forward_to_responses(model, q, ppo.samples, r)
    predicted = ppo.prompts * (1 + ppo.samples * (r - 1))
    rollout = [
        *sample(net, ppo.prompts, q, r, ppo.samples),
        read_only("policy's log-probabilities", net, work, predicted),
        read_only("reference's log-probabilities", net, work, predicted),
    ]
    update = [train("policy's update", net, work, predicted, micro, parts)]
    if ppo.has_value_network:
        rollout.append(read_only("values", net, work, 0))
        update.append(train("value network's update", net, work, 0, micro, parts))
    score = read_only("score", net, ppo.prompts * forward_to_ends(model, q, ppo.samples, r), 0)
    rollout += [score] * len(ensemble.scoring(config))
    return rollout + ppo.epochs * update


def read_only(name: str, net: Placed, work: float, predicted: int) -> Phase:
    """A forward pass that takes `work` operations below its logits, which it has at `predicted` positions."""
    flops = work + logits(net.model, net.vocabulary, predicted)
    return Phase(name, flops, 0.0, pass_bytes(net, predicted))


def train(
    name: str, net: Placed, work: float, predicted: int, microbatches: int, minibatches: int = 1
) -> Phase:
    """Forward and backward passes in `minibatches` updates; arguments as for `read_only`."""
    once = read_only(name, net, work, predicted)
    again = net.model.rematerialize and net.model.rematerialize_but == "nothing"
    passes = minibatches * microbatches * (3 if again else 2)
    rank = net.model.lora.rank
    learned = adapters(net) if rank else entries(net, predicted)
    optimizer = minibatches * OPTIMIZER_BYTES * learned / (net.fsdp * net.tensor)
    flops = (2 if rank else 3) * once.flops
    return Phase(name, flops, work if again else 0.0, passes * once.traffic + optimizer)


def sample(net: Placed, queries: int, query: int, response: int, samples: int) -> list[Phase]:
    """Prefill, which gives the first token, and decoding of the others, each of which reads all weights.

    A query is read once for all of its `samples`, and its keys and values once for each token of theirs.
    """
    prefill = read_only("prefill", net, queries * forward(net.model, query, 1), queries)
    rows = samples * queries
    alone = forward(net.model, query + response - 1, response) - forward(net.model, query, 1)
    flops = rows * (alone + logits(net.model, net.vocabulary, response - 1))
    slot = 2 * net.model.key_value_heads * net.model.head_dimension * itemsize(net)  # K and V of a layer
    slots = 0
    for window in windows(net.model):
        kept = min(query, window - 1) if window else query
        slots += queries * kept * (response - 1) + rows * pairs(response - 1, response - 1, window)
    traffic = (response - 1) * pass_bytes(net, 1) + slots / net.rows * slot / net.tensor
    return [prefill, Phase("decode", flops, 0.0, traffic)]


def entries(net: Placed, predicted: int) -> int:
    """Entries of the matrices that a pass multiplies with; the output matrix only where logits are read."""
    head = net.vocabulary * net.model.width if predicted else 0
    return net.model.layers * sum(layer_matrices(net.model)) + head


def adapters(net: Placed) -> int:
    """Entries of the adapters of one network."""
    return params.count(lora.trained(transformer.specs(net.model, net.vocabulary), net.model.lora))


def pass_bytes(net: Placed, predicted: int) -> float:
    """Every device reads its tensor share of all matrices: rows differ between the others, weights do not."""
    of_layers = entries(net, 0)
    head = entries(net, predicted) - of_layers
    held = {"whole": itemsize(net), "int8": 1, "nf4": 1 / 2}[net.model.lora.base]
    return (held * of_layers + itemsize(net) * head) / net.tensor


def itemsize(net: Placed) -> int:
    return jnp.dtype(net.model.dtype).itemsize

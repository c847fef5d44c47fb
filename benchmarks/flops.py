"""Useful floating point operations of each suite on the rows that it gets, as `plan.flops` counts them.

Real tokens alone count, whatever padding a side computes; logits and the last layer where they are read;
a pair's prompt once; log-probabilities of a sampled response once, for sampling has them already. A
backward pass needs twice the operations of its forward pass.
"""

from collections.abc import Sequence

from benchmarks.workloads import Example, Workload
from rlhf_jax.config import ModelConfig
from rlhf_jax.plan.flops import forward, layer_matrices, logits, pairs


def useful(suite: str, workload: Workload, examples: Sequence[Example]) -> float:
    """Of all examples together, in one step or iteration each."""
    return sum(COUNTS[suite](workload, example) for example in examples)


def policy(workload: Workload, example: Example) -> float:
    """A forward pass that predicts the response; generation by cached decoding does the same work."""
    query, response = len(example.query), len(example.response)
    body = forward(workload.model, query + response - 1, response)
    return body + logits(workload.model, workload.vocabulary, response)


def values(workload: Workload, example: Example) -> float:
    query, response = len(example.query), len(example.response)
    return forward(workload.model, query + response - 1, response)


def update(workload: Workload, example: Example) -> float:
    return 3 * workload.epochs * (policy(workload, example) + values(workload, example))


def iteration(workload: Workload, example: Example) -> float:
    """Sampling, reference, values and score, then the update."""
    score = forward(workload.model, len(example.query) + len(example.response), 1)
    return 2 * policy(workload, example) + values(workload, example) + score + update(workload, example)


def pair(model: ModelConfig, query: int, responses: Sequence[int]) -> float:
    """A forward pass over one prompt and several responses to it, each read at its last token."""
    key_value, others = layer_matrices(model)
    attention = 4 * model.heads * model.head_dimension
    tokens = query + sum(responses)
    seen = pairs(query, query) + sum(pairs(query + response, response) for response in responses)
    inner = 2 * tokens * (key_value + others) + attention * seen
    last_seen = sum(query + response for response in responses)
    last = 2 * tokens * key_value + 2 * len(responses) * others + attention * last_seen
    return (model.layers - 1) * inner + last


def compare_pair(workload: Workload, example: Example) -> float:
    responses = len(example.response), len(example.other)
    return 3 * pair(workload.model, len(example.query), responses)


COUNTS = {
    "generation": policy,
    "sft": lambda workload, example: 3 * policy(workload, example),
    "reward": compare_pair,
    "update": update,
    "ppo": iteration,
}

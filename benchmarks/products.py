"""Operations of the matrix products of a PPO iteration, read from a version's program before it is compiled.

PYTHONPATH=FOLDER python benchmarks/products.py QUERY RESPONSE SAMPLES     # FOLDER: a checkout of any version

Prints GFLOP an episode of the small model of docs/performance.md with one epoch of updates, prompts padded to
QUERY tokens and RESPONSE tokens at most: for each width to which responses are computed, the least first.
Decoding is left out, as its steps are not known beforehand. Nothing is compiled, and no time is measured.
"""

import math
import sys

import jax
import jax.extend

from rlhf_jax.config import Config, DataConfig, MeshConfig, ModelConfig, PpoConfig
from rlhf_jax.mesh import make_mesh
from rlhf_jax.pipeline import ppo

ROWS, MICROBATCHES, VOCABULARY = 16, 4, 8192
MOST_BRANCHES = 3


def dot_products(jaxpr, branch: int) -> float:
    """Of a program that takes this branch wherever it has several for lengths, or its last one."""
    total = 0.0
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
        elif name == "cond":
            taken = parameters["branches"][min(branch, len(parameters["branches"]) - 1)]
            total += dot_products(taken.jaxpr, branch)
        elif name != "while":
            turns = parameters["length"] if name == "scan" else 1
            for inner in jax.extend.core.jaxprs_in_params(parameters):
                total += turns * dot_products(inner, branch)
    return total


def main(query: int, response: int, samples: int) -> None:
    options = PpoConfig(batch_size=ROWS, microbatches=MICROBATCHES, samples=samples, epochs=1)
    data = DataConfig(query_tokens=query, query_buckets=(query,), response_tokens=response)
    model = ModelConfig(width=256, layers=4, heads=4)
    with jax.set_mesh(make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])):
        program = ppo.traced(Config(model=model, data=data, ppo=options), model, VOCABULARY).jaxpr
    found = [dot_products(program.jaxpr, branch) / ROWS / 1e9 for branch in range(MOST_BRANCHES)]
    print(*(f"{gflop:.1f}" for gflop in dict.fromkeys(found)), "GFLOP")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

import dataclasses
import functools
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import compare, devices, flops, growth, memory, operations, run, steady, workloads
from benchmarks.worker import WORKLOAD
from benchmarks.workloads import EOS, Example, Workload
from rlhf_jax.config import ModelConfig, OptimizerConfig
from rlhf_jax.model.generate import generate
from rlhf_jax.plan.flops import forward

# Width 4, 2 heads of 3, 1 key-value head, 5 hidden units, 2 layers.
SMALL = ModelConfig(width=4, layers=2, heads=2, kv_heads=1, head_size=3, ff=5)
TINY = Workload(
    "tiny-real",
    ModelConfig(width=16, layers=1, heads=2, context=32),
    vocabulary=40,
    rows=2,
    real=True,
    query_tokens=16,
    response_tokens=5,
)
LENGTHS = np.array([[6, 3], [9, 5], [2, 1], [14, 4], [16, 5], [11, 2]])


def example(query: int, response: int, other: int) -> Example:
    return Example(*(np.full(size, 7) for size in (query, response, other)))


# Useful work ---------------------------------------------------------------------------------


def test_a_pair_shares_its_prompt():
    # 3 + 2 + 1 tokens. First layer: 2·6·(24 + 88), and queries that see 1+2+3, then 4+5, then 4 keys.
    # Last layer: keys and values of all six tokens, the others at two ends, which see 5 and 4 keys.
    assert flops.pair(SMALL, 3, (2, 1)) == (12 * 112 + 24 * (6 + 9 + 4)) + (12 * 24 + 4 * 88 + 24 * (5 + 4))
    assert flops.pair(SMALL, 3, (2,)) == forward(SMALL, 5, 1)


def test_an_iteration_is_its_parts():
    workload = dataclasses.replace(TINY, model=SMALL, vocabulary=11, epochs=2)
    policy = forward(SMALL, 4, 2) + 2 * 2 * 4 * 11
    update = 2 * 3 * (policy + forward(SMALL, 4, 2))
    found = flops.useful("ppo", workload, [example(3, 2, 1)])
    assert found == 2 * policy + forward(SMALL, 4, 2) + forward(SMALL, 5, 1) + update


def test_work_of_a_compiled_program_counts_the_turns_of_its_loops():
    def program(x, w):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, length=7)[0]

    text = jax.jit(program).lower(jnp.ones((8, 16)), jnp.ones((16, 16))).compile().as_text()
    assert devices.dot_flops(text) == 7 * 2 * 8 * 16 * 16


def test_of_branches_the_one_with_the_most_work_counts():
    def program(which, x, w):
        return jax.lax.switch(which, [lambda: x, lambda: x @ w, lambda: x @ w @ w])

    text = jax.jit(program).lower(1, jnp.ones((8, 16)), jnp.ones((16, 16))).compile().as_text()
    assert devices.dot_flops(text) == 2 * 2 * 8 * 16 * 16


def test_operations_of_a_program_by_kind():
    def program(x, w, v):
        return jnp.tanh(x @ w).sum(axis=0), w @ v, x.T

    shapes = (jnp.ones((64, 128)), jnp.ones((128, 256)), jnp.ones(256))
    found = operations.kinds(jax.jit(program).lower(*shapes).compile().as_text()).values()
    large, small = 2 * 64 * 128 * 256, 2 * 128 * 256
    read = 4 * (64 * 128 + 128 * 256 + 64 * 256), 4 * (128 * 256 + 256 + 128)
    assert operations.Operation(operations.ARITHMETIC, large, read[0]) in found
    assert operations.Operation(operations.MEMORY, small, read[1]) in found
    assert {"sums and maxima", "copies"} <= {operation.kind for operation in found}


def test_a_kind_takes_the_time_in_which_any_of_it_ran():
    product = operations.Operation(operations.ARITHMETIC, 1e9, 1e6)
    known = {"dot.1": product, "add.1": operations.Operation("element by element")}
    ran = [("dot.1", (0.0, 3e9)), ("dot.1", (1e9, 4e9)), ("add.1", (6e9, 7e9)), ("while.1", (0.0, 9e9))]
    assert operations.shares(ran, known) == {
        operations.ARITHMETIC: (4.0, 2e9, 2e6),
        "between": (2.0, 0.0, 0.0),
        "element by element": (1.0, 0.0, 0.0),
    }


# Rows ----------------------------------------------------------------------------------------


def test_prompts_change_little_so_that_responses_end_where_eos_comes():
    for query, response in ((100, 22), (512, 53), (3, 1), (300, 48)):
        length = workloads.ending(query, response, workloads.WORKLOADS["small-real"])
        assert (length + response - 2) % 53 == 0
        assert 1 <= length <= 512
        assert abs(length - query) <= 52 if query in (3, 512) else abs(length - query) <= 26


def test_both_sides_get_the_same_rows():
    examples = workloads.draw(TINY, LENGTHS, batches=3)

    def rows(batches) -> list:
        return sorted(tuple(e.query) for placed in batches for e in placed.examples)

    own, other = (place(TINY, examples, 3) for place in (workloads.ours, workloads.peers))
    assert rows(own) == rows(other) == sorted(tuple(e.query) for e in examples)
    packed = workloads.packed(TINY, examples, 3)
    kept = np.sort(np.concatenate([batch["tokens"][batch["segments"] > 0] for batch in packed]))
    given = np.sort(np.concatenate([np.concatenate(e[:2]) for e in examples]))
    np.testing.assert_array_equal(kept, given)
    assert sum(batch["targets_mask"].sum() for batch in packed) == sum(len(e.response) for e in examples)


def test_responses_have_the_lengths_drawn():
    write = jax.jit(
        functools.partial(
            generate, config=TINY.model, response_tokens=5, eos_ids=(EOS,), pad_id=TINY.pad, temperature=0.7
        )
    )
    plain = workloads.network("policy", "sft", TINY)
    for real in (True, False):
        workload = dataclasses.replace(TINY, real=real)
        examples = workloads.draw(workload, LENGTHS, batches=1)
        weights = plain | {"embed": workloads.with_ends(plain["embed"], workload)}
        query = workloads.arrays("generation", workload, workloads.ours(workload, examples, 1)[0])["query"]
        response = np.asarray(write(weights, query=jnp.asarray(query), key=jax.random.key(0)))
        lengths = (response != workload.pad).sum(1).tolist()
        assert sorted(lengths) == sorted(len(e.response) for e in examples)
        assert (response == EOS).any(1).tolist() == [real] * 2


# Taking turns --------------------------------------------------------------------------------


@pytest.fixture
def standins(tmp_path, monkeypatch):
    """`standins(ours, peer)`: both sides' outputs → what `measure` returns, and in which order they ran."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))

    def measured(ours: dict, peer: dict):
        fields = {"suite": "standin", "ours": ours, "peer": peer}
        (tmp_path / WORKLOAD).write_text(json.dumps(fields))
        indices = {f"{i}.index": np.asarray(i) for i in range(2)}
        np.savez(tmp_path / "peer.npz", **indices, **{"check.index": np.asarray(0)})
        monkeypatch.setenv("STANDIN", "ours")
        with compare.Worker("ours", sys.executable, "benchmark_standin", tmp_path) as a:
            monkeypatch.setenv("STANDIN", "peer")
            with compare.Worker("peer", sys.executable, "benchmark_standin", tmp_path) as b:
                times = compare.measure(a, b, Machine(), tmp_path, batches=2, repeats=3)
        return times, (tmp_path / "turns.txt").read_text().split()

    return measured


class Machine:
    def ask(self, do: str) -> dict[str, float]:
        return {"numpy": 50.0, "jax": 40.0, "bandwidth": 10.0}


def test_sides_take_turns_batch_by_batch(standins):
    times, turns = standins({"loss": 2.0}, {"loss": 2.0001})
    assert turns == ["0", "0", *"001100"]  # each side's warm-up, then both on batches 0, 1, 0
    assert len(times.ours) == len(times.peer) == len(times.machine) == 3
    assert times.ours_bytes > 0


@pytest.mark.parametrize(
    "ours, peer, told",
    [
        ({"loss": 2.0}, {"loss": 2.0005}, "loss differs: 2.0 of ours, 2.0005 of peer"),
        ({"loss": 2.0}, {"loss": float("nan")}, "loss differs"),
        ({"tokens": [[1, 2], [3, 4]]}, {"tokens": [[1, 2], [3, 5]]}, r"4 of ours, 5 of peer at \[1, 1\]"),
    ],
)
def test_no_time_is_taken_of_a_side_that_computes_something_else(standins, ours, peer, told):
    with pytest.raises(compare.BenchmarkError, match=told):
        standins(ours, peer)


def test_a_worker_that_dies_says_why(standins):
    with pytest.raises(compare.BenchmarkError, match="ours: ended at 'check': "):
        standins(None, {})


# What is reported ----------------------------------------------------------------------------


@pytest.mark.parametrize("real, ratio", [(False, 3.0), (True, 2.5)])
def test_rows_hold_the_ratio_and_the_figures_behind_it(real, ratio):
    speeds = [Machine().ask("measure")] * 3
    times = compare.Times([1.0, 2.0, 3.0], [6.0, 2.0, 7.0], 9.0, 1.0, 10**6, 2 * 10**6, speeds)
    row = run.make_row("update", dataclasses.replace(TINY, real=real), "torch", times, gflop=20.0)
    assert row.ratio == ratio  # medians of equal repetitions; means where each is another batch
    assert row.ours_gflops == 10 and row.ours_share == 0.2 and row.peer_share == pytest.approx(0.2 / ratio)
    assert row.ours_range == [1, 3] and row.peer_megabytes == 2
    assert json.loads(json.dumps(row._asdict()))["suite"] == "update"
    assert "update" in run.line(row)


@pytest.mark.parametrize(
    "argument, told",
    [
        ("--suite=slow", "'slow' is not one of all, generation"),
        ("--peer=none", "--peer"),
        ("more", "unexpected"),
    ],
)
def test_errors_of_use_are_one_line(argument, told, capsys):
    assert run.main(["run", argument]) == 2
    assert told in capsys.readouterr().err


def test_time_without_a_program_and_compilations_are_counted_between_results():
    watch = steady.Watch()
    watch.called = [0.0, 1.0, 3.5, 6.0]
    watch.ready = {0: 2.0, 1: 3.0, 2: 5.5, 3: 10.0}
    watch.compiled = [1.5, 2.5]  # the first before the iterations that count
    found = watch.since(1)
    assert found.iterations == 3 and found.compilations == 1
    assert found.host_share == pytest.approx((0 + 0.5 + 0.5) / 8)
    assert found.iteration_seconds == 2.5


@pytest.mark.slow
def test_training_compiles_nothing_once_every_bucket_was_seen():
    found = steady.run(measured=3)
    assert found.iterations == 3 and found.compilations == 0
    assert 0 <= found.host_share < 0.5


def test_distance_from_linear():
    points = [{"value": value, "rollout": 0.0, "scoring": 1.0, "update": value / 8} for value in (16, 128)]
    assert growth.off_linear(points) == pytest.approx((17 / 128) / (3 / 16) - 1)


# The real peers ------------------------------------------------------------------------------


@pytest.mark.live
@pytest.mark.parametrize("kind", ["fixed", "real"])
@pytest.mark.parametrize("suite", run.PLANNED)
def test_peers_compute_the_same(suite, kind, tmp_path):
    peer = next(name for name, suites in run.PEERS.items() if suite in suites)
    pytest.importorskip({"torch": "transformers", "trl": "trl"}[peer], reason="benchmarks/requirements.txt")
    workload = dataclasses.replace(TINY, real=kind == "real", rows=4)
    options = run.parse(["run", "--repeats=1"])
    with compare.Worker("machine", sys.executable, "benchmarks.machine", tmp_path) as machine:
        row, _ = run.compare(suite, workload, peer, LENGTHS, options, machine, tmp_path)
    assert row.ratio > 0 and row.peer_megabytes > 0


# Memory --------------------------------------------------------------------------------------


def test_bytes_a_parameter_by_hand():
    """In float32 4 of weights and 8 of moments, PPO twice and two frozen networks; 4 of each gradient."""
    model = ModelConfig(width=64, layers=2, heads=2, context=32)
    counted = memory.bytes_a_parameter(model, OptimizerConfig(), 512)
    assert counted == pytest.approx([12, 16, 2 * 12 + 2 * 4, 2 * 16 + 2 * 4], rel=0.01)
    half = dataclasses.replace(model, dtype="bfloat16", weights="bfloat16")
    assert memory.bytes_a_parameter(half, OptimizerConfig(), 512)[:2] == pytest.approx([10, 12], rel=0.01)

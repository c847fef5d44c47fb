import dataclasses
import functools
import importlib.metadata
import json

import jax
import numpy as np
import pytest
import tiny

from rlhf_jax import inference
from rlhf_jax.config import (
    Config,
    DataConfig,
    DpoConfig,
    LoraConfig,
    MeshConfig,
    ModelConfig,
    PpoConfig,
    RewardConfig,
    SftConfig,
)
from rlhf_jax.data.batches import PairPlan, QueryPlan, SftPlan
from rlhf_jax.data.comparisons import pairs_of
from rlhf_jax.data.tasks.tldr import Tldr
from rlhf_jax.mesh import make_mesh, to_devices
from rlhf_jax.model import heads, params, transformer
from rlhf_jax.pipeline import dpo, ppo, reward, sft
from rlhf_jax.plan import compiled, fit, planned
from rlhf_jax.plan.compiled import Compiled
from rlhf_jax.plan.flops import Phase
from rlhf_jax.plan.topologies import Chip, PlanError, Topology, find
from rlhf_jax.training.state import TrainState, make_optimizer

MODEL = dataclasses.replace(tiny.GPT2, layers=1, context=64)
DATA = DataConfig(
    vocabulary=320, query_tokens=40, query_buckets=(40,), response_tokens=8, reward_response_tokens=8
)
CONFIG = Config(
    mesh=MeshConfig(2, 2, 2),
    model=MODEL,
    data=DATA,
    sft=SftConfig(batch_size=8, pack=False),
    reward=RewardConfig(batch_size=8),
    dpo=DpoConfig(batch_size=8),
    ppo=PpoConfig(batch_size=16, minibatches=2),
)
INVENTED = Chip(1e9, memory=1e9, taken=0.5, usable=0.75, bandwidth=1e6, links=1e5, source="invented")
FILE = """from rlhf_jax.config import *


def get_config():
    return Config(
        model=ModelConfig(width=32, layers=1, heads=8, context=64),
        data=DataConfig(vocabulary=320, query_tokens=40, query_buckets=(40,), response_tokens=8,
                        reward_response_tokens=8),
    )
"""


@pytest.fixture
def plan(tmp_path, capsys):
    """Runs the command on a tiny configuration; returns (exit status, stdout, stderr)."""
    (tmp_path / "tiny.py").write_text(FILE)

    def call(*arguments):
        status = fit.main(["rlhf-jax plan", f"--config={tmp_path / 'tiny.py'}", *arguments])
        return status, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def ppo_with_all_networks():
    """What others, which lack one, are compared with."""
    return compiled.compile_program("ppo", CONFIG, MODEL, 320, find("cpu:8"))


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo", "ppo"])
def test_what_is_planned_is_what_runs(stage):
    """The program traced without values is, letter by letter, that of real weights and a real batch."""
    posts = tiny.posts(16, 0)
    task = Tldr(DATA)
    tokenizer = task.make_tokenizer(posts, None)
    vocabulary, pad_id = tokenizer.vocab_size, tokenizer.pad_id
    mesh = make_mesh(CONFIG.mesh)
    with jax.set_mesh(mesh):
        policy, scalar = (
            tiny.placed(tiny.parameters(specs), specs, mesh)
            for specs in (transformer.specs(MODEL, vocabulary), heads.specs(MODEL, vocabulary))
        )
        optimizer = functools.partial(make_optimizer, updates=1)
        if stage == "sft":
            batch = SftPlan(posts, tokenizer, task, CONFIG.sft, 0).batch(0)
            state = jax.jit(functools.partial(TrainState.create, tx=optimizer(CONFIG.sft.optimizer)))(policy)
            real = sft.jitted_step(MODEL, DATA.response_tokens, 1).trace(state, to_devices(batch, mesh))
            planned = sft.traced(CONFIG, MODEL, vocabulary)
        elif stage == "dpo":
            pairs = pairs_of(tiny.comparisons("train", 16, 0), "train")
            batch = PairPlan(pairs, tokenizer, task, 8, 0).batch(0) | {
                "ref_logp": np.zeros((8, 2), np.float32)
            }
            state = jax.jit(functools.partial(TrainState.create, tx=optimizer(CONFIG.dpo.optimizer)))(policy)
            real = dpo.jitted_step(MODEL, CONFIG.dpo, pad_id).trace(state, to_devices(batch, mesh))
            planned = dpo.traced(CONFIG, MODEL, vocabulary)
        elif stage == "reward":
            pairs = pairs_of(tiny.comparisons("train", 16, 0), "train")
            batch = PairPlan(pairs, tokenizer, task, 8, 0).batch(0)
            state = jax.jit(functools.partial(TrainState.create, tx=optimizer(CONFIG.reward.optimizer)))(
                scalar
            )
            real = reward.jitted_step(MODEL, pad_id, 1).trace(state, to_devices(batch, mesh))
            planned = reward.traced(CONFIG, MODEL, vocabulary)
        else:
            query = QueryPlan(posts, tokenizer, task, 16, 0).batch(0)["query"]
            setting = ppo.Setting(MODEL, CONFIG.ppo, DATA.response_tokens, (0,), pad_id)
            state = ppo.initial_state(policy, scalar, optimizer(CONFIG.ppo.optimizer), CONFIG.ppo, 0)
            real = ppo.jitted_iteration(setting).trace(state, policy, scalar, to_devices(query, mesh))
            planned = ppo.traced(CONFIG, MODEL, vocabulary)
    assert str(planned.jaxpr) == str(real.jaxpr)


def test_a_device_holds_its_share_of_weights_moments_and_batch():
    config = dataclasses.replace(CONFIG, mesh=MeshConfig(1, 4, 2))
    found = compiled.compile_program("sft", config, MODEL, 320, find("cpu:8"))
    split = 320 * 32 + 64 * 32 + 4 * 32 * 32 + 2 * 32 * 64  # embeddings, matrices of a layer
    heads_bias, up_bias, whole = 3 * 32, 64, 6 * 32 + 2 * 32
    positions = 64 * 32  # over fsdp alone
    entries = (split - positions) / 8 + positions / 4 + (heads_bias + up_bias) / 2 + whole
    batch = 8 / 4 * (3 * 48 + 1)
    counters = 4 + 2 * 128  # of updates and skips, in Adam and in its schedule; the window of spikes
    assert found.fits and not found.reason
    assert found.memory["arguments"] == pytest.approx(4 * (3 * entries + batch + counters), rel=0.02)
    assert found.parameters == split + heads_bias + up_bias + whole
    assert found.optimizer_bytes == 2 * 4 * found.parameters
    assert found.memory["total"] >= found.memory["arguments"] + found.memory["temporaries"]
    assert found.collectives["all-reduce"] > 0
    assert not found.bound  # simulated devices have no published figures


def test_four_networks_with_adapters_are_one_base_and_four_small_trees():
    """By hand, on fsdp 2 × tensor 2, of which each splits one side of an adapter."""
    model = dataclasses.replace(MODEL, dtype="bfloat16", lora=LoraConfig(rank=2))
    found = compiled.compile_program(
        "ppo", dataclasses.replace(CONFIG, model=model), model, 320, find("cpu:8")
    )
    adapter, head = 2 * (4 * (32 + 32) + 2 * (32 + 64)), 32 + 1  # matrices of attention and MLP
    assert found.parameters == 4 * adapter + 2 * head + params.count(transformer.specs(MODEL, 320))
    assert found.optimizer_bytes == 2 * 4 * (2 * adapter + head)
    split = 320 * 32 + 4 * 32 * 32 + 2 * 32 * 64
    base = split / 4 + 64 * 32 / 2 + (3 * 32 + 64) / 2 + 6 * 32 + 2 * 32  # positions over fsdp, biases, norms
    trained, read = 3 * 4 * (2 * adapter / 2 + head), 2 * 2 * adapter / 2 + 4 * head  # moments; in bfloat16
    counters, queries = 2 * 4 * (4 + 2 * 128), 4 * 16 * 40 / 4
    expected = 2 * base + trained + read + counters + queries
    assert found.memory["arguments"] == pytest.approx(expected, rel=0.02)


def test_a_run_without_a_reward_model_is_planned_without_one(ppo_with_all_networks, monkeypatch, plan):
    own = dataclasses.replace(CONFIG, ppo=dataclasses.replace(CONFIG.ppo, reward="own.py:short"))
    both = ppo_with_all_networks
    alone = compiled.compile_program("ppo", own, MODEL, 320, find("cpu:8"))
    scalar = params.count(heads.specs(MODEL, 320))
    assert both.parameters - alone.parameters == scalar
    fewer = both.memory["arguments"] - alone.memory["arguments"]
    assert fewer >= 4 * scalar / 8  # at least an eighth of it on each device
    assert compiled.programs(CONFIG).keys() == {"sft", "reward", "dpo", "distill", "ppo", "eval"}
    planned = []

    def compile_program(program, *_):
        planned.append(program)
        return dataclasses.replace(alone, fits=True)

    monkeypatch.setattr(fit, "compile_program", compile_program)
    plan("--topology=cpu:8", "--config.ppo.reward=own.py:short")
    assert planned == ["sft", "ppo", "eval.write"]
    planned.clear()
    plan("--topology=cpu:8", "--config.ppo.reward=model,own.py:short")
    assert planned == ["sft", "reward", "ppo", "eval.write", "eval.read"]


def test_an_algorithm_without_a_value_network_is_planned_without_one(ppo_with_all_networks):
    comparing = dataclasses.replace(CONFIG.ppo, algorithm="rloo", samples=2)
    ppo = ppo_with_all_networks
    rloo = compiled.compile_program(
        "ppo", dataclasses.replace(CONFIG, ppo=comparing), MODEL, 320, find("cpu:8")
    )
    scalar = params.count(heads.specs(MODEL, 320))
    assert ppo.parameters - rloo.parameters == scalar
    assert ppo.optimizer_bytes - rloo.optimizer_bytes == 8 * scalar
    fewer = ppo.memory["arguments"] - rloo.memory["arguments"]
    assert fewer >= 3 * 4 * scalar / 8  # weights and two moments, at least an eighth of them on each device


def test_bound_by_hand():
    phases = [Phase("a", 8e9, 8e9, 5e3), Phase("b", 8e9, 0.0, 2e6)]
    topology = Topology("x", [], "tpu", INVENTED, "")
    plan = Compiled(
        "ppo", "x", 8, "", {}, 1, False, 1, 1, 1, 1.0, 1, collectives={"all-gather": 4e5, "all-reduce": 2e5}
    )
    # a: 16e9 / 8 devices / 1e9 = 2 s, 5 ms of traffic; b: 1 s against 2 s of traffic; links 6e5 / 1e5 = 6 s.
    slow = compiled.bound(phases, plan, topology)
    assert slow == pytest.approx({"seconds": 6.0, "compute": 3.0, "memory": 2.005, "links": 6.0})
    plan.collectives = {}
    assert compiled.bound(phases, plan, topology)["seconds"] == pytest.approx(4.0)


def test_what_a_device_lacks_is_told():
    topology = Topology("gpu:1x1x8", [], "cuda", INVENTED._replace(memory=2 * 2**30), "")
    enough = {"peak": 2**30, "beside": 2**29}
    assert compiled._excess(enough, topology) == ""
    assert "2.0 GiB a device exceed the 1.5 GiB (75%" in compiled._excess(
        enough | {"beside": 2**30}, topology
    )


def test_steps_of_a_run():
    config = Config(
        sft=SftConfig(epochs=2), reward=RewardConfig(seeds=3), ppo=PpoConfig(episodes=1000, batch_size=300)
    )
    assert compiled.steps("sft", config, 1) == 2 * (116_722 // 128)
    assert compiled.steps("reward", config, 1) == 3 * (92_832 // 64)
    assert compiled.steps("ppo", config, 1) == 3
    # 500 posts, best of 16: 8 posts a batch; two greedy policies: 128 posts a batch.
    assert compiled.steps("eval.write", config, 1) == 63 + 2 * 4
    assert compiled.steps("eval.write", config, 32) == 16 + 2 * 4  # a post a shard: 512 samples
    assert compiled.steps("eval.read", config, 1) == 63 + 23  # 22 posts with six texts each


def test_command_writes_table_and_json(plan, tmp_path):
    status, out, err = plan(
        "--topology=cpu:8", "--mesh=1,4,2", "--stage=eval", f"--json={tmp_path / 'p.json'}"
    )
    assert (status, err) == (0, "")
    assert "eval.write on cpu:8, replica 1 × fsdp 4 × tensor 2: fits" in out and "Compiled, not run" in out
    content = json.loads((tmp_path / "p.json").read_text())
    assert [p["program"] for p in content["plans"]] == ["eval.write", "eval.read"]
    assert all(p["fits"] is True and p["flops"] > 0 for p in content["plans"])
    assert content["jax"] == jax.__version__


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (("--topology=v9:2x2",), ("v9:2x2", "known", "v5p:4x4x4")),
        (("--topology=v5e:four",), ("v5e:four", "known")),
        (("--topology=gpu:8",), ("gpu:8",)),
        ((), ("--topology is missing",)),
        (("--topology=cpu:64",), ("cpu:64", "8 simulated devices")),
        (("--topology=cpu:8", "--mesh=2,8"), ("--mesh", "1,16,4")),
        (("--topology=cpu:8", "--mesh=1,1,16"), ("mesh", "8 devices")),
        (("--topology=cpu:8", "--config.ppo.batch_size=12", "--stage=ppo"), ("ppo.batch_size", "12 rows")),
        (("--topology=cpu:8", "--config.model.pretrained=someone/model"), ("someone/model", "no folder")),
    ],
)
def test_errors_of_use_are_one_line(plan, arguments, parts):
    status, _, err = plan(*arguments)
    assert status == 2 and err.count("\n") == 1
    for part in parts:
        assert part in err


@pytest.mark.parametrize("topology, extra", [("v5e:2x2", "plan-tpu"), ("gpu:1x1x8", "plan-gpu")])
def test_a_missing_compiler_names_its_extra(plan, monkeypatch, topology, extra):
    def missing(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    status, _, err = plan(f"--topology={topology}")
    assert status == 2 and extra in err and err.count("\n") == 1


def test_vocabulary_and_layers_come_with_a_pretrained_folder():
    config = Config(model=ModelConfig(pretrained="mini/small"), data=DATA)
    model, vocabulary = planned.architecture(config, find("cpu:8")._replace(platform="tpu"))
    assert model.layer_loop == "scan"  # as an accelerator runs it
    assert (model.width, model.layers, vocabulary) == (72, 4, 768)


def test_evaluation_rounds_its_rows_up_to_what_the_mesh_divides():
    config = dataclasses.replace(CONFIG, mesh=MeshConfig(1, 3, 1))
    with jax.set_mesh(make_mesh(config.mesh)):
        traced = inference.traced_read(config, dataclasses.replace(MODEL, width=48, ff=96), 300)
    (scores,) = jax.tree.leaves(traced.out_info)
    assert scores.shape == (9, 16)


@pytest.mark.parametrize("size, text", [(0, "0 B"), (1023, "1.02e+03 B"), (1.5 * 2**30, "1.5 GiB")])
def test_sizes_as_people_read_them(size, text):
    assert fit.in_bytes(size) == text


class Refusing:
    """A lowered program whose compiler fails as it is told to; what it was asked for is kept."""

    def __init__(self, *answers):
        self.answers, self.asked = iter(answers), []

    args_info = ((), {})  # no argument is a state

    def lower(self, **_):
        return self

    def compile(self, compiler_options=None):
        self.asked.append(compiler_options)
        raise jax.errors.JaxRuntimeError(next(self.answers))


@pytest.mark.parametrize(
    ("platform", "answers", "asked"),
    [
        ("cuda", ["INTERNAL: no tile\nsizes", "INTERNAL: still\nnone"], 2),
        ("tpu", ["INTERNAL: still none"], 1),
    ],
)
def test_a_compiler_that_fails_is_told_in_one_line(monkeypatch, platform, answers, asked):
    """On a GPU it is asked a second time, without the kernels that only an autotuner can choose among."""
    program, topology = Refusing(*answers), find("cpu:8")._replace(platform=platform, compiler="some 1")
    monkeypatch.setattr(compiled.stages, "programs", lambda: {"sft": lambda *_: program})
    with pytest.raises(PlanError, match="^sft on cpu:8: some 1 gives up: INTERNAL: still none$"):
        compiled.compile_program("sft", CONFIG, MODEL, 320, topology)
    assert program.asked == [None, {"xla_gpu_enable_triton_gemm": False}][:asked]


def test_a_program_that_is_too_large_is_not_compiled_twice(monkeypatch):
    program = Refusing("RESOURCE_EXHAUSTED: 80 GiB of 24")
    monkeypatch.setattr(compiled.stages, "programs", lambda: {"sft": lambda *_: program})
    topology = find("cpu:8")._replace(platform="cuda")
    found = compiled.compile_program("sft", CONFIG, MODEL, 320, topology)
    assert not found.fits and found.reason == "RESOURCE_EXHAUSTED: 80 GiB of 24" and len(program.asked) == 1

"""One update of each stage gives the numbers of a single device on every shape of mesh, and wastes nothing.

Losses, metrics and parameters to rounding, sampled tokens and the order of the rows exactly. The updates
are those of gradient descent: AdamW would hide a gradient that is too large by a factor. The compiler
writes to stderr where a layout makes it collect an array on every device to split it anew.

Shapes that add little, with every stage, take minutes: python -m pytest -m slow tests/whole/test_sharding.py
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from jax.sharding import PartitionSpec as P
from tiny import EOS, PAD, VOCABULARY

from rlhf_jax.config import DpoConfig, LoraConfig, MeshConfig, OptimizerConfig, PpoConfig
from rlhf_jax.data.batches import right_pad
from rlhf_jax.mesh import make_mesh, to_devices
from rlhf_jax.model import generate, heads, likelihood, lora, params, transformer
from rlhf_jax.pipeline import dpo, ppo, reward, sft
from rlhf_jax.training.state import TrainState, make_optimizer

CONFIG = dataclasses.replace(tiny.GPT2, layer_loop="scan", positions="rotary")
TRANSFORMER, SCALAR = transformer.specs(CONFIG, VOCABULARY), heads.specs(CONFIG, VOCABULARY)
RATE = 0.1
OPTIMIZER = optax.sgd(RATE)
ROWS, Q, R = 32, 6, 4  # 8 devices × 2 minibatches × 2 microbatches
SUMS = tiny.additions(CONFIG, Q + R, ROWS)  # behind a gradient; behind a metric there are fewer
PPO = PpoConfig(batch_size=ROWS, epochs=1, minibatches=2, microbatches=2)
GRPO = dataclasses.replace(PPO, algorithm="grpo", samples=2, kl_in="loss", kl_estimator="k3")
ONLINE_DPO = dataclasses.replace(PPO, algorithm="online_dpo", samples=2)
ADAPTED = dataclasses.replace(CONFIG, lora=LoraConfig(rank=3, alpha=1.0))
SAVING = dataclasses.replace(CONFIG, dtype="bfloat16", rematerialize=True)
WASTE = "Involuntary full rematerialization"
MESHES = [(1, 8, 1), (1, 1, 8), (2, 2, 2), (1, 4, 2), (1, 1, 1)]


def shaped(stage, shape):
    """On each commit supervised fine-tuning goes through all shapes, the others through the first three."""
    every = stage == "sft" or shape in MESHES[:3]
    return pytest.param(stage, shape, marks=() if every else pytest.mark.slow, id=f"{stage}-{named(shape)}")


def named(shape):
    return "x".join(map(str, shape))


def placed(specs, mesh, seed):
    """Parameters in the layout that `specs` declare."""
    weights = tiny.parameters(specs, seed)
    return weights if mesh is None else tiny.placed(weights, specs, mesh)


def rows(batch, mesh):
    return batch if mesh is None else to_devices(batch, mesh)


def responses(seed):
    """Responses of 1 to R tokens, EOS last."""
    words = tiny.random_tokens(ROWS, R, seed)
    return right_pad([[*row[: i % R], EOS] for i, row in enumerate(words)], R, PAD)


def sft_update(mesh, model=CONFIG):
    tokens = np.concatenate([tiny.random_queries(ROWS, Q), responses(1)], axis=1)
    targets = (tokens != PAD) & (np.arange(Q + R) >= Q)
    batch = {"tokens": tokens, "segments": (tokens != PAD).astype(np.int32)}
    batch |= {"targets_mask": targets.astype(np.float32)}
    step = jax.jit(functools.partial(sft.step, model=model, targets=R, microbatches=2))
    state, metrics = step(TrainState.create(placed(TRANSFORMER, mesh, 0), OPTIMIZER), rows(batch, mesh))
    return state.params, metrics


def reward_update(mesh, model=CONFIG):
    batch = {"query": tiny.random_queries(ROWS, Q), "chosen": responses(1), "rejected": responses(2)}
    step = jax.jit(functools.partial(reward.step, model=model, pad_id=PAD, microbatches=2))
    state, metrics = step(TrainState.create(placed(SCALAR, mesh, 0), OPTIMIZER), rows(batch, mesh))
    return state.params, metrics


def dpo_update(mesh, model=CONFIG):
    batch = {"query": tiny.random_queries(ROWS, Q), "chosen": responses(1), "rejected": responses(2)}
    batch["ref_logp"] = np.random.default_rng(3).uniform(-9, -3, (ROWS, 2)).astype(np.float32)
    options = DpoConfig(microbatches=2)
    step = jax.jit(functools.partial(dpo.step, model=model, options=options, pad_id=PAD))
    state, metrics = step(TrainState.create(placed(TRANSFORMER, mesh, 0), OPTIMIZER), rows(batch, mesh))
    return state.params, metrics


def ppo_iteration(mesh, model=CONFIG, options=PPO):
    """New parameters of policy and value network, and the metrics with the rollout among them."""
    measure = ppo.objective
    policy, scalar = (lora.trained(specs, model.lora) for specs in (TRANSFORMER, SCALAR))
    base = placed(TRANSFORMER, mesh, 3) if model.lora.rank else {}
    reference, reward_model = placed(policy, mesh, 0), placed(scalar, mesh, 1)
    value = reward_model if options.has_value_network else None
    state = ppo.initial_state(reference, value, OPTIMIZER, options, seed=0)
    query = rows(tiny.random_queries(options.prompts, Q), mesh)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            ppo,
            "objective",
            lambda episodes, setting: measure(episodes, setting) | {"rollout": episodes},
        )
        step = jax.jit(functools.partial(ppo.iteration, setting=ppo.Setting(model, options, R, (EOS,), PAD)))
        state, metrics = step(state, placed(policy, mesh, 2), reward_model, query, base=base)
    return {name: network.params for name, network in state.networks.items()}, metrics


UPDATES = {"sft": sft_update, "reward": reward_update, "dpo": dpo_update, "ppo": ppo_iteration}


@pytest.fixture(scope="module")
def one_device():
    """By stage: parameters after one update without any mesh, and metrics."""
    return {stage: jax.device_get(update(None)) for stage, update in UPDATES.items()}


def assert_those_of_one_device(found, expected):
    weights, metrics = found
    expected_weights, expected_metrics = expected
    norms = [value for name, value in expected_metrics.items() if name.endswith("grad_norm")]
    tiny.assert_close(weights, expected_weights, SUMS, scale=RATE * max(norms))
    scale = 1.0
    if "rollout" in metrics:
        ours, theirs = (each["rollout"] for each in (metrics, expected_metrics))
        for field in ("query", "response", "mask"):
            np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field))
        scale = tiny.largest(theirs.logp[theirs.mask])  # whose error is that of its ratio, an exponential
    tiny.assert_close(metrics, expected_metrics, SUMS, scale)


@pytest.mark.parametrize(("stage", "shape"), [shaped(stage, shape) for stage in UPDATES for shape in MESHES])
def test_update_equals_that_of_one_device(one_device, capfd, stage, shape):
    mesh = make_mesh(MeshConfig(*shape))
    with jax.set_mesh(mesh):
        found = UPDATES[stage](mesh)
    assert WASTE not in capfd.readouterr().err
    assert_those_of_one_device(found, one_device[stage])


@pytest.mark.parametrize("options", [GRPO, ONLINE_DPO], ids=lambda options: options.algorithm)
def test_an_iteration_without_a_value_network_equals_that_of_one_device(capfd, options):
    """Two responses to a prompt, on one device together; the KL penalty in the loss."""
    expected = jax.device_get(ppo_iteration(None, options=options))
    mesh = make_mesh(MeshConfig(2, 2, 2))
    with jax.set_mesh(mesh):
        found = ppo_iteration(mesh, options=options)
    assert WASTE not in capfd.readouterr().err
    assert found[0].keys() == {"policy"}
    assert_those_of_one_device(found, expected)


@pytest.mark.parametrize("shape", [(2, 2, 2), pytest.param((1, 1, 8), marks=pytest.mark.slow)], ids=named)
def test_an_iteration_of_adapters_equals_that_of_one_device(capfd, shape):
    """Four networks beside one base, whose rank of 3 no axis splits."""
    expected = jax.device_get(ppo_iteration(None, ADAPTED))
    mesh = make_mesh(MeshConfig(*shape))
    with jax.set_mesh(mesh):
        found = ppo_iteration(mesh, ADAPTED)
    assert WASTE not in capfd.readouterr().err
    assert_those_of_one_device(found, expected)


@pytest.mark.parametrize("stage", UPDATES)
def test_means_of_saving_memory_fit_the_layouts(monkeypatch, one_device, capfd, stage):
    """bfloat16 beside float32 parameters, layers computed again, logits for two positions at a time."""
    monkeypatch.setattr(likelihood, "positions_at_once", lambda rows, vocabulary: 2)
    mesh = make_mesh(MeshConfig(2, 2, 2))
    with jax.set_mesh(mesh):
        weights, metrics = UPDATES[stage](mesh, SAVING)
    assert WASTE not in capfd.readouterr().err
    for name in {"loss", "objective/kl", "policy/entropy", "value/loss"} & metrics.keys():
        np.testing.assert_allclose(metrics[name], one_device[stage][1][name], rtol=0.05, err_msg=name)
    assert {x.dtype for x in jax.tree.leaves(weights)} == {jnp.dtype(jnp.float32)}


def test_a_layout_that_wastes_is_seen(capfd):
    """Columns that become rows on more devices: no compiler has moved parts alone for that so far.

    Were the message gone or worded anew, the tests above would guard nothing, and this one fails.
    """
    mesh = make_mesh(MeshConfig(2, 2, 2))
    with jax.set_mesh(mesh):
        columns = jax.device_put(np.ones((48, 32)), jax.NamedSharding(mesh, P(None, "fsdp")))
        to_rows = jax.jit(lambda x: jax.reshard(2 * x, P(("replica", "fsdp"))))
        to_rows.lower(columns).compile()
    assert WASTE in capfd.readouterr().err


PERIOD = dataclasses.replace(
    tiny.LLAMA,
    layers=5,  # two periods and a layer
    layer_pattern=("local", "nope"),
    window=3,
    qk_norm="all_heads",  # means over heads that the mesh has split
    norm_place="both",
    attention_cap=2.0,
    layer_loop="scan",
)


@pytest.mark.parametrize("pattern", [("local",), ("local", "nope")], ids=["window", "period"])
def test_layers_of_several_kinds_are_split_as_others_are(capfd, pattern):
    """What is written greedily, what it scores, and the gradient of that."""
    model = dataclasses.replace(PERIOD, layer_pattern=pattern)
    specs = heads.specs(model, VOCABULARY)

    def computed(mesh):
        weights = placed(specs, mesh, 0)
        query = rows(tiny.random_queries(ROWS, Q), mesh)

        @jax.jit
        def run(weights, query):
            policy = weights["transformer"] | {"head": weights["transformer"]["embed"]["tokens"].T}
            options = dict(response_tokens=R, eos_ids=(EOS,), pad_id=PAD, temperature=0.0)
            response = generate.generate(policy, model, query, jax.random.key(0), **options)

            def total(weights):
                return jnp.sum(jnp.sin(heads.score(weights, model, query, response, PAD)))

            return response, jax.value_and_grad(total)(weights)

        return jax.device_get(run(weights, query))

    expected = computed(None)
    mesh = make_mesh(MeshConfig(2, 2, 2))
    with jax.set_mesh(mesh):
        ours = computed(mesh)
    assert WASTE not in capfd.readouterr().err
    np.testing.assert_array_equal(ours[0], expected[0])
    sums = tiny.additions(model, Q + R, ROWS)
    tiny.assert_close(ours[1], expected[1], sums, scale=tiny.largest(expected[1][1]))


@pytest.mark.parametrize("shape", MESHES[:4], ids=named)
def test_parameters_and_moments_are_split_as_declared(shape):
    mesh = make_mesh(MeshConfig(*shape))
    with jax.set_mesh(mesh):
        create = jax.jit(functools.partial(TrainState.create, tx=make_optimizer(OptimizerConfig(), 100)))
        state = create(placed(TRANSFORMER, mesh, 0))
    moments = state.opt_state[0]
    for tree in (state.params, moments.mu, moments.nu):
        for x, like in zip(
            jax.tree.leaves(tree), jax.tree.leaves(params.abstract(TRANSFORMER, mesh)), strict=True
        ):
            assert x.sharding.is_equivalent_to(like.sharding, x.ndim)
    share = state.params["layers"]["mlp"]["up"].addressable_shards[0].data.size
    assert share * mesh.shape["fsdp"] * mesh.shape["tensor"] == state.params["layers"]["mlp"]["up"].size

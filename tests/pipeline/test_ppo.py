import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny import EOS, PAD, VOCABULARY

from rlhf_jax.config import Config, DataConfig, MeshConfig, OptimizerConfig, PpoConfig
from rlhf_jax.mesh import make_mesh
from rlhf_jax.model import heads, transformer
from rlhf_jax.pipeline import ppo
from rlhf_jax.training import adapters
from rlhf_jax.training.state import make_optimizer, without_values

CONFIG = dataclasses.replace(tiny.GPT2, layers=1)
B, Q, R = 32, 4, 3
SUMS = tiny.additions(CONFIG, Q + R) + B * R  # behind a mean over the batch of what a network says
STEP = tiny.additions(CONFIG, Q + R, rows=B)  # behind a gradient
LIKED = 7  # the reward model below likes responses that end with this token
OPTIONS = PpoConfig(
    batch_size=B,
    epochs=2,
    minibatches=2,
    optimizer=OptimizerConfig(6e-3, "constant"),
    kl_controller="adaptive",
    kl_horizon=1000,
    temperature=1.0,
    no_eos="none",
)
SETTING = ppo.Setting(CONFIG, OPTIONS, R, (EOS,), PAD)
OPTIMIZER = make_optimizer(OPTIONS.optimizer, 1000)


@pytest.fixture(scope="module")
def reference():
    return jax.tree.map(lambda x: 0.2 * x, tiny.parameters(transformer.specs(CONFIG, VOCABULARY)))


@pytest.fixture(scope="module")
def reward_model():
    """Layers that pass the embedding on unchanged: +1 for the liked token, −1 for every other."""
    weights = jax.tree.map(jnp.zeros_like, tiny.parameters(heads.specs(CONFIG, VOCABULARY), seed=1))
    direction = jnp.asarray(np.resize([1.0, -1.0], CONFIG.width))
    liking = jnp.where(jnp.arange(VOCABULARY) == LIKED, 1.0, -1.0)
    weights["transformer"]["embed"]["tokens"] = liking[:, None] * direction
    weights["transformer"]["norm"]["scale"] = jnp.ones(CONFIG.width)
    weights["head"]["weight"] = direction / CONFIG.width
    return weights


@pytest.fixture(scope="module")
def step():
    return jax.jit(functools.partial(ppo.iteration, setting=SETTING), donate_argnums=0)


@pytest.fixture(scope="module")
def run(step, reference, reward_model):
    """`run(kl_coef, queries)`: the states before and after the iterations, and the metrics of each."""

    def iterate(kl_coef, queries):
        options = dataclasses.replace(OPTIONS, kl_coef=kl_coef)
        state = ppo.initial_state(reference, reward_model, OPTIMIZER, options, seed=0)
        first, history = jax.device_get((state.policy.params, state.value.params)), []
        for query in queries:
            state, metrics = step(state, reference, reward_model, query)
            history.append(jax.device_get(metrics))
        return first, state, history

    return iterate


def queries(count, width=Q):
    return [tiny.random_queries(B, width, seed) for seed in range(count)]


@pytest.fixture(scope="module")
def free(run):
    """30 iterations without a KL penalty."""
    return run(1e-6, queries(30))


def test_policy_starts_as_reference_and_value_network_as_reward_model(free, reference, reward_model):
    tiny.assert_same(free[0], (reference, reward_model))
    metrics = free[2][0]
    assert metrics["objective/kl"] == 0 and metrics["objective/kl_stderr"] == 0
    assert metrics["objective/non_score_reward"] == 0


def test_frozen_networks_are_not_changed_by_training(free, reference, reward_model):
    """Nor taken by the donated state: the values are still there."""
    again = jax.tree.map(lambda x: 0.2 * x, tiny.parameters(transformer.specs(CONFIG, VOCABULARY)))
    tiny.assert_same(reference, again)
    assert reward_model["transformer"]["embed"]["tokens"][LIKED, 0] == 1
    assert not np.allclose(free[1].policy.params["embed"]["tokens"], reference["embed"]["tokens"])
    assert not np.allclose(free[1].value.params["head"]["weight"], reward_model["head"]["weight"])


def test_a_reward_is_learnt(free):
    """A response ends with the liked token once in 40 at first: the mean score is about −0.95."""
    scores = [metrics["objective/score"] for metrics in free[2]]
    assert scores[0] < -0.7
    assert np.mean(scores[-3:]) > 0.5


@pytest.mark.parametrize(
    "fields",
    [
        {"algorithm": "reinforce"},
        {"algorithm": "rloo", "samples": 4, "ratio": "sequence", "loss_mean": "rows"},
        {"algorithm": "grpo", "samples": 4},
        {"algorithm": "online_dpo", "samples": 4, "kl_coef": 0.1},
    ],
    ids=lambda fields: fields["algorithm"],
)
def test_a_reward_is_learnt_without_a_value_network(reference, reward_model, fields):
    """By comparing 32 responses, to as many prompts or to eight."""
    options = dataclasses.replace(OPTIONS, **{"kl_controller": "fixed", "kl_coef": 0.0} | fields)
    state = ppo.initial_state(reference, None, OPTIMIZER, options, seed=0)
    iterate = ppo.jitted_iteration(SETTING._replace(options=options))
    scores = []
    for seed in range(40):
        query = tiny.random_queries(options.prompts, Q, seed)
        state, metrics = iterate(state, reference, reward_model, query)
        scores.append(float(metrics["objective/score"]))
    assert state.networks.keys() == {"policy"}
    assert scores[0] < -0.6
    assert np.mean(scores[-3:]) > 0.5


def test_a_huge_penalty_keeps_the_policy_near_the_reference(run, free):
    _, _, history = run(1e3, queries(30))
    assert abs(np.mean([metrics["objective/kl"] for metrics in history[-3:]])) < 0.1
    assert np.mean([metrics["objective/kl"] for metrics in free[2][-3:]]) > 1
    assert history[-1]["objective/score"] < -0.7


def test_controller_moves_the_coefficient_by_its_formula(free):
    """β ← β (1 + clip(kl / target − 1, ±0.2) · episodes / horizon), with the KL just measured."""
    expected = 1e-6
    for metrics in free[2]:
        tiny.assert_close(metrics["kl_coef"], expected, 8 * len(free[2]))
        error = np.clip(metrics["objective/kl"] / OPTIONS.kl_target - 1, -0.2, 0.2)
        expected *= 1 + error * B / OPTIONS.kl_horizon
    tiny.assert_close(free[1].kl_coef, expected, 8 * len(free[2]))


def test_every_iteration_updates_once_a_minibatch_and_draws_a_new_key(free):
    _, state, history = free
    assert state.policy.step == state.value.step == len(history) * OPTIONS.epochs * OPTIONS.minibatches
    assert len({float(metrics["objective/entropy"]) for metrics in history}) == len(history)


def test_two_buckets_compile_twice(step, run):
    wider = Q + 3
    run(0.1, [query for pair in zip(queries(3), queries(3, wider), strict=True) for query in pair])
    assert step._cache_size() == 2


def test_frozen_networks_in_the_computation_s_type_change_no_bit(reference, reward_model):
    """Of what they say of responses, which is all that an iteration asks them."""
    model = dataclasses.replace(CONFIG, dtype="bfloat16")
    setting = SETTING._replace(model=model)
    state = ppo.initial_state(reference, reward_model, OPTIMIZER, OPTIONS, seed=0)
    sample = jax.jit(functools.partial(ppo.sample, setting=setting))
    wide = sample(state, reference, reward_model, tiny.random_queries(B, Q))
    cast = ppo.frozen(reference, reward_model, setting)
    assert {x.dtype.name for x in jax.tree.leaves((cast[0], cast[1]["transformer"]))} == {"bfloat16"}
    narrow = sample(state, *cast, tiny.random_queries(B, Q))
    assert narrow.ref_logp.std() > 0
    tiny.assert_same(narrow, wide)


def test_frozen_networks_that_wait_on_the_host_change_no_bit(step, reference, reward_model):
    setting = SETTING._replace(options=dataclasses.replace(OPTIONS, frozen_on_host=True))
    place = functools.partial(ppo.frozen, setting=setting)
    waiting = jax.jit(place)(reference, reward_model)
    assert {x.sharding.memory_kind for x in jax.tree.leaves(waiting) if x.ndim} == {"pinned_host"}
    mesh, specs = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1]), (transformer.specs, heads.specs)
    with jax.set_mesh(mesh):
        like = [adapters.abstract_trained(each(CONFIG, VOCABULARY), CONFIG, mesh) for each in specs]
        planned = without_values(place, *like)
    for one, other in zip(*map(jax.tree.leaves, (waiting, planned)), strict=True):
        assert jax.typeof(one).memory_space == jax.typeof(other).memory_space
    found = []
    for iterate, frozen in ((step, (reference, reward_model)), (ppo.jitted_iteration(setting), waiting)):
        state = ppo.initial_state(reference, reward_model, OPTIMIZER, OPTIONS, seed=0)
        found.append(iterate(state, *frozen, tiny.random_queries(B, Q)))
    tiny.assert_same(*jax.device_get(found))


@pytest.mark.parametrize("loop", ["scan", "unroll"])
@pytest.mark.parametrize(
    ("devices", "rows", "minibatches", "microbatches", "response"),
    [(1, 1, 1, 1, R), (1, 4, 2, 2, R), (1, 4, 2, 2, 24), (8, 32, 2, 2, 24)],
)
def test_a_part_of_one_episode_has_a_layout_on_a_mesh(
    loop, devices, rows, minibatches, microbatches, response
):
    """On every device; of 24 slots, half may be computed."""
    options = PpoConfig(batch_size=rows, minibatches=minibatches, microbatches=microbatches)
    data = DataConfig(query_tokens=Q, query_buckets=(Q,), response_tokens=response)
    model = dataclasses.replace(CONFIG, layer_loop=loop)
    with jax.set_mesh(make_mesh(MeshConfig(1, devices, 1), jax.devices()[:devices])):
        ppo.traced(Config(model=model, data=data, ppo=options), model, VOCABULARY)

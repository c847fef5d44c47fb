import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference
import optax
import pytest
import tiny
from tiny import EOS, PAD, VOCABULARY

from rlhf_jax.config import Config, DataConfig, MeshConfig, OptimizerConfig, PpoConfig
from rlhf_jax.mesh import make_mesh
from rlhf_jax.model import heads, transformer
from rlhf_jax.pipeline import ppo
from rlhf_jax.pipeline.rollout import Rollout
from rlhf_jax.training.state import make_optimizer

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


# On episodes made by hand: no sampling.


@pytest.fixture(scope="module")
def episodes():
    """Responses of all lengths; old log-probabilities and values, some far enough off to be clipped."""
    rng = np.random.default_rng(0)
    response = tiny.random_tokens(B, R, seed=1)
    response[np.arange(B - 8), np.arange(B - 8) % R] = EOS
    mask = numpy_reference.response_mask(response, EOS, PAD)
    response = np.where(mask, response, PAD).astype(np.int32)
    slots = numpy_reference.value_mask(mask, "after_eos")
    floats = rng.standard_normal((6, B, R)).astype(np.float32)
    return Rollout(
        query=tiny.random_queries(B, Q),
        response=response,
        mask=mask,
        value_mask=slots,
        logp=-3.7 + 0.3 * floats[0],
        ref_logp=-3.7 + 0.3 * floats[1],
        values=floats[2],
        score=floats[3, :, 0],
        rewards=np.where(slots, floats[4], 0),
        advantages=np.where(mask, floats[5], 0),
        returns=np.where(slots, floats[2] + floats[4], 0),
    )


def test_objective_is_what_the_rollout_says(episodes):
    ours = jax.device_get(ppo.objective(jax.tree.map(jnp.asarray, episodes), SETTING))
    mask = episodes.mask
    kl = [sum((row.logp - row.ref_logp)[row.mask]) for row in rows_of(episodes)]
    reward = episodes.rewards.sum(axis=1)
    expected = {
        "objective/kl": np.mean(kl),
        "objective/kl_stderr": np.std(kl) / B**0.5,
        "objective/entropy": -np.mean([sum(row.logp[row.mask]) for row in rows_of(episodes)]),
        "objective/score": np.mean(episodes.score),
        "objective/non_score_reward": np.mean(reward - episodes.score),
        "objective/rlhf_reward": np.mean(reward),
        "objective/eos_rate": (B - 8) / B,
        "objective/length": mask.sum() / B,
        "value/explained_variance": 1
        - np.var((episodes.returns - episodes.values)[episodes.value_mask])
        / np.var(episodes.returns[episodes.value_mask]),
    }
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        tiny.assert_close({name: ours[name]}, {name: value}, B * R, scale=R * tiny.largest(episodes.logp))


def rows_of(episodes):
    return [jax.tree.map(lambda x, b=b: x[b], episodes) for b in range(B)]


@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_loss_is_clipped_policy_plus_clipped_value_loss(reference, episodes, temperature):
    """Log-probabilities enter at the temperature: NumPy divides the logits by it."""
    options = dataclasses.replace(OPTIONS, temperature=temperature, value_coef=0.3)
    setting = SETTING._replace(options=options)
    value = tiny.parameters(heads.specs(CONFIG, VOCABULARY), seed=2)
    networks = {"policy": reference, "value": value}
    tokens, slots = episodes.mask.sum(), episodes.value_mask.sum()
    total, metrics = jax.jit(lambda n, e: ppo.loss(n, e, tokens, slots, setting))(networks, episodes)

    @jax.jit
    def views(networks, query, response):
        scalars = heads.scalars(networks["value"], CONFIG, query, response, PAD)
        tokens = jnp.concatenate([query, response[:, :-1]], axis=1)
        segments = transformer.valid_segments(tokens, PAD)
        hidden = transformer.apply(networks["policy"], CONFIG, tokens, segments, query.shape[1] - 1)
        return transformer.logits(networks["policy"], CONFIG, hidden), scalars

    logits, scalars = jax.device_get(views(networks, episodes.query, episodes.response))
    ids = np.where(episodes.mask, episodes.response, 0)
    logp = numpy_reference.token_logprobs(logits, ids, temperature)
    names = ("loss", "clipfrac", "approxkl", "ratio", "ratio_var")
    policy = numpy_reference.policy_loss(logp, episodes.logp, episodes.advantages, episodes.mask, 0.2)
    scale = tiny.largest(logits) / temperature  # of a log-probability: an error of it is that of a ratio
    for name, expected in zip(names, policy, strict=True):
        tiny.assert_close({name: metrics[f"policy/{name}"]}, {name: expected}, SUMS, scale)
    value = numpy_reference.value_loss(
        scalars[:, :-1], episodes.values, episodes.returns, episodes.value_mask, 0.2
    )
    squares = tiny.largest(scalars) ** 2
    tiny.assert_close([metrics["value/loss"], metrics["value/clipfrac"]], [*value], SUMS, squares)
    tiny.assert_close(total, policy[0] + 0.3 * value[0], SUMS, scale + 0.3 * squares)
    entropy = numpy_reference.entropy(logits, temperature)[episodes.mask].mean()
    tiny.assert_close(metrics["policy/entropy"], entropy, SUMS, scale)
    assert 0 < policy[1] < 1 and 0 < value[1] < 1  # some are clipped


def test_an_epoch_in_microbatches_is_one_step_down_the_gradient_of_the_loss(
    reference, reward_model, episodes
):
    """Of the whole minibatch, divided by its own number of tokens and of slots."""
    tokens, slots = episodes.mask.sum(), episodes.value_mask.sum()
    networks = {"policy": reference, "value": reward_model}
    gradient = jax.jit(jax.grad(lambda n: ppo.loss(n, episodes, tokens, slots, SETTING), has_aux=True))
    gradients, expected = gradient(networks)
    descended = jax.tree.map(lambda x, g: x - 0.1 * g, networks, gradients)

    options = dataclasses.replace(OPTIONS, epochs=1, minibatches=1, microbatches=4)
    state = ppo.initial_state(reference, reward_model, optax.sgd(0.1), options, seed=0)
    update = jax.jit(functools.partial(ppo.update, setting=SETTING._replace(options=options)))
    (policy, value), metrics = update((state.policy, state.value), episodes, jax.random.key(0))
    scale = tiny.largest(episodes.logp)  # what metrics are differences and means of is at most as large
    tiny.assert_close({name: metrics[name] for name in expected}, expected, SUMS, scale)
    norms = [optax.tree.norm(gradients[name]) for name in ("policy", "value")]
    tiny.assert_close([metrics["policy/grad_norm"], metrics["value/grad_norm"]], norms, STEP)
    scale = 0.1 * tiny.largest(gradients)
    tiny.assert_close({"policy": policy.params, "value": value.params}, descended, STEP, scale)


def test_a_mean_of_row_means_is_that_of_minibatches_of_one_row(reference, reward_model, episodes):
    """As N+ computes it: its losses are means over the tokens of microbatches of one row."""
    networks = {"policy": reference, "value": reward_model}

    @jax.jit
    def of_one(row):
        row = jax.tree.map(lambda x: x[None], row)
        return ppo.loss(networks, row, row.mask.sum(), row.value_mask.sum(), SETTING)

    each = jax.device_get([of_one(row) for row in rows_of(episodes)])
    expected = {name: np.mean([metrics[name] for _, metrics in each]) for name in each[0][1]}
    for microbatches in (1, 4):
        options = dataclasses.replace(
            OPTIONS, epochs=1, minibatches=1, microbatches=microbatches, loss_mean="rows"
        )
        state = ppo.initial_state(reference, reward_model, optax.sgd(0.1), options, seed=0)
        update = jax.jit(functools.partial(ppo.update, setting=SETTING._replace(options=options)))
        _, metrics = update((state.policy, state.value), episodes, jax.random.key(0))
        scale = tiny.largest(episodes.logp)
        tiny.assert_close({name: metrics[name] for name in expected}, expected, SUMS, scale)
    tokens, slots = episodes.mask.sum(), episodes.value_mask.sum()
    _, ours = jax.jit(lambda: ppo.loss(networks, episodes, tokens, slots, SETTING))()
    assert abs(float(ours["policy/loss"]) - expected["policy/loss"]) > 1e-3  # lengths differ, so the means do


def test_frozen_networks_in_the_computation_s_type_change_no_bit(reference, reward_model):
    model = dataclasses.replace(CONFIG, dtype="bfloat16")
    setting = SETTING._replace(model=model)
    state = ppo.initial_state(reference, reward_model, OPTIMIZER, OPTIONS, seed=0)
    step = jax.jit(functools.partial(ppo.iteration, setting=setting))
    wide = step(state, reference, reward_model, tiny.random_queries(B, Q))
    cast = ppo.frozen(reference, reward_model, model)
    assert {x.dtype.name for x in jax.tree.leaves((cast[0], cast[1]["transformer"]))} == {"bfloat16"}
    narrow = step(state, *cast, tiny.random_queries(B, Q))
    for ours, theirs in zip(*map(jax.tree.leaves, jax.device_get((wide[1], narrow[1]))), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_minibatch_that_would_harm_one_network_is_skipped_by_both(reference, reward_model, episodes):
    """A return that is not finite enters the loss of the value network alone, in one of two minibatches."""
    options = dataclasses.replace(OPTIONS, epochs=1, minibatches=2)
    state = ppo.initial_state(reference, reward_model, optax.sgd(0.1), options, seed=0)
    update = jax.jit(functools.partial(ppo.update, setting=SETTING._replace(options=options)))
    returns = episodes.returns.copy()
    returns[3, 0] = np.inf
    networks = state.policy, state.value
    networks, metrics = update(networks, episodes.replace(returns=returns), jax.random.key(0))
    assert [int(network.step) for network in networks] == [1, 1]
    assert metrics["skipped"] == 1 and np.isfinite(metrics["policy/loss"])
    assert not np.isfinite(metrics["value/grad_norm"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves([n.params for n in networks]))
    assert not np.array_equal(networks[0].params["embed"]["tokens"], reference["embed"]["tokens"])


@pytest.mark.parametrize("loop", ["scan", "unroll"])
@pytest.mark.parametrize(("rows", "minibatches", "microbatches"), [(1, 1, 1), (4, 2, 2)])
def test_a_part_of_one_episode_has_a_layout_on_a_mesh(loop, rows, minibatches, microbatches):
    options = PpoConfig(batch_size=rows, minibatches=minibatches, microbatches=microbatches)
    data = DataConfig(query_tokens=Q, query_buckets=(Q,), response_tokens=R)
    model = dataclasses.replace(CONFIG, layer_loop=loop)
    with jax.set_mesh(make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])):
        ppo.traced(Config(model=model, data=data, ppo=options), model, VOCABULARY)


def test_shuffled_rows_stay_whole(episodes):
    shuffled = jax.device_get(ppo.shuffle_rows(jax.tree.map(jnp.asarray, episodes), jax.random.key(0)))
    order = [int(np.flatnonzero(episodes.score == score)[0]) for score in shuffled.score]
    assert sorted(order) == list(range(B)) and order != list(range(B))
    tiny.assert_same(shuffled, jax.tree.map(lambda x: x[np.array(order)], episodes))

"""Losses and optimizer steps on episodes made by hand: no sampling."""

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

from rlhf_jax.config import DpoConfig, MeshConfig, PpoConfig
from rlhf_jax.mesh import make_mesh, to_devices
from rlhf_jax.model import heads, transformer
from rlhf_jax.pipeline import dpo, ppo
from rlhf_jax.pipeline import update as updates
from rlhf_jax.pipeline.rollout import Rollout, Setting

CONFIG = dataclasses.replace(tiny.GPT2, layers=1)
B, Q, R = 32, 4, 3
SUMS = tiny.additions(CONFIG, Q + R) + B * R  # behind a mean over the batch of what a network says
STEP = tiny.additions(CONFIG, Q + R, rows=B)  # behind a gradient
OPTIONS = PpoConfig(batch_size=B, epochs=2, minibatches=2, temperature=1.0)
SETTING = Setting(CONFIG, OPTIONS, R, (EOS,), PAD)


@pytest.fixture(scope="module")
def reference():
    return jax.tree.map(lambda x: 0.2 * x, tiny.parameters(transformer.specs(CONFIG, VOCABULARY)))


@pytest.fixture(scope="module")
def value():
    return tiny.parameters(heads.specs(CONFIG, VOCABULARY), seed=2)


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


def rows_of(episodes):
    return [jax.tree.map(lambda x, b=b: x[b], episodes) for b in range(B)]


@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_loss_is_clipped_policy_plus_clipped_value_loss(reference, value, episodes, temperature):
    """Log-probabilities enter at the temperature: NumPy divides the logits by it."""
    options = dataclasses.replace(OPTIONS, temperature=temperature, value_coef=0.3)
    setting = SETTING._replace(options=options)
    networks = {"policy": reference, "value": value}
    tokens, slots = episodes.mask.sum(), episodes.value_mask.sum()
    total, metrics = jax.jit(lambda n, e: updates.loss(n, e, tokens, slots, setting))(networks, episodes)

    @jax.jit
    def views(networks, query, response):
        values = heads.values(networks["value"], CONFIG, query, response, PAD)
        tokens = jnp.concatenate([query, response[:, :-1]], axis=1)
        segments = transformer.valid_segments(tokens, PAD)
        hidden = transformer.apply(networks["policy"], CONFIG, tokens, segments, query.shape[1] - 1)
        return transformer.logits(networks["policy"], CONFIG, hidden), values

    logits, values = jax.device_get(views(networks, episodes.query, episodes.response))
    ids = np.where(episodes.mask, episodes.response, 0)
    logp = numpy_reference.token_logprobs(logits, ids, temperature)
    names = ("loss", "clipfrac", "approxkl", "ratio", "ratio_var")
    policy = numpy_reference.policy_loss(logp, episodes.logp, episodes.advantages, episodes.mask, 0.2)
    scale = tiny.largest(logits) / temperature  # of a log-probability: an error of it is that of a ratio
    for name, expected in zip(names, policy, strict=True):
        tiny.assert_close({name: metrics[f"policy/{name}"]}, {name: expected}, SUMS, scale)
    value = numpy_reference.value_loss(values, episodes.values, episodes.returns, episodes.value_mask, 0.2)
    squares = tiny.largest(values) ** 2
    tiny.assert_close([metrics["value/loss"], metrics["value/clipfrac"]], [*value], SUMS, squares)
    tiny.assert_close(total, policy[0] + 0.3 * value[0], SUMS, scale + 0.3 * squares)
    entropy = numpy_reference.entropy(logits, temperature)[episodes.mask].mean()
    tiny.assert_close(metrics["policy/entropy"], entropy, SUMS, scale)
    assert 0 < policy[1] < 1 and 0 < value[1] < 1  # some are clipped


def test_an_epoch_in_microbatches_is_one_step_down_the_gradient_of_the_loss(reference, value, episodes):
    """Of the whole minibatch, divided by its own number of tokens and of slots."""
    tokens, slots = episodes.mask.sum(), episodes.value_mask.sum()
    networks = {"policy": reference, "value": value}
    gradient = jax.jit(jax.grad(lambda n: updates.loss(n, episodes, tokens, slots, SETTING), has_aux=True))
    gradients, expected = gradient(networks)
    descended = jax.tree.map(lambda x, g: x - 0.1 * g, *jax.device_get((networks, gradients)))

    options = dataclasses.replace(OPTIONS, epochs=1, minibatches=1, microbatches=4)
    state = ppo.initial_state(reference, value, optax.sgd(0.1), options, seed=0)
    update = jax.jit(functools.partial(updates.update, setting=SETTING._replace(options=options)))
    learned, metrics = update(state.networks, episodes, jax.random.key(0))
    scale = tiny.largest(episodes.logp)  # what metrics are differences and means of is at most as large
    tiny.assert_close({name: metrics[name] for name in expected}, expected, SUMS, scale)
    norms = [jax.jit(optax.tree.norm)(gradients[name]) for name in ("policy", "value")]
    tiny.assert_close([metrics["policy/grad_norm"], metrics["value/grad_norm"]], norms, STEP)
    scale = 0.1 * tiny.largest(gradients)
    tiny.assert_close({name: learned[name].params for name in learned}, descended, STEP, scale)


def test_a_mean_of_row_means_is_that_of_minibatches_of_one_row(reference, value, episodes):
    """As N+ computes it: its losses are means over the tokens of microbatches of one row."""
    networks = {"policy": reference, "value": value}

    @jax.jit
    def of_one(row):
        row = jax.tree.map(lambda x: x[None], row)
        return updates.loss(networks, row, row.mask.sum(), row.value_mask.sum(), SETTING)

    each = jax.device_get([of_one(row) for row in rows_of(episodes)])
    expected = {name: np.mean([metrics[name] for _, metrics in each]) for name in each[0][1]}
    for microbatches in (1, 4):
        options = dataclasses.replace(
            OPTIONS, epochs=1, minibatches=1, microbatches=microbatches, loss_mean="rows"
        )
        state = ppo.initial_state(reference, value, optax.sgd(0.1), options, seed=0)
        update = jax.jit(functools.partial(updates.update, setting=SETTING._replace(options=options)))
        _, metrics = update(state.networks, episodes, jax.random.key(0))
        scale = tiny.largest(episodes.logp)
        tiny.assert_close({name: metrics[name] for name in expected}, expected, SUMS, scale)
    tokens, slots = episodes.mask.sum(), episodes.value_mask.sum()
    _, ours = jax.jit(lambda: updates.loss(networks, episodes, tokens, slots, SETTING))()
    assert abs(float(ours["policy/loss"]) - expected["policy/loss"]) > 1e-3  # lengths differ, so the means do


def test_a_minibatch_that_would_harm_one_network_is_skipped_by_all(reference, value, episodes):
    """A return that is not finite enters the loss of the value network alone, in one of two minibatches."""
    options = dataclasses.replace(OPTIONS, epochs=1, minibatches=2)
    state = ppo.initial_state(reference, value, optax.sgd(0.1), options, seed=0)
    update = jax.jit(functools.partial(updates.update, setting=SETTING._replace(options=options)))
    returns = episodes.returns.copy()
    returns[3, 0] = np.inf
    networks, metrics = update(state.networks, episodes.replace(returns=returns), jax.random.key(0))
    assert {name: int(network.step) for name, network in networks.items()} == {"policy": 1, "value": 1}
    assert metrics["skipped"] == 1 and np.isfinite(metrics["policy/loss"])
    assert not np.isfinite(metrics["value/grad_norm"])
    learned = {name: network.params for name, network in networks.items()}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(learned))
    assert not np.array_equal(learned["policy"]["embed"]["tokens"], reference["embed"]["tokens"])


# Without a value network: one advantage a response.


@pytest.fixture(scope="module")
def whole(episodes):
    """Whole responses, as RLOO, GRPO and REINFORCE compare them."""
    advantages = np.random.default_rng(1).standard_normal((B, 1)).astype(np.float32)
    return episodes.replace(values=None, returns=None, advantages=advantages)


def without_value_network(**fields):
    known = {"algorithm": "rloo", "samples": 2, "epochs": 1, "minibatches": 1}
    return SETTING._replace(options=dataclasses.replace(OPTIONS, **(known | fields)))


def stepped(reference, episodes, setting):
    """The policy after one step down its gradient at a rate of 1, and the metrics."""
    state = ppo.initial_state(reference, None, optax.sgd(1.0), setting.options, seed=0)
    update = jax.jit(functools.partial(updates.update, setting=setting))
    networks, metrics = update(state.networks, episodes, jax.random.key(0))
    assert networks.keys() == {"policy"} and not any(name.startswith("value") for name in metrics)
    return networks["policy"].params, metrics


@pytest.fixture(scope="module")
def logprobs(episodes):
    """`logprobs(policy)` of the responses' tokens [B, R], 0 on padding."""

    @jax.jit
    def of(policy):
        tokens = jnp.concatenate([episodes.query, episodes.response[:, :-1]], axis=1)
        hidden = transformer.apply(policy, CONFIG, tokens, transformer.valid_segments(tokens, PAD), Q - 1)
        every = jax.nn.log_softmax(transformer.logits(policy, CONFIG, hidden))
        ids = np.where(episodes.mask, episodes.response, 0)
        return jnp.where(episodes.mask, jnp.take_along_axis(every, ids[..., None], axis=2)[..., 0], 0.0)

    return of


DIVISORS = {  # of the sum over a batch of Σ_t A ∇ log π(y_t), by ratio and loss_mean
    ("sequence", "rows"): lambda mask: B,
    ("gspo", "rows"): lambda mask: B * mask.sum(axis=1, keepdims=True),
    ("token", "rows"): lambda mask: B * mask.sum(axis=1, keepdims=True),
    ("token", "tokens"): lambda mask: mask.sum(),
    ("token", "constant"): lambda mask: B * R,
}


@pytest.mark.parametrize("microbatches", [1, 4])
@pytest.mark.parametrize(("ratio", "loss_mean"), DIVISORS)
def test_on_policy_the_gradient_is_that_of_reinforce(
    reference, whole, logprobs, ratio, loss_mean, microbatches
):
    """−Σ_i A_i ∇ log π(y_i), and what the settings divide it by: `sequence` by the responses (RLOO)."""
    episodes = whole.replace(logp=np.asarray(logprobs(reference)))
    setting = without_value_network(ratio=ratio, loss_mean=loss_mean, microbatches=microbatches)
    ours, metrics = stepped(reference, episodes, setting)
    weights = episodes.advantages / DIVISORS[ratio, loss_mean](episodes.mask)
    reinforce = jax.jit(jax.grad(lambda policy: -jnp.sum(weights * logprobs(policy))))(reference)
    descended = jax.tree.map(lambda x, g: x - g, *jax.device_get((reference, reinforce)))
    tiny.assert_close(ours, descended, STEP, scale=tiny.largest(reinforce))
    tiny.assert_close(metrics["policy/ratio"], 1.0, SUMS, scale=tiny.largest(episodes.logp))


@pytest.mark.parametrize(("ratio", "power"), [("sequence", lambda n: 1.0), ("gspo", lambda n: 1 / n)])
def test_off_policy_a_response_has_one_ratio(reference, whole, logprobs, ratio, power):
    """ρ = π(y) / π_old(y), or its |y|-th root, is clipped as a whole; the loss is the mean over responses."""
    _, metrics = stepped(reference, whole, without_value_network(ratio=ratio, loss_mean="rows"))
    new = np.asarray(logprobs(reference), np.float64)
    rows, lengths = [], whole.mask.sum(axis=1)
    for b in range(B):
        change = sum((new[b] - whole.logp[b])[whole.mask[b]])
        rho, a = np.exp(change * power(lengths[b])), float(whole.advantages[b, 0])
        rows.append([max(-a * rho, -a * np.clip(rho, 0.8, 1.2)), rho, -a * np.clip(rho, 0.8, 1.2) > -a * rho])
    loss, mean, clipped = np.mean(rows, axis=0)
    scale = R * tiny.largest(whole.logp) * max(row[1] for row in rows)
    tiny.assert_close([metrics["policy/loss"], metrics["policy/ratio"]], [loss, mean], SUMS, scale)
    tiny.assert_close(metrics["policy/clipfrac"], clipped, SUMS, scale=1.0)
    assert 0 < clipped < 1


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_a_penalty_in_the_loss_adds_its_mean(reference, whole, logprobs, estimator):
    """β · the mean of the estimator over the tokens; what it pulls at is the policy of today."""
    plain, metrics = stepped(reference, whole, without_value_network())
    setting = without_value_network(kl_in="loss", kl_estimator=estimator, kl_coef=0.5)
    ours, penalized = stepped(reference, whole, setting)

    def mean(policy):
        change = logprobs(policy) - jnp.where(whole.mask, whole.ref_logp, 0.0)
        each = change**2 / 2 if estimator == "k2" else jnp.exp(-change) - 1 + change
        return jnp.sum(each) / whole.mask.sum()

    kl, pull = jax.jit(jax.value_and_grad(mean))(reference)
    scale = tiny.largest(whole.logp)
    tiny.assert_close(penalized["policy/kl"], kl, SUMS, scale)
    tiny.assert_close(penalized["policy/loss"], metrics["policy/loss"] + 0.5 * kl, SUMS, scale)
    pulled = jax.tree.map(lambda x, g: x - 0.5 * g, *jax.device_get((plain, pull)))
    tiny.assert_close(ours, pulled, STEP, scale=tiny.largest(reference))
    assert "policy/kl" not in metrics


def test_online_dpo_learns_from_its_pairs_as_stage_dpo_learns_from_people(reference, whole):
    """The best and the worst of four responses to each of eight prompts; one ties, and counts log 2."""
    options = dataclasses.replace(
        OPTIONS, algorithm="online_dpo", samples=4, kl_coef=0.3, epochs=1, minibatches=1, microbatches=2
    )
    marks = np.array([[0, 1, 0, -1], [1, -1, 0, 0]] * 4, np.float32)
    marks[5] = 0
    pairs = whole.replace(query=whole.query[::4], advantages=marks.reshape(-1, 1))
    state = ppo.initial_state(reference, None, optax.sgd(1.0), options, seed=0)
    update = jax.jit(functools.partial(updates.update, setting=SETTING._replace(options=options)))
    learned, metrics = update(state.networks, pairs, jax.random.key(0))

    kept = np.arange(8) != 5
    best, worst = (np.flatnonzero(marks == mark) for mark in (1, -1))
    said = np.sum(np.where(whole.mask, whole.ref_logp, 0), axis=1)
    batch = {"query": pairs.query[kept], "chosen": whole.response[best], "rejected": whole.response[worst]}
    batch["ref_logp"] = np.stack([said[best], said[worst]], axis=1)
    offline = DpoConfig(beta=0.3)
    (loss, _), gradient = jax.jit(
        jax.value_and_grad(lambda w: dpo.loss(w, CONFIG, offline, batch, PAD, 8), has_aux=True)
    )(reference)
    scale = tiny.largest(said)
    tiny.assert_close(metrics["policy/loss"], loss + np.log(2) / 8, SUMS, scale)
    expected = jax.tree.map(lambda x, g: x - g, *jax.device_get((reference, gradient)))
    tiny.assert_close(learned["policy"].params, expected, STEP, scale=tiny.largest(reference))
    assert tiny.largest(gradient) > 1e-2


# Several responses to a prompt: it is read once, forward and backward.


METHODS = {
    "ppo": {},
    "rloo": {"ratio": "sequence", "loss_mean": "rows"},
    "grpo": {"kl_in": "loss", "kl_estimator": "k3"},
    "reinforce": {"loss_mean": "constant"},
}


@pytest.mark.parametrize("algorithm", METHODS)
def test_a_prompt_read_once_gives_the_gradient_of_rows_that_each_read_it(
    reference, value, episodes, whole, algorithm
):
    """Four responses to each of eight prompts: in a row each, a prompt at a time, and on eight devices."""
    options = dataclasses.replace(OPTIONS, epochs=1, minibatches=1, algorithm=algorithm, **METHODS[algorithm])
    value = value if options.has_value_network else None
    prompts = episodes.query[::4]
    grouped = (episodes if options.has_value_network else whole).replace(query=prompts)

    def gradients(episodes, microbatches=1, mesh=None):
        setting = SETTING._replace(options=dataclasses.replace(options, microbatches=microbatches))
        state = ppo.initial_state(*placed(reference, value, mesh), optax.sgd(1.0), options, seed=0)
        update = jax.jit(functools.partial(updates.update, setting=setting))
        learned, metrics = update(state.networks, episodes, jax.random.key(0))
        before = {name: network.params for name, network in state.networks.items()}
        after = {name: network.params for name, network in learned.items()}
        return jax.tree.map(np.subtract, *jax.device_get((before, after))), jax.device_get(metrics)

    alone = gradients(grouped.replace(query=np.repeat(prompts, 4, axis=0)))
    together = [gradients(grouped, microbatches=8)]
    mesh = make_mesh(MeshConfig(2, 4, 1))
    with jax.set_mesh(mesh):
        together.append(gradients(to_devices(grouped, mesh), mesh=mesh))
    for found in together:
        for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(ours, theirs, 1e-5, 1e-5)
    assert all(tiny.largest(gradient) > 1e-2 for gradient in alone[0].values())


def placed(policy, value, mesh):
    """Both networks, of which the second may be None, in the layout that their specs declare."""
    if mesh is None:
        return policy, value
    specs = transformer.specs(CONFIG, VOCABULARY), heads.specs(CONFIG, VOCABULARY)
    both = zip((policy, value), specs, strict=True)
    return [each and tiny.placed(each, of, mesh) for each, of in both]


def test_empty_slots_behind_the_longest_response_change_nothing(reference, value, episodes):
    """Of 24 slots three are used: half of the limit is computed, on one device and on eight."""
    room = jax.tree.map(lambda x: np.pad(x, ((0, 0), (0, 24 - R))), episodes.replace(query=None, score=None))
    wide = room.replace(query=episodes.query, score=episodes.score)
    wide = wide.replace(response=np.where(wide.mask, wide.response, PAD))
    options = dataclasses.replace(OPTIONS, epochs=1, minibatches=1, microbatches=4)
    update = jax.jit(functools.partial(updates.update, setting=SETTING._replace(options=options)))

    def updated(given, mesh=None):
        state = ppo.initial_state(*placed(reference, value, mesh), optax.sgd(1.0), options, seed=0)
        networks, metrics = update(state.networks, given, jax.random.key(0))
        return jax.device_get(({name: network.params for name, network in networks.items()}, metrics))

    expected, alone = updated(episodes), updated(wide)
    mesh = make_mesh(MeshConfig(2, 4, 1))
    with jax.set_mesh(mesh):
        split = updated(to_devices(wide, mesh), mesh)
    for learned, metrics in (alone, split):
        tiny.assert_close(metrics, expected[1], SUMS, scale=tiny.largest(episodes.logp))
        tiny.assert_close(learned, expected[0], STEP, scale=tiny.largest(expected[0]))

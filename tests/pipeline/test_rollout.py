"""A rollout against NumPy: what each network says is computed again, one unpadded sequence at a time."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference
import pytest
import tiny
from tiny import EOS, PAD, VOCABULARY

from rlhf_jax.config import ConfigError, MeshConfig, PpoConfig
from rlhf_jax.mesh import make_mesh, to_devices
from rlhf_jax.model import heads, response_widths, transformer
from rlhf_jax.pipeline import rollout as rollouts
from rlhf_jax.pipeline import update
from rlhf_jax.pipeline.rollout import Rollout, Setting, rollout

CONFIG = dataclasses.replace(tiny.NEOX, layers=1)
B, Q, R = 16, 6, 5
SUMS = tiny.additions(CONFIG, Q + R)  # behind a log-probability, a value or a score
HAND = 16  # roundings of a formula of a few terms
STEPS = 4 * R + B * R + HAND  # of a recursion over the tokens, and of the variance of a batch
KL_COEF = 0.3
OPTIONS = PpoConfig(lam=0.9, gamma=0.98, no_eos_score=-3.0)


class Networks(NamedTuple):
    policy: dict
    reference: dict
    value: dict
    reward: dict


@pytest.fixture(scope="module")
def networks():
    """Four that differ. The first two like EOS, so that some responses end and some do not."""
    transformers = [tiny.parameters(transformer.specs(CONFIG, VOCABULARY), seed) for seed in (0, 1)]
    scalars = [tiny.parameters(heads.specs(CONFIG, VOCABULARY), seed) for seed in (2, 3)]
    for weights in transformers:
        weights["head"] = weights["head"].at[:, EOS].multiply(2.0)
    return Networks(*transformers, *scalars)


@functools.partial(jax.jit, static_argnames=("temperature", "score_at", "whiten_rewards"))
def roll(networks, temperature, score_at="eos", seed=0, whiten_rewards=False):
    """A rollout, and what PPO's loss says of it before any update."""
    options = dataclasses.replace(
        OPTIONS, temperature=temperature, score_at=score_at, whiten_rewards=whiten_rewards
    )
    query = jnp.asarray(tiny.random_queries(B, Q))
    setting = Setting(CONFIG, options, R, (EOS,), PAD)
    episodes = rollout(
        *networks,
        query,
        jax.random.key(seed),
        jnp.float32(KL_COEF),
        setting,
    )
    parameters = {"policy": networks.policy, "value": networks.value}
    tokens, slots = episodes.mask.sum(), episodes.value_mask.sum()
    return episodes, update.loss(parameters, episodes, tokens, slots, setting)[1]


@pytest.fixture(scope="module", params=[0.7, 2.0])
def temperature(request):
    return request.param


@pytest.fixture(scope="module")
def rolled(networks, temperature):
    return jax.device_get(roll(networks, temperature))


@pytest.fixture(scope="module")
def episodes(rolled) -> Rollout:
    return rolled[0]


hidden_states = jax.jit(transformer.apply, static_argnums=1)


def sequences(episodes):
    """(row, tokens of query and response, length of the query) without padding."""
    for b in range(B):
        query, response = episodes.query[b], episodes.response[b]
        query, response = query[query != PAD], response[response != PAD]
        yield b, np.concatenate([query, response]), len(query)


def hidden_of(weights, tokens):
    """[T, D]; right-padded to one shape, so that it compiles once."""
    padded = np.full((1, Q + R), PAD, np.int32)
    padded[0, : len(tokens)] = tokens
    segments = (padded != PAD).astype(np.int32)
    return np.asarray(hidden_states(weights, CONFIG, padded, segments), np.float64)[0, : len(tokens)]


def test_some_responses_end_and_some_do_not(episodes):
    ended = (episodes.response == EOS).any(axis=1)
    assert 2 < ended.sum() < B
    np.testing.assert_array_equal(episodes.mask, numpy_reference.response_mask(episodes.response, EOS, PAD))


def test_before_the_first_update_the_ratio_is_one(rolled):
    episodes, metrics = rolled
    squares = metrics["policy/ratio_var"] * episodes.mask.sum()  # their sum bounds the largest
    error = tiny.rounding(SUMS) * tiny.largest(episodes.logp[episodes.mask])  # of a log-probability
    assert np.sqrt(squares) < np.sqrt(episodes.mask.sum()) * error
    assert metrics["policy/approxkl"] < error**2
    assert metrics["policy/clipfrac"] == 0 and metrics["value/clipfrac"] == 0


@pytest.mark.parametrize(("name", "field"), [("policy", "logp"), ("reference", "ref_logp")])
def test_logprobs_are_at_the_rollout_temperature(networks, episodes, temperature, name, field):
    weights = getattr(networks, name)
    for b, tokens, start in sequences(episodes):
        logits = hidden_of(weights, tokens) @ np.asarray(weights["head"], np.float64)
        expected = numpy_reference.token_logprobs(logits[None, :-1], tokens[None, 1:], temperature)[0]
        ours = getattr(episodes, field)[b][episodes.mask[b]]
        tiny.assert_close(ours, expected[start - 1 :], SUMS, scale=tiny.largest(logits) / temperature)


def test_values_are_read_before_each_token_and_scores_at_eos(networks, episodes):
    scale = tiny.largest((episodes.values[episodes.value_mask], episodes.score))
    for b, tokens, start in sequences(episodes):
        values, scores = (
            hidden_of(weights["transformer"], tokens) @ weights["head"]["weight"] + weights["head"]["bias"]
            for weights in (networks.value, networks.reward)
        )
        tiny.assert_close(episodes.values[b][episodes.mask[b]], values[start - 1 : -1], SUMS, scale)
        expected = scores[-1] if tokens[-1] == EOS else OPTIONS.no_eos_score
        tiny.assert_close(episodes.score[b], expected, SUMS, scale)


def check_rewards_and_advantages(episodes, score_at):
    mask = numpy_reference.response_mask(episodes.response, EOS, PAD)
    slots = numpy_reference.value_mask(mask, score_at)
    rewards = numpy_reference.rewards(
        episodes.score, episodes.logp, episodes.ref_logp, mask, KL_COEF, score_at
    )
    scale = tiny.largest((rewards, episodes.logp[mask], episodes.ref_logp[mask]))
    tiny.assert_close(episodes.rewards, rewards, HAND, scale)
    advantages, returns = numpy_reference.gae(rewards, episodes.values, slots, OPTIONS.gamma, OPTIONS.lam)
    tiny.assert_close(np.where(slots, episodes.returns, 0), returns, STEPS, scale)
    tiny.assert_close(episodes.advantages, numpy_reference.whiten(advantages, mask), STEPS, scale)
    assert episodes.rewards.dtype == episodes.score.dtype == np.float32


def test_rewards_and_advantages_follow(episodes):
    check_rewards_and_advantages(episodes, "eos")


def test_after_eos_the_score_stands_one_slot_later(networks):
    episodes = jax.device_get(roll(networks, 1.0, "after_eos"))[0]
    assert (episodes.value_mask.sum(axis=1) > episodes.mask.sum(axis=1)).any()
    check_rewards_and_advantages(episodes, "after_eos")
    scale = tiny.largest(episodes.values[episodes.value_mask])
    for b, tokens, _ in sequences(episodes):  # the slot's value is read at EOS itself
        slot = episodes.mask[b].sum()
        if slot < R:
            last = hidden_of(networks.value["transformer"], tokens)[-1]
            expected = last @ networks.value["head"]["weight"] + networks.value["head"]["bias"]
            tiny.assert_close(episodes.values[b, slot], expected, SUMS, scale)


def test_whitened_rewards_are_learnt_from_and_the_rewards_themselves_told(networks):
    """Their scale is whitened and not their mean; the log tells −β KL and the score as they are."""
    episodes = jax.device_get(roll(networks, 1.0, whiten_rewards=True))[0]
    mask = numpy_reference.response_mask(episodes.response, EOS, PAD)
    rewards = numpy_reference.rewards(episodes.score, episodes.logp, episodes.ref_logp, mask, KL_COEF, "eos")
    scale = tiny.largest((rewards, episodes.logp[mask], episodes.ref_logp[mask]))
    tiny.assert_close(episodes.rewards, rewards, HAND, scale)
    whitened = numpy_reference.whiten(rewards, mask, shift_mean=False)
    _, returns = numpy_reference.gae(whitened, episodes.values, mask, OPTIONS.gamma, OPTIONS.lam)
    tiny.assert_close(np.where(mask, episodes.returns, 0), returns, STEPS, scale)


def placed(networks, mesh):
    """Four networks, of which one may be None, in the layout that their specs declare."""
    bodies, scalars = transformer.specs(CONFIG, VOCABULARY), heads.specs(CONFIG, VOCABULARY)
    each = zip(networks, 2 * [bodies] + 2 * [scalars], strict=True)
    return [network and tiny.placed(network, specs, mesh) for network, specs in each]


@pytest.mark.parametrize("shards", [1, 2])
def test_rows_sampled_apart_are_those_of_the_whole_batch(networks, shards):
    """The same tokens from the same noise, on one device and on two; all else to rounding."""
    mesh = make_mesh(MeshConfig(fsdp=shards), jax.devices()[:shards])

    def rolled(rows):
        setting = Setting(CONFIG, dataclasses.replace(OPTIONS, rollout_rows=rows), R, (EOS,), PAD)
        roll = jax.jit(functools.partial(rollout, setting=setting))
        query = to_devices(tiny.random_queries(B, Q), mesh)
        return jax.device_get(roll(*placed(networks, mesh), query, jax.random.key(3), jnp.float32(KL_COEF)))

    with jax.set_mesh(mesh):
        whole, apart = rolled(B), rolled(4)
    for name in ("query", "response", "mask", "value_mask"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(apart, name))
    for name in ("logp", "ref_logp", "values", "score", "rewards"):
        tiny.assert_close(getattr(apart, name), getattr(whole, name), SUMS)
    assert len({row.tobytes() for row in whole.response}) > B // 2  # they differ, so that order shows


def test_parts_of_a_rollout():
    def parts(rows, at_once=0):
        return rollouts.parts_of(PpoConfig(batch_size=rows, rollout_rows=at_once), rows)

    assert [parts(8), parts(64), parts(65), parts(96), parts(512)] == [1, 1, 1, 2, 8]  # 65 = 5 · 13
    assert [parts(512, 512), parts(512, 128)] == [1, 4]
    with jax.set_mesh(make_mesh(MeshConfig(fsdp=4), jax.devices()[:4])):
        assert [parts(256), parts(512), parts(512, 128)] == [1, 2, 4]
        with pytest.raises(ConfigError, match="ppo.rollout_rows: 2 do not divide over 4 row shards"):
            parts(512, 2)


def test_objective_is_what_the_rollout_says(episodes):
    setting = Setting(CONFIG, OPTIONS, R, (EOS,), PAD)
    ours = jax.device_get(rollouts.objective(jax.tree.map(jnp.asarray, episodes), setting))
    mask, slots = episodes.mask, episodes.value_mask
    kl = [sum((episodes.logp - episodes.ref_logp)[b][mask[b]]) for b in range(B)]
    reward = episodes.rewards.sum(axis=1)
    expected = {
        "objective/kl": np.mean(kl),
        "objective/kl_stderr": np.std(kl) / B**0.5,
        "objective/entropy": -np.mean([sum(episodes.logp[b][mask[b]]) for b in range(B)]),
        "objective/score": np.mean(episodes.score),
        "objective/non_score_reward": np.mean(reward - episodes.score),
        "objective/rlhf_reward": np.mean(reward),
        "objective/eos_rate": (episodes.response == EOS).any(axis=1).mean(),
        "objective/length": mask.sum() / B,
        "value/explained_variance": 1
        - np.var((episodes.returns - episodes.values)[slots]) / np.var(episodes.returns[slots]),
    }
    assert ours.keys() == expected.keys()
    scale = R * tiny.largest((episodes.logp, episodes.values[slots]))
    for name, value in expected.items():
        tiny.assert_close({name: ours[name]}, {name: value}, B * R, scale)


# Several responses to a prompt, compared with each other.


def rolled_by(networks, mesh=None, at_once=0, **fields):
    """A rollout of four responses to each of four prompts, without a value network."""
    options = dataclasses.replace(
        OPTIONS, algorithm="rloo", samples=4, rollout_rows=at_once, temperature=1.0, **fields
    )
    setting = Setting(CONFIG, options, R, (EOS,), PAD)
    query = tiny.random_queries(B // 4, Q)
    roll = jax.jit(functools.partial(rollout, setting=setting))
    given = networks.policy, networks.reference, None, networks.reward
    if mesh:
        given, query = placed(given, mesh), to_devices(query, mesh)
    return jax.device_get(roll(*given, query, jax.random.key(3), jnp.float32(KL_COEF)))


@pytest.fixture(scope="module")
def grouped(networks):
    return rolled_by(networks)


def test_responses_to_a_prompt_stand_together_and_differ(grouped):
    np.testing.assert_array_equal(grouped.query, tiny.random_queries(B // 4, Q))
    assert len({row.tobytes() for row in grouped.response}) > B // 2
    assert grouped.values is None and grouped.returns is None


def test_reading_a_prompt_once_gives_the_numbers_of_reading_it_for_each_response(networks, grouped):
    """What one row in a batch of equal queries would get: the same tokens, and scores to rounding."""
    setting = Setting(CONFIG, dataclasses.replace(OPTIONS, temperature=1.0), R, (EOS,), PAD)
    roll = jax.jit(functools.partial(rollouts.sample, setting=setting))
    query = np.repeat(grouped.query, 4, axis=0)
    alone = roll(networks.policy, networks.reference, None, networks.reward, query, jax.random.key(3))
    np.testing.assert_array_equal(grouped.response, alone.response)
    tiny.assert_close(grouped.logp, alone.logp, SUMS)
    ended = (grouped.response == EOS).any(axis=1)
    tiny.assert_close(grouped.score[ended], np.asarray(alone.score)[ended], SUMS)


def test_advantages_compare_the_rewards_of_whole_responses(networks, grouped):
    """Score less β KL, against the mean of the other three to the same prompt."""
    mask = numpy_reference.response_mask(grouped.response, EOS, PAD)
    rewards = numpy_reference.rewards(grouped.score, grouped.logp, grouped.ref_logp, mask, KL_COEF, "eos")
    whole, scale = rewards.sum(axis=1), R * tiny.largest((rewards, grouped.logp[mask]))
    tiny.assert_close(grouped.advantages[:, 0], numpy_reference.rloo(whole, 4), STEPS, scale)
    for algorithm, fields, expected in [
        ("grpo", {}, numpy_reference.grpo(whole, 4)),
        ("grpo", {"divide_by_std": False}, numpy_reference.grpo(whole, 4, divide_by_std=False)),
        ("reinforce", {}, numpy_reference.rloo(whole, B)),
    ]:
        options = dataclasses.replace(OPTIONS, algorithm=algorithm, samples=4, **fields)
        ours = rollouts.of_responses(jnp.asarray(whole, jnp.float32), options)
        tiny.assert_close(ours[:, 0], expected, STEPS, scale=np.abs(expected).max() + scale)


def test_a_penalty_in_the_loss_is_not_in_the_reward(networks):
    episodes = rolled_by(networks, kl_in="loss", kl_estimator="k3")
    tiny.assert_close(episodes.rewards.sum(axis=1), episodes.score, HAND)


@pytest.mark.parametrize("shards", [1, 2])
def test_groups_sampled_apart_are_those_of_the_whole_batch(networks, grouped, shards):
    """Two prompts at a time, on one device and on two."""
    mesh = make_mesh(MeshConfig(fsdp=shards), jax.devices()[:shards])
    with jax.set_mesh(mesh):
        apart = rolled_by(networks, mesh, at_once=8)
    for name in ("query", "response", "mask"):
        np.testing.assert_array_equal(getattr(grouped, name), getattr(apart, name))
    scale = R * tiny.largest((grouped.logp, grouped.score))
    for name in ("logp", "ref_logp", "score", "rewards", "advantages"):
        tiny.assert_close(getattr(apart, name), getattr(grouped, name), SUMS, scale)


def test_parts_hold_all_responses_to_a_prompt():
    def parts(rows, samples, at_once=0):
        return rollouts.parts_of(PpoConfig(samples=samples, rollout_rows=at_once), rows)

    assert [parts(512, 4), parts(512, 64), parts(512, 128)] == [8, 8, 1]  # 64 rows; one prompt; no few enough
    assert parts(96, 24) == 2  # two prompts each: three would be 72 rows, one 24
    with jax.set_mesh(make_mesh(MeshConfig(fsdp=4), jax.devices()[:4])):
        assert parts(512, 4, 128) == 4
        told = "ppo.rollout_rows: 8 do not divide over 4 row shards of 4 responses a prompt"
        with pytest.raises(ConfigError, match=told):
            parts(512, 4, 8)


def test_reading_to_the_longest_response_gives_the_numbers_of_reading_to_the_limit(networks, monkeypatch):
    """Of 32 slots 16 are read, in every part of the rows; tokens are the same, all else to rounding."""
    limit = 32
    options = dataclasses.replace(OPTIONS, temperature=1.0, score_at="after_eos", rollout_rows=4)
    eager = networks.policy | {"head": networks.policy["head"].at[:, EOS].multiply(3.0)}

    def rolled():
        setting = Setting(CONFIG, options, limit, (EOS,), PAD)
        roll = jax.jit(functools.partial(rollout, setting=setting))
        query = jnp.asarray(tiny.random_queries(B, Q))
        given = networks._replace(policy=eager)
        return jax.device_get(roll(*given, query, jax.random.key(3), jnp.float32(KL_COEF)))

    short = rolled()
    monkeypatch.setattr(response_widths, "widths", lambda limit, beside: [limit])
    whole = rolled()
    lengths = whole.mask.sum(axis=1)
    assert any(lengths[part::4].max() < limit / 2 for part in range(4))
    for name in ("response", "mask", "value_mask"):
        np.testing.assert_array_equal(getattr(short, name), getattr(whole, name))
    for name in ("logp", "ref_logp", "values", "score", "rewards", "advantages"):
        tiny.assert_close(getattr(short, name), getattr(whole, name), tiny.additions(CONFIG, Q + limit))

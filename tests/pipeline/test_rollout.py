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
from rlhf_jax.model import heads, params, transformer
from rlhf_jax.pipeline import ppo
from rlhf_jax.pipeline import rollout as rollouts
from rlhf_jax.pipeline.rollout import Rollout, rollout

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
    setting = ppo.Setting(CONFIG, options, R, (EOS,), PAD)
    episodes = rollout(
        *networks,
        query,
        jax.random.key(seed),
        jnp.float32(KL_COEF),
        setting,
    )
    parameters = {"policy": networks.policy, "value": networks.value}
    tokens, slots = episodes.mask.sum(), episodes.value_mask.sum()
    return episodes, ppo.loss(parameters, episodes, tokens, slots, setting)[1]


@pytest.fixture(scope="module", params=[0.5, 0.7, 1.0, 2.0])
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


@pytest.mark.parametrize("shards", [1, 2])
def test_rows_sampled_apart_are_those_of_the_whole_batch(networks, shards):
    """The same tokens from the same noise, on one device and on two; all else to rounding."""
    mesh = make_mesh(MeshConfig(fsdp=shards), jax.devices()[:shards])

    def rolled(rows):
        setting = ppo.Setting(CONFIG, dataclasses.replace(OPTIONS, rollout_rows=rows), R, (EOS,), PAD)
        placed = [
            jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), each, params.abstract(specs, mesh))
            for each, specs in zip(networks, 2 * [bodies] + 2 * [scalars], strict=True)
        ]
        roll = jax.jit(functools.partial(rollout, setting=setting))
        query = to_devices(tiny.random_queries(B, Q), mesh)
        return jax.device_get(roll(*placed, query, jax.random.key(3), jnp.float32(KL_COEF)))

    bodies, scalars = transformer.specs(CONFIG, VOCABULARY), heads.specs(CONFIG, VOCABULARY)
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

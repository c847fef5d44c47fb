import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference
import pytest
import tiny
from jax.sharding import AxisType, PartitionSpec

from rlhf_jax.functional.logprobs import entropy, token_logprobs

# Probabilities 1/8, 2/8, 5/8; at temperature 0.5 they are squared: 1/30, 4/30, 25/30.
LOGITS = np.log(np.array([[[1.0, 2.0, 5.0]]], np.float32))
ROWS = PartitionSpec(("replica", "fsdp"))
ROWS_AND_VOCABULARY = PartitionSpec(("replica", "fsdp"), None, "tensor")
HAND = 16  # roundings of a formula of a few terms, its exp and log among them
SOFTMAX = 2 * 16 + HAND  # of the random case: a sum of exponentials, and one weighted by them


@pytest.fixture
def random_case():
    rng = np.random.default_rng(0)
    logits = 5 * rng.standard_normal((8, 5, 16)).astype(np.float32)
    return logits, rng.integers(0, 16, (8, 5)).astype(np.int32)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
@pytest.mark.parametrize(("temperature", "expected"), [(1.0, -0.4700036), (0.5, -0.1823216)])
def test_logprob_by_hand(wrap, temperature, expected):
    # ln 5/8, ln 25/30
    logp = wrap(token_logprobs)(LOGITS, np.array([[2]], np.int32), temperature)
    tiny.assert_close(logp, np.array([[expected]]), HAND, scale=tiny.largest(LOGITS) / temperature)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 0.9002561), (0.5, 0.5339616)])
def test_entropy_by_hand(wrap, temperature, expected):
    # 1/8 ln 8 + 1/4 ln 4 + 5/8 ln 8/5 = 0.259930 + 0.346574 + 0.293752
    # 1/30 ln 30 + 4/30 ln 30/4 + 25/30 ln 30/25 = 0.113373 + 0.268654 + 0.151935
    h = wrap(entropy)(LOGITS, temperature)
    tiny.assert_close(h, np.array([[expected]]), HAND, scale=tiny.largest(LOGITS) / temperature)


def test_gradient_is_one_hot_minus_probabilities_over_temperature():
    token = np.array([[2]], np.int32)
    gradient = jax.grad(lambda logits: token_logprobs(logits, token, 0.5).sum())(LOGITS)
    tiny.assert_close(gradient[0, 0], np.array([-2 / 30, -8 / 30, 10 / 30]), HAND, scale=1 / 0.5)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_agrees_with_the_loops(random_case, temperature):
    logits, tokens = random_case
    logp = numpy_reference.token_logprobs(logits, tokens, temperature)
    scale = tiny.largest(logits) / temperature
    tiny.assert_close(token_logprobs(logits, tokens, temperature), logp, SOFTMAX, scale)
    expected = numpy_reference.entropy(logits, temperature)
    tiny.assert_close(entropy(logits, temperature), expected, SOFTMAX, scale)


def test_probabilities_of_all_tokens_sum_to_one(random_case):
    logits, _ = random_case
    every = np.broadcast_to(np.arange(16, dtype=np.int32), (8, 16))
    logp = token_logprobs(np.repeat(logits[:, :1], 16, axis=1), every, 0.7)
    tiny.assert_close(np.exp(logp).sum(1), np.ones(8), SOFTMAX, scale=tiny.largest(logits) / 0.7)


def test_large_logits_do_not_overflow():
    logits = np.array([[[1e4, 0.0], [1e4, 0.0]]], np.float32)
    logp = token_logprobs(logits, np.array([[0, 1]], np.int32), 1.0)
    np.testing.assert_array_equal(logp, [[0.0, -1e4]])
    np.testing.assert_array_equal(entropy(logits, 1.0), [[0.0, 0.0]])


def test_bfloat16_logits_are_summed_in_float32():
    # ln 1000 = 6.907755; the nearest bfloat16 is 6.90625.
    logits = jnp.zeros((1, 1, 1000), jnp.bfloat16)
    logp = token_logprobs(logits, np.zeros((1, 1), np.int32), 1.0)
    assert logp.dtype == jnp.float32
    tiny.assert_close(logp, np.array([[-np.log(1000)]]), 1000)
    tiny.assert_close(entropy(logits, 1.0), np.array([[np.log(1000)]]), 1000)


def test_excluded_tokens_have_no_entropy():
    logits = np.array([[[0.0, 0.0, -np.inf]]], np.float32)
    tiny.assert_close(entropy(logits, 1.0), np.array([[np.log(2)]]), HAND)


def test_padding_outside_the_vocabulary_is_finite():
    assert np.isfinite(token_logprobs(LOGITS, np.array([[3]], np.int32), 1.0)).all()


def test_vocabulary_split_over_devices_gives_the_same_numbers(random_case):
    logits, tokens = random_case
    logp, h = token_logprobs(logits, tokens, 0.7), entropy(logits, 0.7)
    scale = tiny.largest(logits) / 0.7
    mesh = jax.make_mesh((2, 2, 2), ("replica", "fsdp", "tensor"), axis_types=(AxisType.Explicit,) * 3)
    with jax.set_mesh(mesh):
        logits, tokens = jax.device_put(logits, ROWS_AND_VOCABULARY), jax.device_put(tokens, ROWS)
        sharded = jax.jit(token_logprobs)(logits, tokens, 0.7)
        assert sharded.sharding.is_equivalent_to(tokens.sharding, 2)
        tiny.assert_close(sharded, logp, SOFTMAX, scale)
        tiny.assert_close(jax.jit(entropy)(logits, 0.7), h, SOFTMAX, scale)


def test_vocabulary_split_over_devices_is_never_gathered(random_case):
    mesh = jax.make_mesh((2, 2, 2), ("replica", "fsdp", "tensor"), axis_types=(AxisType.Explicit,) * 3)
    with jax.set_mesh(mesh):
        logits = jax.device_put(random_case[0], ROWS_AND_VOCABULARY)
        tokens = jax.device_put(random_case[1], ROWS)
        gradient = jax.jit(jax.grad(lambda logits, tokens: token_logprobs(logits, tokens, 0.7).sum()))
        program = gradient.lower(logits, tokens).compile().as_text()
    assert "all-reduce" in program
    assert "all-gather" not in program

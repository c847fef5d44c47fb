import functools

import jax
import numpy as np
import pytest
import tiny
from scipy.stats import chi2
from tiny import EOS, FAMILIES, PAD, VOCABULARY

from rlhf_jax.config import ModelConfig
from rlhf_jax.data.batches import left_pad, right_pad
from rlhf_jax.model import heads, params, transformer

CONFIG = FAMILIES["neox"]
QUERIES = [tiny.random_tokens(1, length, seed=length)[0] for length in (3, 5, 4, 2)]
RESPONSES = [[7, 5, 9, EOS], [EOS], [8, 6, 4, 3, 2], [7, EOS]]  # the third has no EOS


@pytest.fixture(scope="module")
def weights():
    return tiny.parameters(heads.specs(CONFIG, VOCABULARY))


score = functools.partial(
    jax.jit(heads.score, static_argnames=("config", "pad_id")), config=CONFIG, pad_id=PAD
)
scalars = functools.partial(
    jax.jit(heads.scalars, static_argnames=("config", "pad_id")), config=CONFIG, pad_id=PAD
)


def test_head_weights_have_variance_one_over_width_plus_one():
    width = 9_999
    specs = heads.specs(ModelConfig(width=width, heads=1, layers=1), VOCABULARY)["head"]
    head = params.init({"head": specs}, jax.random.key(0))["head"]
    squares = (width + 1) * np.sum(np.square(head["weight"], dtype=np.float64))
    low, high = chi2.ppf([0.0005, 0.9995], width)
    assert low < squares < high
    assert head["bias"] == 0


def test_score_is_read_at_the_last_real_token(weights):
    """Independently: one sequence at a time, without any padding, its last hidden state."""
    padded = score(weights, query=left_pad(QUERIES, 5, PAD), response=right_pad(RESPONSES, 5, PAD))
    apply = jax.jit(transformer.apply, static_argnames="config")
    for query, response, ours in zip(QUERIES, RESPONSES, np.asarray(padded), strict=True):
        tokens = np.concatenate([query, response])[None].astype(np.int32)
        hidden = apply(weights["transformer"], CONFIG, tokens, np.ones_like(tokens))[0, -1]
        expected = hidden @ weights["head"]["weight"] + weights["head"]["bias"]
        np.testing.assert_allclose(ours, expected, atol=1e-5)
    assert np.ptp(padded) > 1


def test_more_padding_on_either_side_changes_no_score(weights):
    tight = score(weights, query=left_pad(QUERIES, 5, PAD), response=right_pad(RESPONSES, 5, PAD))
    wide = score(weights, query=left_pad(QUERIES, 9, PAD), response=right_pad(RESPONSES, 8, PAD))
    np.testing.assert_allclose(wide, tight, atol=1e-5)


def test_a_value_is_read_before_its_token(weights):
    """Entry t has seen t response tokens: changing token 2 changes entries 3, 4, … alone."""
    query, response = left_pad(QUERIES[:1], 5, PAD), np.array([[7, 5, 9, 6, EOS]], np.int32)
    before = np.asarray(scalars(weights, query=query, response=response))[0]
    changed = response.copy()
    changed[0, 2] = 10
    after = np.asarray(scalars(weights, query=query, response=changed))[0]
    assert before.shape == (6,)
    np.testing.assert_array_equal(before[:3], after[:3])
    assert (np.abs(before[3:] - after[3:]) > 1e-3).all()


def test_bias_shifts_every_score(weights):
    batch = {"query": left_pad(QUERIES, 5, PAD), "response": right_pad(RESPONSES, 5, PAD)}
    shifted = weights | {"head": weights["head"] | {"bias": weights["head"]["bias"] - 2.5}}
    np.testing.assert_allclose(score(shifted, **batch), score(weights, **batch) - 2.5, atol=1e-5)

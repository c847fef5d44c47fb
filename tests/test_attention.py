import jax
import numpy as np
import pytest

from rlhf_jax.model import attention

T, HEADS, GROUP, K = 300, 2, 3, 4  # more than two blocks of queries


def plain_attention(query, key, value, segments):
    """One query at a time, float64: softmax over the earlier keys of its segment."""
    out = np.zeros(query.shape)
    first = key.shape[2] - query.shape[3]
    for b, h, g, t in np.ndindex(*query.shape[:4]):
        place = first + t
        seen = [s for s in range(place + 1) if segments[b, s] == segments[b, place]]
        scores = key[b, h, seen] @ query[b, h, g, t] / np.sqrt(query.shape[-1])
        weights = np.exp(scores - scores.max())
        out[b, h, g, t] = weights / weights.sum() @ value[b, h, seen]
    return out


@pytest.fixture(scope="module")
def case():
    """Query, key, value and segments: a left-padded row, and a packed one with padding at its end."""
    rng = np.random.default_rng(0)
    query = rng.standard_normal((2, HEADS, GROUP, T, K))
    key, value = rng.standard_normal((2, 2, HEADS, T, K))
    segments = np.ones((2, T), np.int32)
    segments[0, :50] = 0
    segments[1] = np.repeat([1, 2, 3, 0], [100, 40, 150, 10])
    return query, key, value, segments


@pytest.mark.parametrize("last", [T, 170, 1])
def test_blocks_of_queries_equal_one_masked_attention(case, last):
    query, key, value, segments = case
    query = query[:, :, :, -last:]
    expected = plain_attention(query, key, value, segments)
    floats = [x.astype(np.float32) for x in (query, key, value)]
    ours = np.asarray(jax.jit(attention.causal_attention)(*floats, segments))
    real = segments[:, -last:] > 0
    difference = np.abs(ours - expected).max(axis=(1, 2, 4))
    assert difference[real].max() < 1e-5
    assert np.isfinite(ours).all()  # a padding query has nothing to attend to


def test_positions_count_the_tokens_before_in_the_same_segment():
    segments = np.array([[0, 0, 1, 1, 1, 0], [1, 1, 2, 2, 2, 3], [1, 1, 1, 0, 0, 0]])
    expected = [[0, 1, 2], [0, 1, 0, 1, 2, 0], [0, 1, 2]]
    positions = np.asarray(attention.positions_of(segments))
    for row, segment, wanted in zip(positions, segments, expected, strict=True):
        np.testing.assert_array_equal(row[segment > 0], wanted)

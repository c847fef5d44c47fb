import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.special import expit

from rlhf_jax.data.comparisons import Pair
from rlhf_jax.data.records import Post
from rlhf_jax.evaluation import blind
from rlhf_jax.evaluation.blind import blind_margins, features

POST = Post("p", "pets", "title", "the post")


def pair(chosen, rejected):
    return Pair(POST, chosen, rejected)


def swapped(pairs):
    return [pair(p.rejected, p.chosen) for p in pairs]


def random_texts(count, seed):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice("a b c d e f g h".split(), rng.integers(3, 9))) for _ in range(count)]


def test_words_bigrams_and_lengths_are_counted():
    counts = features(["a b a.", "b a a."]).toarray()
    # a (2), b, "."; five bigrams, that of the start and that of the end among them; 4 and 3 tens.
    assert counts[0].sum() == pytest.approx(4 + 5 + 0.4 + 0.3)
    # The same words and end: "a b", "b a", "a ." and start "a" against "b a", "a a", "a ." and start "b".
    np.testing.assert_array_equal(np.sort(counts[0] - counts[1])[[0, 1, -2, -1]], [-1, -1, 1, 1])
    assert np.abs(counts[0] - counts[1]).sum() == 4
    assert features([""]).sum() == 1  # start followed by end


def test_hand_solved_regression(monkeypatch):
    # One feature, its difference 1 in 3 pairs and −1 in 1, nearly no ridge: w = log 3, as in plain logit.
    monkeypatch.setattr(blind, "features", lambda texts: csr_matrix([[float(t)] for t in texts]))
    monkeypatch.setattr(blind, "RIDGE", 1e-6)
    train = [pair("1", "0")] * 3 + [pair("0", "1")]
    np.testing.assert_allclose(blind_margins(train, [pair("2", "0")]), [2 * np.log(3)], rtol=1e-4)


def test_the_gradient_vanishes_at_the_fit():
    """Σ σ(−margin) · difference = RIDGE · w, so both sides have the same product with any difference."""
    texts = random_texts(80, 0)
    train = [pair(*sorted(both, key=len)) for both in zip(texts[::2], texts[1::2], strict=True)]
    x = (features([p.chosen for p in train]) - features([p.rejected for p in train])).toarray()
    margins = blind_margins(train, train)
    np.testing.assert_allclose(x @ (x.T @ expit(-margins)), blind.RIDGE * margins, atol=0.05)
    assert np.abs(margins).max() > 1


def test_swapping_a_pair_turns_its_margin_round():
    texts = random_texts(60, 1)
    pairs = [pair(*both) for both in zip(texts[::2], texts[1::2], strict=True)]
    margins = blind_margins(pairs, pairs)
    largest = np.abs(margins).max()
    np.testing.assert_allclose(blind_margins(pairs, swapped(pairs)), -margins, atol=1e-12 * largest)
    # A fit of its own, which ends at 1e-6 of the loss: that grows with the square of a weight's error.
    np.testing.assert_allclose(blind_margins(swapped(pairs), pairs), -margins, atol=1e-3 * largest)


def test_order_of_words_is_seen_but_what_chance_decides_is_not():
    rng = np.random.default_rng(2)
    names = "ann bob cat dan eve".split()
    asked = [rng.choice(names, 2, replace=False) for _ in range(600)]
    told = [pair(f"{a} because {b}.", f"because {b} {a}.") for a, b in asked]
    assert np.mean(blind_margins(told[:300], told[300:]) > 0) == 1
    even = [pair(f"{a} saw {b}.", f"{b} saw {a}.") for a, b in asked]
    assert 0.35 < np.mean(blind_margins(even[:300], even[300:]) > 0) < 0.65


def test_length_is_seen_in_words_never_met():
    def words(n, word):
        return " ".join(f"{word}{i}" for i in range(n))

    train = [pair(words(3 + i % 5, f"x{i}"), words(9 + i % 5, f"y{i}")) for i in range(200)]
    assert blind_margins(train, [pair("some words", "some words that go on and on for very long indeed")]) > 0

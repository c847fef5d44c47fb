"""A scorer that never sees the post: how far the form of two summaries betrays the preferred one.

A reward model that is no better has not learned to read posts.
"""

import re
import zlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from scipy.special import expit

from rlhf_jax.data.comparisons import Pair

COLUMNS = 1 << 18  # that words and bigrams are hashed to
RIDGE = 10.0  # penalty ½ · RIDGE · |w|² on the summed loss; good for thousands of pairs and for tens of them


def blind_margins(train: Sequence[Pair], held_out: Sequence[Pair]) -> Float[np.ndarray, "N"]:
    """By how much each held-out pair's preferred summary scores above the other.

    A summary's score is linear in its features. The weights w minimize, over the train pairs,

        Σ −log σ(w · (features(chosen) − features(rejected))) + ½ · RIDGE · |w|²
    """
    x = differences(train)

    def loss_and_gradient(w):
        margins = x @ w
        return np.logaddexp(0, -margins).sum() + RIDGE / 2 * w @ w, RIDGE * w - x.T @ expit(-margins)

    fit = minimize(loss_and_gradient, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B", tol=1e-6)
    return differences(held_out) @ fit.x


def differences(pairs: Sequence[Pair]) -> csr_matrix:
    """Features of the preferred summary minus those of the other [N, COLUMNS + 2]."""
    return features([pair.chosen for pair in pairs]) - features([pair.rejected for pair in pairs])


def features(texts: Sequence[str]) -> csr_matrix:
    """Counts of words, punctuation marks and bigrams; in tens, all words and different words.

    The ends of a text count as words, so that bigrams tell how it starts and stops.
    """
    rows, columns, values = [], [], []
    for row, text in enumerate(texts):
        words = re.findall(r"\w+|[^\w\s]", text)
        items = words + [" ".join(bigram) for bigram in pairwise(["", *words, ""])]
        rows += [row] * (len(items) + 2)
        columns += [zlib.crc32(item.encode()) % COLUMNS for item in items] + [COLUMNS, COLUMNS + 1]
        values += [1.0] * len(items) + [len(words) / 10, len(set(words)) / 10]
    return csr_matrix((values, (rows, columns)), shape=(len(texts), COLUMNS + 2))

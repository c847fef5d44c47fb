"""Best-of-N from one pool of samples: what it is worth for every N, and how far it is from the policy."""

import math

import numpy as np
from jaxtyping import Float, Int
from scipy.special import gammaln, xlogy


def weights(scores: Float[np.ndarray, "M"], n: int) -> Float[np.ndarray, "M"]:
    """Probability that each of M samples is the best of `n` drawn from them without replacement.

    `weights(scores, n) @ values` is therefore an estimate without bias of what best-of-n has on average
    (Nakano et al. 2021, WebGPT, appendix I). Samples that tie for the best share it.
    """
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.concatenate([[0], counts.cumsum()])
    return (np.diff(_all_within(ends, len(scores), n)) / counts)[inverse]


def _all_within(k: Int[np.ndarray, "K"], pool: int, n: int) -> Float[np.ndarray, "K"]:
    """Probability that all of `n` samples lie among the lowest k of the pool: C(k, n) / C(pool, n)."""
    enough = np.maximum(k, n)
    log = gammaln(enough + 1) - gammaln(enough - n + 1) - gammaln(pool + 1) + gammaln(pool - n + 1)
    return np.where(k >= n, np.exp(log), 0.0)


def closed_form_kl(n: int) -> float:
    """KL of best-of-n from the policy it samples, in nats, were no two samples to tie: log n − (n − 1)/n."""
    return math.log(n) - (n - 1) / n


def measured_kl(scores: Float[np.ndarray, "M"], n: int) -> float:
    """KL of best-of-n from the policy, in nats, with the distribution of scores that M samples show.

    E log[(F(r)^n − F(r⁻)^n) / P(r)] over best-of-n's own scores r, with F the distribution function of a
    sample's score and P(r) the probability of this score. Ties make it smaller than `closed_form_kl`; the
    estimate is a little low where n comes near to M.
    """
    _, counts = np.unique(scores, return_counts=True)
    below = np.concatenate([[0], counts.cumsum()]) / counts.sum()
    best = np.diff(below**n)
    return float(np.sum(xlogy(best, best * counts.sum() / counts)))

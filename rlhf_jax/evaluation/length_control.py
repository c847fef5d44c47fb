"""Preference with the effect of length taken out."""

import warnings
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from rlhf_jax.evaluation.intervals import Estimate, joint

WEAK = 1e5  # inverse of a penalty that changes nothing but keeps the coefficient finite of who always wins

ByPolicy = Mapping[str, Float[np.ndarray, "N"]]  # policy → a value of each of the same N posts


def preference_at_equal_length(outcomes: ByPolicy, log_ratios: ByPolicy) -> dict[str, Estimate]:
    """The rate each policy would have with summaries as long as the references, 0 to 1, with its interval.

    Logistic regression without intercept, over all policies' comparisons together, of

        P(preferred) = σ(coefficient[policy] + slope · log(length / reference length))

    and the answer is σ(coefficient[policy]), its value at ratio 1. `outcomes` are 1, ½ or 0 a post, NaN
    where nobody compared; lengths are positive (tokens with EOS are). A policy that wins always has no
    finite coefficient: its rate comes out near 1. For the intervals posts are drawn again, each with all
    policies' summaries.
    """
    won = np.concatenate(list(outcomes.values())).astype(float)
    known = np.isfinite(won)
    policy = np.repeat(np.arange(len(outcomes)), [len(each) for each in outcomes.values()])[known]
    ratio = np.concatenate([log_ratios[name] for name in outcomes])[known]
    posts = np.concatenate([np.arange(len(each)) for each in outcomes.values()])[known]
    won = won[known]
    estimates = joint(posts.tolist(), lambda i: _fitted(won[i], policy[i], ratio[i], len(outcomes)))
    return dict(zip(outcomes, estimates, strict=True))


def _fitted(won: np.ndarray, policy: np.ndarray, ratio: np.ndarray, policies: int) -> Float[np.ndarray, "K"]:
    """The rates of all policies, NaN of one without a comparison.

    A comparison counts as won and as lost, by the shares of its outcome.
    """
    features = np.column_stack([np.eye(policies)[policy], ratio])
    fit = LogisticRegression(C=WEAK, fit_intercept=False, solver="newton-cholesky", tol=1e-7)
    is_won = np.repeat([1, 0], len(won))
    with warnings.catch_warnings(category=ConvergenceWarning, action="ignore"):  # it goes on by L-BFGS
        fit.fit(np.concatenate([features, features]), is_won, sample_weight=np.concatenate([won, 1 - won]))
    return np.where(np.bincount(policy, minlength=policies) > 0, expit(fit.coef_[0, :-1]), np.nan)

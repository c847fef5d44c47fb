"""Preference with the effect of length taken out."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.special import expit


def preference_at_equal_length(
    outcomes: Mapping[str, Float[np.ndarray, "N"]], log_ratios: Mapping[str, Float[np.ndarray, "N"]]
) -> dict[str, float]:
    """The rate each policy would have with summaries as long as the references, 0 to 1.

    Logistic regression without intercept, over all policies' comparisons together, of

        P(preferred) = σ(coefficient[policy] + slope · log(length / reference length))

    and the answer is σ(coefficient[policy]), its value at ratio 1. `outcomes` are 1, ½ or 0 a post;
    lengths are positive (tokens with EOS are). A policy that wins always has no finite coefficient:
    its rate comes out near 1.
    """
    preferred = np.concatenate(list(outcomes.values()))
    policy = np.repeat(np.eye(len(outcomes)), [len(won) for won in outcomes.values()], axis=0)
    features = np.column_stack([policy, np.concatenate([log_ratios[name] for name in outcomes])])

    def loss_and_gradient(coefficients):
        logits = features @ coefficients
        loss = np.mean(np.logaddexp(0, logits) - preferred * logits)
        return loss, features.T @ (expit(logits) - preferred) / len(preferred)

    fit = minimize(loss_and_gradient, np.zeros(features.shape[1]), jac=True, tol=1e-8)
    return {name: float(rate) for name, rate in zip(outcomes, expit(fit.x), strict=False)}

"""From a sampled response and its score to a reward for each token.

Responses [B, R] are right-padded. A response's real tokens are those through its first EOS;
`mask` is True on them. The value of slot t is read before token t is seen, at token t−1, so
the slot after EOS is the one whose value is read at EOS.
"""

import functools
import operator
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num


def is_eos(tokens: Int[Array, "*any"], eos_ids: Sequence[int]) -> Bool[Array, "*any"]:
    """Which tokens end a response: chat models have several that do."""
    return functools.reduce(operator.or_, (tokens == eos for eos in eos_ids))


def response_mask(response: Int[Array, "B R"], eos_ids: Sequence[int], pad: int) -> Bool[Array, "B R"]:
    """True on the tokens through the first EOS; on all tokens but padding where there is none."""
    ends = is_eos(response, eos_ids).astype(jnp.int32)
    eos_before = jnp.cumsum(ends, axis=1) - ends
    return (eos_before == 0) & (response != pad)


def has_eos(response: Int[Array, "B R"], eos_ids: Sequence[int]) -> Bool[Array, " B"]:
    """Whether each response ended by itself."""
    return jnp.any(is_eos(response, eos_ids), axis=1)


def lengths(mask: Bool[Array, "B R"]) -> Int[Array, " B"]:
    """Tokens in each response, EOS included."""
    return jnp.sum(mask, axis=1)


def value_mask(mask: Bool[Array, "B R"], score_at: str) -> Bool[Array, "B R"]:
    """Where values and rewards live: `mask`, and for `after_eos` one slot more where R has room.

    Its last True slot is the scored place.
    """
    if score_at == "eos":
        return mask
    return mask | jnp.pad(mask, ((0, 0), (1, 0)))[:, :-1]


def place_score(score: Num[Array, " B"], mask: Bool[Array, "B R"], score_at: str) -> Float[Array, "B R"]:
    """The score at its one slot, 0 elsewhere; float32 even from integer scores.

    `eos`: the response's last token. `after_eos`: the slot after it, or the last token where
    the response fills all R slots (N+).
    """
    scored = value_mask(mask, score_at)
    followed = jnp.pad(scored, ((0, 0), (0, 1)))[:, 1:]
    return jnp.where(scored & ~followed, score.astype(jnp.float32)[:, None], 0.0)


def score_missing_eos(
    score: Num[Array, " B"], ended: Bool[Array, " B"], no_eos: str, no_eos_score: float
) -> Float[Array, " B"]:
    """What a response that never ended scores, float32; `ended` is `has_eos`.

    `replace`: no_eos_score (N+). `subtract`: its score less |no_eos_score|. `none`: its score.
    """
    score = score.astype(jnp.float32)
    if no_eos == "none":
        return score
    missing = no_eos_score if no_eos == "replace" else score - abs(no_eos_score)
    return jnp.where(ended, score, missing)


def of_ensemble(scores: Float[Array, "M B"], how: str) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """The score of each response by M reward models together, and their disagreement about it.

    `mean` of their scores, or the least, `worst` (Coste et al. 2023): a response has to please them all, and
    what one of them mistakes for good earns nothing. The disagreement is the (biased) standard deviation.
    """
    return (scores.mean(axis=0) if how == "mean" else scores.min(axis=0)), scores.std(axis=0)


def kl_penalty(
    logp: Float[Array, "B R"],
    ref_logp: Float[Array, "B R"],
    mask: Bool[Array, "B R"],
    kl_coef: float | Float[Array, ""],
    estimator: str = "k1",
) -> Float[Array, "B R"]:
    """−β · `kl_estimate` on the response's tokens, 0 elsewhere: with k1, −β (logp − ref_logp).

    Both log-probabilities are at the rollout temperature.
    """
    return jnp.where(mask, -kl_coef * kl_estimate(logp, ref_logp, mask, estimator), 0.0)


def kl_estimate(
    logp: Float[Array, "B R"], ref_logp: Float[Array, "B R"], mask: Bool[Array, "B R"], estimator: str
) -> Float[Array, "B R"]:
    """KL(π ‖ reference) in nats at each token, estimated from that token alone; 0 outside of `mask`.

    With d = logp − ref_logp, of a token that π drew (Schulman 2020, "Approximating KL divergence"):

        k1 = d              no bias, and negative as often as not
        k2 = d² / 2         never negative; a bias, small where the two are close
        k3 = exp(−d) − 1 + d    never negative, no bias
    """
    change = jnp.where(mask, logp - ref_logp, 0.0)  # before exp, which may overflow on padding
    if estimator == "k1":
        return change
    return 0.5 * jnp.square(change) if estimator == "k2" else jnp.expm1(-change) + change


def adapt_kl_coef(
    kl_coef: Float[Array, ""], kl: Float[Array, ""], target: float, horizon: int, episodes: int
) -> Float[Array, ""]:
    """β (1 + clip(kl / target − 1, ±0.2) · episodes / horizon), the controller of LMHP.

    `kl` and `target` are nats a response, `episodes` those of the batch that measured `kl`,
    `horizon` the episodes over which β may change about 20%.
    """
    error = jnp.clip(kl / target - 1.0, -0.2, 0.2)
    return kl_coef * (1.0 + error * episodes / horizon)

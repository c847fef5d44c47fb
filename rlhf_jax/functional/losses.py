"""The losses of all stages, with what is logged beside them.

Each is a masked mean. Given `denominator`, the count of the whole batch, the loss, the
gradient and the metrics of microbatches add up to those of the batch.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Num

from rlhf_jax.functional.advantages import masked_mean, masked_var

Metrics = dict[str, Float[Array, ""]]
Denominator = float | Num[Array, ""] | Num[Array, "B 1"] | None  # of `masked_mean`


def cross_entropy(
    logprobs: Float[Array, "B T"], mask: Num[Array, "B T"], denominator: Denominator = None
) -> Float[Array, ""]:
    """Mean of −log p over the target tokens, in nats."""
    return -masked_mean(logprobs, mask, denominator)


def bradley_terry(
    chosen: Float[Array, " B"], rejected: Float[Array, " B"]
) -> tuple[Float[Array, ""], Metrics]:
    """Mean of −log σ(r_chosen − r_rejected) over pairs; `accuracy`: r_chosen > r_rejected, ties one half."""
    margin = chosen.astype(jnp.float32) - rejected.astype(jnp.float32)
    return -jnp.mean(jax.nn.log_sigmoid(margin)), {"accuracy": accuracy(margin)}


def soft_bradley_terry(
    chosen: Float[Array, " B"], rejected: Float[Array, " B"], sure: float | Float[Array, " B"]
) -> Float[Array, ""]:
    """Mean of −p log σ(m) − (1 − p) log σ(−m) over pairs, m = r_chosen − r_rejected.

    p is how `sure` it is that the chosen one is better. A pair's loss is least where σ(m) = p, so that an
    unsure choice pulls two scores apart only so far.
    """
    margin = chosen.astype(jnp.float32) - rejected.astype(jnp.float32)
    right, wrong = jax.nn.log_sigmoid(margin), jax.nn.log_sigmoid(-margin)
    return -jnp.mean(sure * right + (1.0 - sure) * wrong)


def squared_error(scores: Float[Array, "B N"], ratings: Float[Array, "B N"]) -> Float[Array, ""]:
    """Mean of (r − rating)² over responses: regression on people's ratings."""
    return jnp.mean(jnp.square(scores.astype(jnp.float32) - ratings))


def accuracy(margins: Float[Array, " B"]) -> Float[Array, ""]:
    """Share of pairs whose chosen response has the larger reward; a tie counts one half."""
    return jnp.mean((1 + jnp.sign(margins)) / 2)


def implicit_rewards(
    logp: Float[Array, "*any"], ref_logp: float | Float[Array, "*any"], beta: float
) -> Float[Array, "*any"]:
    """β log π(y|x) / π_ref(y|x): the reward, but for a term of the prompt alone, that π maximizes under a KL
    penalty of weight β (Rafailov et al. 2023, equation 5). Log-probabilities of whole responses, in nats.
    """
    return beta * (logp - ref_logp)


def dpo(
    chosen: Float[Array, " B"], rejected: Float[Array, " B"], label_smoothing: float = 0.0
) -> Float[Array, ""]:
    """Mean of −(1 − ε) log σ(m) − ε log σ(−m) over pairs, m the margin of their implicit rewards.

    Bradley–Terry (Rafailov et al. 2023, equation 7); ε is the share of choices that are taken to be wrong
    (Mitchell 2023, "A note on DPO with noisy preferences").
    """
    return soft_bradley_terry(chosen, rejected, 1.0 - label_smoothing)


def ipo(chosen: Float[Array, " B"], rejected: Float[Array, " B"], beta: float) -> Float[Array, ""]:
    """Mean of ((m − ½) / β)² over pairs, m the margin of their implicit rewards (Azar et al. 2023, eq. 17).

    Where a Bradley–Terry loss drives the margin of a pair ever farther, this one stops it at ½. Stage dpo
    divides the rewards by the tokens of their responses: the paper's results are so, its authors told TRL's.
    """
    return jnp.mean(jnp.square((chosen - rejected - 0.5) / beta))


def simpo(chosen: Float[Array, " B"], rejected: Float[Array, " B"], margin: float) -> Float[Array, ""]:
    """Mean of −log σ(r_chosen − r_rejected − γ) over pairs (Meng et al. 2024, equation 6); γ is `margin`.

    The rewards are β times the mean log-probability of a response's tokens, without a reference.
    """
    return bradley_terry(chosen, rejected + margin)[0]


def policy_loss(
    logp: Float[Array, "B R"],
    old_logp: Float[Array, "B R"],
    advantages: Float[Array, "B R"],
    mask: Bool[Array, "B R"],
    clip: float,
    denominator: Denominator = None,
) -> tuple[Float[Array, ""], Metrics]:
    """PPO's clipped objective (Schulman et al. 2017, equation 7), to be minimized.

        mean of max(−A ρ, −A clip(ρ, 1 ± clip)),    ρ = exp(logp − old_logp)

    Metrics: `clipfrac`, share of tokens where the clipped term is the larger; `approxkl`, mean
    of ½ (logp − old_logp)²; `ratio`, mean ρ; `ratio_var`, mean of (ρ − 1)²: the variance about
    1, which is ρ's expectation under the old policy.
    """
    # Masked before exp: an overflow on padding would make the gradient 0 · inf = nan.
    change = jnp.where(mask, logp - old_logp, 0.0)
    ratio = jnp.exp(change)
    unclipped = -advantages * ratio
    clipped = -advantages * jnp.clip(ratio, 1.0 - clip, 1.0 + clip)

    def mean(x):
        return masked_mean(x, mask, denominator)

    return mean(jnp.maximum(unclipped, clipped)), {
        "clipfrac": mean(clipped > unclipped),
        "approxkl": mean(0.5 * jnp.square(change)),
        "ratio": mean(ratio),
        "ratio_var": mean(jnp.square(ratio - 1.0)),
    }


def of_actions(x: Float[Array, "B R"], mask: Bool[Array, "B R"], ratio: str) -> Float[Array, "B #R"]:
    """Log-probabilities of tokens, or a divergence at them, as those of the actions that have one ratio each.

    `token`: every token is an action. `sequence`: the whole response is one, with the sum over its tokens
    (RLOO: Ahmadian et al. 2024). `gspo`: with their mean, so that the ratio is the |y|-th root of the
    response's (GSPO: Zheng et al. 2025). The last two are [B, 1].
    """
    if ratio == "token":
        return x
    total = jnp.sum(jnp.where(mask, x, 0.0), axis=1, keepdims=True)
    return total if ratio == "sequence" else total / jnp.maximum(jnp.sum(mask, axis=1, keepdims=True), 1)


def value_loss(
    values: Float[Array, "B R"],
    old_values: Float[Array, "B R"],
    returns: Float[Array, "B R"],
    mask: Bool[Array, "B R"],
    clip: float,
    denominator: Denominator = None,
) -> tuple[Float[Array, ""], Metrics]:
    """½ · mean of max((v − R)², (v_clipped − R)²), v_clipped = v kept within old_values ± clip.

    Metrics: `clipfrac`, share of slots where the clipped term is the larger.
    """
    kept = jnp.clip(values, old_values - clip, old_values + clip)
    unclipped = jnp.square(values - returns)
    clipped = jnp.square(kept - returns)
    loss = 0.5 * masked_mean(jnp.maximum(unclipped, clipped), mask, denominator)
    return loss, {"clipfrac": masked_mean(clipped > unclipped, mask, denominator)}


def explained_variance(
    values: Float[Array, "B R"], returns: Float[Array, "B R"], mask: Bool[Array, "B R"]
) -> Float[Array, ""]:
    """1 − Var(returns − values) / Var(returns) over the mask; not finite where returns are constant.

    Of the whole batch, with the rollout's values: variances of microbatches do not add up.
    """
    return 1.0 - masked_var(returns - values, mask) / masked_var(returns, mask)

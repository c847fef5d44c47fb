"""Estimators of advantages, from values or by comparing responses, and the statistics that whiten them.

Sums run over the whole array, so on a sharded batch a mean is the global one and numbers do
not depend on how many devices hold the batch.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Num


def gae(
    rewards: Float[Array, "B R"],
    values: Float[Array, "B R"],
    mask: Bool[Array, "B R"],
    gamma: float,
    lam: float,
) -> tuple[Float[Array, "B R"], Float[Array, "B R"]]:
    """Advantages, not whitened, and returns (Schulman et al. 2016, equations 11 to 16).

    With r and v set to 0 outside `mask` (`rewards.value_mask`) and v_R = A_R = 0,

        δ_t = r_t + γ v_{t+1} − v_t            t = 0 … R−1
        A_t = δ_t + γ λ A_{t+1}                t = R−1 … 0
        returns_t = A_t + v_t

    so the last True slot bootstraps from 0, and both results are 0 outside the mask.
    """
    rewards = jnp.where(mask, rewards.astype(jnp.float32), 0.0)
    values = jnp.where(mask, values.astype(jnp.float32), 0.0)
    next_values = jnp.pad(values[:, 1:], ((0, 0), (0, 1)))
    deltas = rewards + gamma * next_values - values

    def step(advantage, delta):
        advantage = delta + gamma * lam * advantage
        return advantage, advantage

    # A sum keeps the layout of the rows, which an index loses where there is a single one.
    last = jnp.sum(jnp.zeros_like(deltas), axis=1)
    _, advantages = jax.lax.scan(step, last, deltas.T, reverse=True)
    return advantages.T, advantages.T + values


def reinforce(rewards: Float[Array, "P N"]) -> Float[Array, "P N"]:
    """REINFORCE (Williams 1992), whose baseline is the mean reward of all other responses of the batch.

        A_i = R_i − Σ_{j≠i} R_j / (B − 1),    B = P · N ≥ 2 responses to any prompts

    R_i is the reward of a whole response. Without itself in its baseline, a response's gradient has no bias.
    """
    return _left_out(rewards, jnp.sum(rewards.astype(jnp.float32)), rewards.size)


def rloo(rewards: Float[Array, "P N"]) -> Float[Array, "P N"]:
    """REINFORCE leave-one-out (Kool et al. 2019; Ahmadian et al. 2024).

        A_i = R_i − Σ_{j≠i} R_j / (N − 1)

    over the rewards R of N ≥ 2 whole responses to each of P prompts. A prompt's advantages add up to 0.
    """
    return _left_out(rewards, jnp.sum(rewards.astype(jnp.float32), axis=1, keepdims=True), rewards.shape[1])


def _left_out(rewards: Float[Array, "P N"], total: Float[Array, "#P #N"], count: int) -> Float[Array, "P N"]:
    return rewards - (total - rewards) / (count - 1)


def grpo(rewards: Float[Array, "P N"], divide_by_std: bool = True) -> Float[Array, "P N"]:
    """Group-relative advantages (GRPO: Shao et al. 2024).

        A_i = (R_i − mean R) / (std R + 1e-4)

    with mean and standard deviation over N ≥ 2 whole responses to one prompt. The paper does not say by what
    the variance divides; here it is N − 1, as in TRL and verl. `divide_by_std=False` leaves the numerator
    (Dr. GRPO: Liu et al. 2025): a prompt whose rewards hardly differ weighs no more than its rewards do.
    """
    rewards = rewards.astype(jnp.float32)
    above = rewards - jnp.mean(rewards, axis=1, keepdims=True)
    return above / (jnp.std(rewards, axis=1, keepdims=True, ddof=1) + 1e-4) if divide_by_std else above


def best_and_worst(rewards: Float[Array, "P N"]) -> Float[Array, "P N"]:
    """1 for the best of N ≥ 2 responses to one prompt, −1 for the worst, 0 for all others: the pairs of DPO.

    Of responses that tie the first one counts; where all do, there is no pair, and all are 0.
    """
    place = jnp.arange(rewards.shape[1])
    best, worst = (place == pick(rewards, axis=1)[:, None] for pick in (jnp.argmax, jnp.argmin))
    return best.astype(jnp.float32) - worst.astype(jnp.float32)


def masked_mean(
    x: Float[Array, "..."],
    mask: Num[Array, "..."],
    denominator: float | Num[Array, ""] | Num[Array, "B 1"] | None = None,
) -> Float[Array, ""]:
    """Sum of x where mask is not 0, over `denominator`: by default the number of such entries.

    With the whole batch's count as denominator, the results of its parts add up to its mean; with one of each
    row, its entries times the batch's rows, to its mean of row means.
    """
    selected = mask != 0
    counted = jnp.where(selected, x.astype(jnp.float32), 0.0)
    count = jnp.sum(selected) if denominator is None else denominator
    return jnp.sum(counted / count) if jnp.ndim(count) else jnp.sum(counted) / count


def masked_var(x: Float[Array, "..."], mask: Num[Array, "..."]) -> Float[Array, ""]:
    """Biased variance (divided by n, not n − 1) of x where mask is not 0."""
    return masked_mean(jnp.square(x - masked_mean(x, mask)), mask)


def whiten(x: Float[Array, "B R"], mask: Bool[Array, "B R"], shift_mean: bool = True) -> Float[Array, "B R"]:
    """(x − mean) · rsqrt(var + 1e-8) over the mask, 0 elsewhere.

    `shift_mean=False` adds the mean back: only the scale changes, as for rewards.
    """
    mean = masked_mean(x, mask)
    whitened = (x - mean) * jax.lax.rsqrt(masked_var(x, mask) + 1e-8)
    return jnp.where(mask, whitened if shift_mean else whitened + mean, 0.0)

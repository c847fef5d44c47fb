"""The paper's formulas in NumPy, float64 and plain loops: what the jax code must agree with.

Written for comparison, one row and one token at a time; nothing here is vectorized on purpose.
"""

import math

import numpy as np


def token_logprobs(logits, tokens, temperature):
    out = np.zeros(tokens.shape)
    for b, t in np.ndindex(*tokens.shape):
        scaled = [float(x) / temperature for x in logits[b, t]]
        top = max(scaled)
        normalizer = top + math.log(sum(math.exp(x - top) for x in scaled))
        out[b, t] = scaled[tokens[b, t]] - normalizer
    return out


def entropy(logits, temperature):
    out = np.zeros(logits.shape[:2])
    for b, t in np.ndindex(*out.shape):
        top = max(logits[b, t])
        weights = [math.exp((float(x) - top) / temperature) for x in logits[b, t]]
        for weight in weights:
            p = weight / sum(weights)
            if p > 0:
                out[b, t] -= p * math.log(p)
    return out


def response_mask(response, eos, pad):
    mask = np.zeros(response.shape, bool)
    for b, row in enumerate(response):
        for t, token in enumerate(row):
            if token == pad:
                break
            mask[b, t] = True
            if token == eos:
                break
    return mask


def value_mask(mask, score_at):
    out = mask.copy()
    for row in out:
        n = int(row.sum())
        if score_at == "after_eos" and n < len(row):
            row[n] = True
    return out


def rewards(score, logp, ref_logp, mask, kl_coef, score_at):
    """Per-token reward: −β(logp − logp_ref) through EOS, plus the score at its place."""
    out = np.zeros(mask.shape)
    for b, row in enumerate(mask):
        n = int(row.sum())
        for t in range(n):
            out[b, t] = -kl_coef * (logp[b, t] - ref_logp[b, t])
        place = n if score_at == "after_eos" and n < len(row) else n - 1
        out[b, place] += score[b]
    return out


def gae(rewards, values, mask, gamma, lam):
    """Advantages as the discounted sum of later TD errors, summed afresh for each token."""
    advantages, returns = np.zeros(mask.shape), np.zeros(mask.shape)
    for b, row in enumerate(mask):
        n = int(row.sum())
        value = [float(v) for v in values[b, :n]] + [0.0]
        delta = [rewards[b, t] + gamma * value[t + 1] - value[t] for t in range(n)]
        for t in range(n):
            advantages[b, t] = sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, n))
            returns[b, t] = advantages[b, t] + value[t]
    return advantages, returns


def rloo(rewards, samples):
    """Each reward less the mean of the others in its group, whose rows stand together."""
    out = np.zeros(len(rewards))
    for i in range(len(rewards)):
        first = i - i % samples
        others = [float(rewards[j]) for j in range(first, first + samples) if j != i]
        out[i] = float(rewards[i]) - sum(others) / len(others)
    return out


def grpo(rewards, samples, divide_by_std=True):
    """Each reward less its group's mean, in units of the group's standard deviation."""
    out = np.zeros(len(rewards))
    for first in range(0, len(rewards), samples):
        group = [float(x) for x in rewards[first : first + samples]]
        mean = sum(group) / samples
        std = math.sqrt(sum((x - mean) ** 2 for x in group) / (samples - 1))
        for i, x in enumerate(group):
            out[first + i] = (x - mean) / (std + 1e-4) if divide_by_std else x - mean
    return out


def whiten(x, mask, shift_mean=True):
    inside = [float(v) for v, m in zip(x.ravel(), mask.ravel(), strict=True) if m]
    mean = sum(inside) / len(inside)
    variance = sum((v - mean) ** 2 for v in inside) / len(inside)
    out = np.zeros(x.shape)
    for index in np.ndindex(*x.shape):
        if mask[index]:
            out[index] = (x[index] - mean) / math.sqrt(variance + 1e-8) + (0 if shift_mean else mean)
    return out


def preference_losses(logp, tokens, ref_logp, beta, smoothing, target):
    """Losses of DPO, IPO and SimPO of pairs whose log-probabilities [B, 2] are those of whole responses."""
    dpo = ipo = simpo = 0.0
    for (new1, new0), (n1, n0), (old1, old0) in zip(logp, tokens, ref_logp, strict=True):
        ahead = (float(new1) - float(old1)) - (float(new0) - float(old0))
        p = 1 / (1 + math.exp(-beta * ahead))
        dpo -= (1 - smoothing) * math.log(p) + smoothing * math.log(1 - p)
        each = (float(new1) - float(old1)) / n1 - (float(new0) - float(old0)) / n0
        ipo += (each - 1 / (2 * beta)) ** 2
        simpo += math.log1p(math.exp(target - beta * (float(new1) / n1 - float(new0) / n0)))
    return dpo / len(logp), ipo / len(logp), simpo / len(logp)


def policy_loss(logp, old_logp, advantages, mask, clip):
    """Loss, clipfrac, approxkl, mean ratio, mean squared distance of the ratio from 1."""
    rows = []
    for index in np.ndindex(*mask.shape):
        if mask[index]:
            change = float(logp[index]) - float(old_logp[index])
            ratio, a = math.exp(change), float(advantages[index])
            plain = -a * ratio
            clipped = -a * min(max(ratio, 1 - clip), 1 + clip)
            rows.append([max(plain, clipped), clipped > plain, change**2 / 2, ratio, (ratio - 1) ** 2])
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def value_loss(values, old_values, returns, mask, clip):
    """Loss, clipfrac."""
    rows = []
    for index in np.ndindex(*mask.shape):
        if mask[index]:
            v, old, target = float(values[index]), float(old_values[index]), float(returns[index])
            kept = min(max(v, old - clip), old + clip)
            plain, clipped = (v - target) ** 2, (kept - target) ** 2
            rows.append([0.5 * max(plain, clipped), clipped > plain])
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def bradley_terry(chosen, rejected):
    """Loss, accuracy."""
    pairs = list(zip(chosen.tolist(), rejected.tolist(), strict=True))
    loss = sum(math.log(1 + math.exp(r - c)) for c, r in pairs) / len(pairs)
    return loss, sum(c > r for c, r in pairs) / len(pairs)

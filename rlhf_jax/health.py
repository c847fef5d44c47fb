"""Signs in PPO's metrics that something is wrong, with the usual causes."""

from rlhf_jax.config import PpoConfig


def warnings(metrics: dict[str, float], options: PpoConfig) -> list[str]:
    """What is wrong with an iteration, one line each; `metrics` are those of `ppo.iteration`.

    A KL divergence cannot be negative; its estimate from samples can, by chance, so the mean must
    lie 3 standard errors below 0.
    """
    found = []
    kl, stderr, score = (metrics[f"objective/{name}"] for name in ("kl", "kl_stderr", "score"))
    if kl < -3 * stderr:
        found.append(
            f"objective/kl is {kl:.3g} ± {stderr:.2g} nats, which no KL divergence can be, and the penalty "
            "rewards it. Usual causes: sampling differs from the log-probabilities (temperature, top-k, "
            "top-p, a forbidden EOS); policy and reference read padding or positions differently; tokens "
            "after EOS are counted; the policy's log-probabilities are those of older weights"
        )
    if options.no_eos == "replace" and score < options.no_eos_score:
        found.append(
            f"objective/score is {score:.3g}, below ppo.no_eos_score {options.no_eos_score:g}: a response "
            "that never ends scores better than one that does. Usual causes: the reward model was not "
            "shifted to give references 0 on average; its scores are larger than of order 1, so "
            "ppo.no_eos_score should be lower; the policy has left the texts that the reward model knows"
        )
    return found

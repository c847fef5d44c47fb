"""Signs in a training's metrics that something is wrong, with the usual causes; the end of a hopeless one."""

import math
from collections.abc import Callable

from etils.epath import Path

from rlhf_jax.config import HealthConfig, PpoConfig
from rlhf_jax.run import checkpoint

Metrics = dict[str, float]  # of one step
Signs = dict[str, str]  # one line for each thing that is wrong, by its name

REPEAT = 100  # steps after which a sign that stays is told again
GONE = 10  # steps without a sign after which it is news again
FIXED_ENTROPY = 1e-3  # nats a token; the miniature's policy, whose task has one good answer, ends at 5e-3
ENDLESS = 0.5  # share of responses without EOS


class TrainingError(ValueError):
    """A training that cannot recover; the message says where it was last healthy."""


def no_signs(metrics: Metrics) -> Signs:
    """Of a training that has none of its own."""
    return {}


class Watch:
    """What a step's metrics say that people should hear; a sign that stays is not told at every step."""

    def __init__(
        self,
        folder: Path,
        options: HealthConfig,
        updates: int = 1,
        signs: Callable[[Metrics], Signs] = no_signs,
    ) -> None:
        """Of the training whose checkpoints are in `folder`, with so many `updates` a step."""
        self._folder, self._options, self._updates, self._signs = folder, options, updates, signs
        self._seen: dict[str, int] = {}  # the last step with a sign
        self._told: dict[str, int] = {}  # the last step it was told at

    def __call__(self, step: int, metrics: Metrics) -> list[str]:
        """Lines to write after a step. Raises TrainingError where too many went by without an update."""
        idle = int(metrics["skipped_in_a_row"]) // self._updates
        if idle >= self._options.patience:
            raise TrainingError(self._end(step, idle, metrics))
        signs = skip_signs(metrics) | self._signs(metrics)
        news = [line for name, line in signs.items() if self._is_news(name, step)]
        self._seen |= dict.fromkeys(signs, step)
        return news

    def _is_news(self, name: str, step: int) -> bool:
        if name in self._seen and step - self._seen[name] <= GONE and step - self._told[name] < REPEAT:
            return False
        self._told[name] = step
        return True

    def _end(self, step: int, idle: int, metrics: Metrics) -> str:
        healthy = step - idle
        checkpoint.wait_for_saves()
        whole = checkpoint.latest_step(self._folder, until=healthy + 1)
        return (
            f"{self._folder.name} cannot recover: no update in the {idle} steps to {step} (health.patience). "
            f"Last healthy step: {healthy if healthy >= 0 else 'none'}; newest whole checkpoint up to it: "
            f"{self._folder / str(whole) if whole else 'none'}. {_cause(metrics)}"
        )


def skip_signs(metrics: Metrics) -> Signs:
    """Of any training: updates that were skipped."""
    if not metrics["skipped"]:
        return {}
    count = f"{metrics['skipped']:.0f} skipped, which left parameters and optimizer as they were"
    return {"skipped": f"updates: {count}. {_cause(metrics)}"}


def _cause(metrics: Metrics) -> str:
    """Why updates are skipped, judged by the metrics of the step."""
    wrong = [name for name, value in metrics.items() if not math.isfinite(value)]
    if "objective/score" in wrong:
        return (
            "The reward model gives a score that is not finite, and with it the whole iteration. Usual "
            "causes: bfloat16 overflows in it (model.dtype=float32 tells); it was exported or copied broken"
        )
    if wrong:
        return (
            f"Not finite: {', '.join(wrong)}. Usual causes: a learning rate too high, or without warm-up "
            "and clip_norm; bfloat16 overflows (model.dtype=float32 tells); a base model with broken weights"
        )
    return (
        "Loss or gradient norm lies health.spike_sigma above those before. Usual causes: a learning rate "
        "too high; data unlike the rest; a limit so tight that training itself passes it"
    )


def ppo_signs(metrics: Metrics, options: PpoConfig, usual_scores: tuple[float, float]) -> Signs:
    """What is wrong with an iteration of PPO; `metrics` are those of `ppo.iteration`.

    `usual_scores` are the 1st and 99th percentile of what the reward model gives to responses it was
    trained on: a mean beyond them is a policy where it knows nothing. A KL divergence cannot be
    negative; its estimate from samples can, by chance, so the mean must lie 3 standard errors below 0.
    """
    signs = {}
    kl, stderr, score, eos = (
        metrics[f"objective/{name}"] for name in ("kl", "kl_stderr", "score", "eos_rate")
    )
    entropy, (low, high) = metrics["policy/entropy"], usual_scores
    if kl < -3 * stderr:
        signs["negative KL"] = (
            f"objective/kl is {kl:.3g} ± {stderr:.2g} nats, which no KL divergence can be, and the penalty "
            "rewards it. Usual causes: sampling differs from the log-probabilities (temperature, "
            "a forbidden EOS); policy and reference read padding or positions differently; tokens "
            "after EOS are counted; the policy's log-probabilities are those of older weights"
        )
    if options.no_eos == "replace" and score < options.no_eos_score:
        signs["low score"] = (
            f"objective/score is {score:.3g}, below ppo.no_eos_score {options.no_eos_score:g}: a response "
            "that never ends scores better than one that does. Usual causes: the reward model was not "
            "shifted to give references 0 on average; its scores, or those of a reward of your own, are "
            "larger than of order 1, so ppo.no_eos_score should be lower; the policy has left the texts that "
            "the reward model knows"
        )
    if not low <= score <= high and math.isfinite(score):
        signs["unusual score"] = (
            f"objective/score is {score:.3g}, outside of {low:.3g} to {high:.3g}, where 98% of the responses "
            "lie that the reward model was trained on: it judges what it has not seen. Usual causes: the "
            "policy exploits it (read the samples; raise ppo.kl_coef, or train for fewer ppo.episodes); "
            "the prompts or lengths differ from those it was trained on"
        )
    if entropy < FIXED_ENTROPY:
        signs["collapsed entropy"] = (
            f"policy/entropy is {entropy:.2g} nats a token: samples no longer differ, so there is nothing to "
            "learn from. Usual causes: ppo.kl_coef too low or the learning rate too high; too many "
            "ppo.epochs; a ppo.temperature near 0; a reward model that likes one phrase"
        )
    if 1 - eos > ENDLESS:
        signs["no EOS"] = (
            f"objective/eos_rate is {eos:.2g}: most responses never end. Usual causes: the reward model "
            "likes length; ppo.no_eos_score is higher than what ending earns, or ppo.no_eos is none; "
            "data.response_tokens is too short for the responses that stage sft learned"
        )
    return signs

"""What policies write of unseen posts: how far from the SFT policy, whom it pleases, what is wrong in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from rlhf_jax.config import ConfigError
from rlhf_jax.data.records import Record
from rlhf_jax.evaluation import best_of_n
from rlhf_jax.evaluation.intervals import Estimate, mean
from rlhf_jax.evaluation.judges import gold_scores
from rlhf_jax.evaluation.preference import outcomes
from rlhf_jax.experiments.command import Opened
from rlhf_jax.files import read_object, write_json
from rlhf_jax.inference import Network

# "reward model", "gold judge" → a score of every summary; "people" → 1 where they prefer it to the reference
Scores = dict[str, np.ndarray]


@dataclass(frozen=True)
class Written:
    """What a policy, or best-of-N, writes of P posts. Of each M summaries were looked at, of a policy one."""

    posts: Sequence[Record]
    texts: Sequence[str]  # one of each post
    kl: Float[np.ndarray, "P"]  # from the SFT policy, in nats
    verdicts: Scores  # [P, M]
    weights: Float[np.ndarray, "P M"]  # how likely each of the M is the one that is written


class Pool(NamedTuple):
    """M samples of the SFT policy of each of P posts."""

    posts: Sequence[Record]
    texts: Sequence[Sequence[str]]
    verdicts: Scores  # [P, M]


def scores_of(run: Opened, posts: Sequence[Record], texts: Sequence[str]) -> Scores:
    """What the reward model and, where there is one, the gold judge give every summary."""
    scores = {"reward model": run.score(posts, texts)}
    if judge := run.task.judge:
        scores["gold judge"] = gold_scores(judge, posts, texts)
    return scores


def verdicts_of(run: Opened, posts: Sequence[Record], texts: Sequence[str]) -> Scores:
    """The same, and which summaries people prefer to the reference, where there are people to ask."""
    references = [post.reference for post in posts]
    asked = {who: judge(posts, texts, references) for who, judge in run.truths.items() if who == "people"}
    return scores_of(run, posts, texts) | asked


def by_policy(run: Opened, policy: Network, posts: Sequence[Record]) -> Written:
    """One sample of each post at `eval.temperature`, as the run's own reward model finds it."""
    texts, kl = policy.samples_with_kl(
        run.network("sft"), posts, run.config.eval.temperature, run.config.seed
    )
    verdicts = {who: given[:, None] for who, given in verdicts_of(run, posts, texts).items()}
    return Written(posts, texts, kl, verdicts, np.ones((len(posts), 1)))


def pool_of(run: Opened, posts: Sequence[Record], count: int) -> Pool:
    """`count` samples of each post, kept on disk once they are made."""
    file = run.workdir / "best_of_n" / f"pool_{len(posts)}x{count}.json"
    if not file.exists():
        texts = run.network("sft").samples(posts, count, run.config.eval.temperature, run.config.seed)
        repeated = [post for post in posts for _ in range(count)]
        verdicts = verdicts_of(run, repeated, [text for some in texts for text in some])
        kept = {who: given.reshape(len(posts), count).tolist() for who, given in verdicts.items()}
        write_json(file, {"texts": texts, "verdicts": kept})
    made = read_object(file, ConfigError)
    return Pool(posts, made["texts"], {who: np.array(given) for who, given in made["verdicts"].items()})


def by_best_of_n(pool: Pool, n: int) -> Written:
    """The best of `n` by the reward model, as the pool tells; its texts are one draw."""
    rewards = pool.verdicts["reward model"]
    weights = np.array([best_of_n.weights(scores, n) for scores in rewards])
    rng = np.random.default_rng(0)
    drawn = [rng.choice(len(each), p=each / each.sum()) for each in weights]
    texts = [some[i] for some, i in zip(pool.texts, drawn, strict=True)]
    kl = np.array([best_of_n.measured_kl(scores, n) for scores in rewards])
    return Written(pool.posts, texts, kl, pool.verdicts, weights)


def figures_of(run: Opened, written: Written, references: Scores) -> dict[str, Any]:
    """KL, scores, preference, errors, and the share of different summaries."""
    return (
        {"kl": mean(written.kl)}
        | told(written.verdicts, references, written.weights)
        | {"errors": errors(run, written.posts, written.texts)}
        | {"distinct": len({" ".join(text.split()) for text in written.texts}) / len(written.texts)}
    )


def told(scores: Scores, references: Scores, weights: np.ndarray) -> dict[str, dict[str, Estimate]]:
    """Mean scores and rates of preference of M summaries a post, whose `weights` [P, M] add up to 1."""
    figures: dict[str, dict[str, Estimate]] = {"score": {}, "preference": {}}
    for who, values in scores.items():
        won = values
        if who != "people":
            figures["score"][who] = mean((weights * values).sum(axis=1))
            won = outcomes(values, references[who][: len(values), None])
        figures["preference"][who] = mean((weights * won).sum(axis=1))
    return figures


def errors(run: Opened, posts: Sequence[Record], texts: Sequence[str]) -> dict[str, Estimate]:
    """Kind → the share of summaries in which the task finds such an error."""
    found = [run.task.errors(post, text) for post, text in zip(posts, texts, strict=True)]
    return {kind: mean([one[kind] for one in found]) for kind in found[0]}

"""Rewards of one's own: what the rewards of `ppo.reward` give to responses, each by its name, and their sum.

Functions and servers are asked on the host, by process 0 alone, and all processes learn what they gave: so no
number depends on how many there are. The reward model, where it is one of them, is read on the devices.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self

import numpy as np
from jaxtyping import Float

from rlhf_jax.config import MODEL, PpoConfig
from rlhf_jax.data.record_json import to_json
from rlhf_jax.data.records import Record
from rlhf_jax.data.task import Task
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.evaluation.scorer_process import ScorerError, is_address
from rlhf_jax.evaluation.scorers import Scorer
from rlhf_jax.inference import Network
from rlhf_jax.mesh import to_host
from rlhf_jax.pipeline.rollout import Sampled
from rlhf_jax.run import hosts

Rewards = dict[str, Float[np.ndarray, "*any"]]  # name → a number for each response


class RewardError(ValueError):
    """A reward of one's own that gave no numbers; the message names it."""


class OwnReward:
    """The rewards of a configuration; within `with`, the processes of functions and servers run."""

    def __init__(self, options: PpoConfig, task: Task) -> None:
        self._options, self._task = options, task
        self._scorers = {
            name: Scorer(place, options.reward_timeout)
            for name, (place, _) in options.rewards.items()
            if place != MODEL
        }

    def __enter__(self) -> Self:
        """Raises RewardError where a function cannot be loaded."""
        with ExitStack() as opened:
            try:
                for scorer in self._scorers.values() if hosts.is_first() else ():
                    opened.enter_context(scorer)
            except ScorerError as error:
                raise RewardError(f"ppo.reward: {error}") from None
            self._end = opened.pop_all()
        return self

    def __exit__(self, *error) -> None:
        self._end.__exit__(*error)

    def of(
        self,
        records: Sequence[Record],
        responses: Sequence[str],
        by_model: Float[np.ndarray, "B"] | None,
        seed: str,
    ) -> Rewards:
        """What each reward gives to one response a record, in the order of `ppo.reward`.

        `by_model` is what the reward model gave, None where it is none of them. Chance is drawn from `seed`.
        Raises RewardError, on every process, where a reward gives no numbers.
        """
        longest = sum(scorer.longest for scorer in self._scorers.values())
        told = hosts.from_first(
            "the rewards", lambda: self._ask(records, responses, seed), hosts.BARRIER_SECONDS + longest
        )
        if isinstance(told, str):
            raise RewardError(told)
        given = {name: np.asarray(values, np.float32) for name, values in told.items()}
        if by_model is not None:
            given[MODEL] = by_model
        return {name: given[name] for name in self._options.rewards}

    def of_each(
        self, records: Sequence[Record], responses: Sequence[Sequence[str]], reward: Network | None, seed: str
    ) -> dict[str, Float[np.ndarray, "M N"]]:
        """The same of N responses to each of M records; `reward` is the reward model, if there is one.

        They are asked about in batches as large as PPO's, for which the time limit is meant.
        """
        count, size = len(responses[0]), self._options.batch_size
        by_model = reward.scores(records, responses).ravel() if reward else None
        repeated = [record for record in records for _ in range(count)]
        texts = [text for own in responses for text in own]
        parts = [
            self.of(repeated[part], texts[part], None if by_model is None else by_model[part], f"{seed}/{i}")
            for i in range(0, len(texts), size)
            for part in [slice(i, i + size)]
        ]
        return {name: np.concatenate([part[name] for part in parts]).reshape(-1, count) for name in parts[0]}

    def _ask(self, records: Sequence[Record], responses: Sequence[str], seed: str) -> dict[str, list] | str:
        """What the functions and servers gave, or what went wrong, as JSON holds it."""
        prompts = [self._task.prompt(record).text for record in records]
        rows = list(map(row_of, records))
        given = {}
        try:
            for name, scorer in self._scorers.items():
                given[name] = scorer(prompts, responses, rows, seed).tolist()
        except ScorerError as error:
            return str(error)
        return given

    def total(self, each: Rewards) -> Float[np.ndarray, "*any"]:
        """The weighted sum, a response's score."""
        weights = {name: weight for name, (_, weight) in self._options.rewards.items()}
        weighted = [weights[name] * values.astype(np.float64) for name, values in each.items()]
        return np.sum(weighted, axis=0).astype(np.float32)


def on_host(
    sampled: Sampled, task: Task, tokenizer: Tokenizer
) -> tuple[list[str], Float[np.ndarray, "B"] | None]:
    """The texts of sampled responses, and what the reward model gave to each, on every process."""
    texts = [task.text(tokenizer.decode(response)) for response in to_host(sampled.response)]
    return texts, None if sampled.score is None else to_host(sampled.score)


def row_of(record: Record) -> dict[str, Any]:
    """What a row of the data holds, by the names that it has there; its reference as `reference`, too."""
    return to_json(record) | {"reference": record.reference}


def metrics(each: Mapping[str, Float[np.ndarray, "B"]]) -> dict[str, float]:
    """Mean and standard deviation of each reward, before its weight."""
    found: dict[str, float] = {}
    for name, values in each.items():
        found |= {f"rewards/{name}/mean": float(values.mean()), f"rewards/{name}/std": float(values.std())}
    return found


def check(options: PpoConfig) -> None:
    """Loads every function once, without JAX. Raises RewardError where that fails; servers are not asked."""
    for place, _ in options.rewards.values():
        if place != MODEL and not is_address(place):
            try:
                with Scorer(place, options.reward_timeout):
                    pass
            except ScorerError as error:
                raise RewardError(f"ppo.reward: {error}") from None

"""Who responds: the policies of a run, and texts that cost nothing."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from rlhf_jax import inference
from rlhf_jax.config import Config
from rlhf_jax.data.records import Record
from rlhf_jax.data.task import Task
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.data.visible import has_text
from rlhf_jax.inference import Network
from rlhf_jax.model import pretrained
from rlhf_jax.run import checkpoint

REFERENCE = "reference"  # people's own responses
Score = Callable[[Sequence[Record], Sequence[Sequence[str]]], np.ndarray]  # rewards [M, N] of N texts each


def responses(
    config: Config,
    workdir: Path,
    task: Task,
    tokenizer: Tokenizer,
    records: Sequence[Record],
    examples: Sequence[Record],
    score: Score,
) -> tuple[dict[str, list[str]], dict[str, float]]:
    """Name → a response to every record, greedy but for best-of-N. Needs a mesh set.

    The names are REFERENCE, the baselines of the task, "base", the policies of the run, and "best_of_N" of
    the SFT policy. `examples` stand in the base model's prompt; best-of-N chooses by `score`. Beside them,
    for networks, the mean negative log-likelihood of a reference, in nats: the base model's is without
    examples. Records have references, or none of them has.
    """
    for needed in ("sft", *config.policies):  # told before hours of writing
        checkpoint.require(workdir, needed)
    names = inference.policies_of(workdir)
    references = [record.reference for record in records] if has_text(records[0].reference) else []
    written = ({REFERENCE: references} if references else {}) | task.baselines(records, tokenizer)
    nats: dict[str, float] = {}

    def surprise(name: str, network: Network) -> dict[str, float]:
        return {name: -float(network.log_likelihood(records, references).mean())} if references else {}

    if config.model.pretrained:
        base = inference.load(pretrained.folder_of(config.model.pretrained), config=config, task=task)
        written["base"] = base.on(task.few_shot(examples)).write(records)
        nats |= surprise("base", base)
        del base
    for name in names:
        policy = inference.load(workdir, name, config=config)
        written[name] = policy.write(records)
        nats |= surprise(name, policy)
        del policy  # two of them may be more than there is room for
    sft = inference.load(workdir, "sft", config=config)
    best = best_of_n(sft, records, config.eval.best_of, config.eval.temperature, config.seed, score)
    return written | {f"best_of_{config.eval.best_of}": best}, nats


def best_of_n(
    policy: Network, records: Sequence[Record], count: int, temperature: float, seed: int, score: Score
) -> list[str]:
    """Of `count` samples of the policy for each record, the one that scores best."""
    samples = policy.samples(records, count, temperature, seed)
    best = score(records, samples).argmax(axis=1)
    return [texts[k] for texts, k in zip(samples, best, strict=True)]

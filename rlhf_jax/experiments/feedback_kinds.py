"""Kinds of human feedback: what an answer costs, what simulated people say, and what is trained on it.

All kinds are about the same posts and the same summaries: those of a run's comparisons. What people say is
put into a form that the pipeline reads, so that every kind is trained by the same stages:

comparison     comparisons, as the labelers answered them
nine_point     the same, whose reward model also learns how sure they were (`reward.loss=confidence`)
rating         both summaries of a comparison rated by themselves, 1 to 7: the reward model regresses on
               the ratings (`reward.loss=ratings`); its scores are points, and weigh against the KL penalty as
               the others' log-odds do
demonstration  posts with the summary of a hired author, on which the supervised policy is fine-tuned
edit           comparisons of a policy's summary with what the editor made of it, which is preferred
edit_target    the same edits as demonstrations
explanation    comparisons of a policy's summary with the same where the sentence that was called wrong says
               what the explanation says instead, which is preferred: the summaries differ in one claim,
               and so the reward model learns which claims are true
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from rlhf_jax.config import ConfigError
from rlhf_jax.data.mini import explanations
from rlhf_jax.data.mini.editor import revised
from rlhf_jax.data.mini.judge import story_of
from rlhf_jax.data.mini.labelers import rate
from rlhf_jax.data.mini.posts import HIRED, write_reference
from rlhf_jax.data.records import Comparison, Record, Summary, answered


class Price(NamedTuple):
    """Seconds of a labeler's work for an answer, and where the number comes from."""

    seconds: float
    source: str


# What was measured is the work on passages of books. Posts are shorter, so that hours are those of such
# texts; how much dearer one kind is than another counts here. It fits Stiennon et al. (2020, §5), whose
# 64,832 comparisons took "thousands of labeler hours": two thousand are 111 seconds each. Nobody has timed
# all kinds on one text.
BOOKS = "Wu et al. (2021), *Recursively Summarizing Books with Human Feedback*, appendix E.1"
READ = "2.5 minutes to read"
PRICES = {
    "comparison": Price(240, f"{BOOKS}: {READ}, 1.5 to compare"),
    "nine_point": Price(240, "a guess: a scale takes no longer than two buttons"),
    "rating": Price(195, f"a guess: {READ}, half of a comparison's 1.5 for one summary of two"),
    "demonstration": Price(390, f"{BOOKS}: {READ}, 4 to write"),
    "edit": Price(270, f"a guess: {READ}, half of the 4 in which one is written"),
    "explanation": Price(240, f"a guess: {READ}, 1.5 to mark what is wrong and say what is right"),
}


@dataclass(frozen=True)
class Material:
    """What people can be asked about: the comparisons to train on of a run, with their answers, and posts."""

    comparisons: Sequence[Comparison]
    posts: Sequence[Record]
    seed: int

    @cached_property
    def written(self) -> list[tuple[Record, Summary]]:
        """The summaries of policies, each once: neither references nor what an editor made."""
        found = {
            (one.info.id, summary.text): (one.info, summary)
            for one in self.comparisons
            for summary in one.summaries
            if summary.policy not in ("ref", "editor")
        }
        return list(found.values())


Answers = list[Comparison] | list[Record]


def compared(material: Material, count: int) -> list[Comparison]:
    return list(_first(material.comparisons, count))


def rated(material: Material, count: int) -> list[Comparison]:
    """Of both summaries of each, one rating less where the count is odd; the higher rated is preferred."""
    asked = _first(material.comparisons, count // 2)
    texts = [(one.info, summary.text) for one in asked for summary in one.summaries]
    given = rate(texts, material.seed)
    pairs = zip(asked, given[::2], given[1::2], strict=True)
    return [replace(one, choice=int(b > a), worker="", extra={"ratings": [a, b]}) for one, a, b in pairs]


def demonstrated(material: Material, count: int) -> list[Record]:
    """Posts in random order, which come again where there are fewer than asked for."""
    rng = np.random.default_rng([material.seed, 2])
    turns = [i for _ in range(-(-count // len(material.posts))) for i in rng.permutation(len(material.posts))]
    posts = [material.posts[i] for i in turns[:count]]
    return [answered(post, write_reference(story_of(post), rng, HIRED)) for post in posts]


def edited(material: Material, count: int) -> list[Comparison]:
    """Fewer than `count`, as the editor leaves some summaries as they are."""
    edits = _edits(material, count)
    return [_better(info, text, old) for info, old, text in edits if text.strip() != old.text.strip()]


def edit_targets(material: Material, count: int) -> list[Record]:
    return [answered(info, text) for info, _, text in _edits(material, count)]


def explained(material: Material, count: int) -> list[Comparison]:
    """Fewer than `count`, as nothing seems wrong with some summaries."""
    rng = np.random.default_rng([material.seed, 4])
    found = []
    for info, summary in _first(material.written, count):
        if (said := explanations.explain(info, summary.text, rng)) is not None:
            better = _better(info, explanations.repaired(summary.text, said), summary)
            found.append(replace(better, extra={"kind": said.kind}))
    return found


def _edits(material: Material, count: int) -> list[tuple[Record, Summary, str]]:
    rng = np.random.default_rng([material.seed, 3])
    asked = _first(material.written, count)
    return [(info, summary, revised(info, summary.text, rng)) for info, summary in asked]


def _better(info: Record, text: str, summary: Summary) -> Comparison:
    """That `text` was made of a summary to be better."""
    return Comparison(info, (Summary(text, "edit"), summary), 0, "", "feedback", "train")


def _first(found: Sequence, count: int) -> Sequence:
    if count > len(found):
        raise ConfigError(
            f"--budgets: the largest asks about {count:,} of what the run has {len(found):,} of, comparisons "
            "or summaries: lower it, or take a run with more data.mini_pairs"
        )
    return found[:count]


@dataclass(frozen=True)
class Kind:
    """A row of the table: what is paid, what is asked and which loss learns from it."""

    price: str  # of PRICES
    ask: Callable[[Material, int], Answers]
    loss: str = "choice"  # reward.loss; "" where the policy learns from the answers directly


KINDS: Mapping[str, Kind] = {
    "comparison": Kind("comparison", compared),
    "nine_point": Kind("nine_point", compared, "confidence"),
    "rating": Kind("rating", rated, "ratings"),
    "demonstration": Kind("demonstration", demonstrated, ""),
    "edit": Kind("edit", edited),
    "edit_target": Kind("edit", edit_targets, ""),
    "explanation": Kind("explanation", explained),
}


def prices_of(given: Sequence[str]) -> dict[str, float]:
    """PRICES in seconds, changed by a list of such as comparison:30. Raises ConfigError naming --seconds."""
    prices = {name: price.seconds for name, price in PRICES.items()}
    for one in given:
        name, _, seconds = one.partition(":")
        try:
            value = float(seconds)
        except ValueError:
            value = 0.0
        if name not in prices or not 0 < value < float("inf"):
            raise ConfigError(
                f"--seconds: {one!r} should be one of {', '.join(prices)} and seconds above 0, such as "
                "comparison:30"
            )
        prices[name] = value
    return prices

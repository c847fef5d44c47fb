"""Expert ratings of news summaries, turned into comparisons.

    rlhf-jax ratings --ratings=FOLDER --out=FOLDER [--gap=0.5]

--ratings=FOLDER  of *.jsonl files, a rated article a line: {id, article, systems: {name: {text,
                  scores: {coherence, consistency, fluency, relevance}}}}, the numbers of SummEval
                  and Newsroom for example; scores may have other names
--out=FOLDER      gets a file of comparison records for each of them
--gap=0.5         least difference of mean scores

A record is made of every two systems on one article whose mean scores differ by at least the gap;
the higher mean is chosen. The articles are split 80 / 10 / 10 into train, valid1 and valid2.
"""

import json
import math
import sys
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from statistics import fmean

from absl import flags

from rlhf_jax.command_line import command, parse_flags
from rlhf_jax.data.record_json import from_json, read_jsonl, write_jsonl
from rlhf_jax.data.records import Article, Comparison, RecordError, Summary


@dataclass(frozen=True)
class RatedArticle:
    """An article and, by name of system, an object with its summary's text and scores."""

    id: str
    article: str
    systems: dict
    extra: dict = field(default_factory=dict)


@dataclass(frozen=True)
class ScoredSummary:
    """One system's summary; `scores` are the experts' mean ratings by axis, 1–5."""

    text: str
    scores: dict
    extra: dict = field(default_factory=dict)


def comparisons_of(ratings: str | Path, gap: float = 0.5) -> dict[str, list[Comparison]]:
    """The comparisons of every ratings file of a folder, by file name."""
    paths = sorted(Path(ratings).glob("*.jsonl"))
    if not paths:
        raise RecordError(f"{ratings}: no *.jsonl files of ratings there")
    found = {}
    for path in paths:
        articles = read_jsonl(path, partial(compare, site=path.stem, gap=gap))
        found[path.name] = [comparison for article in articles for comparison in article]
    return found


def compare(record: dict, site: str, gap: float) -> list[Comparison]:
    """The comparisons between the systems of one rated article; each text counts once.

    `extra` keeps the two mean scores. Which summary stands first is drawn from a hash.
    """
    rated = from_json(RatedArticle, record)
    info = Article(rated.id, site, "", rated.article)
    split = split_of(rated.id)
    texts: dict[str, str] = {}
    means: dict[str, float] = {}
    comparisons = []
    for name, value in sorted(rated.systems.items()):
        summary = from_json(ScoredSummary, value, f"systems.{name}")
        if summary.text not in texts.values():
            texts[name], means[name] = summary.text, _mean(summary.scores, f"systems.{name}.scores")
    for pair in combinations(texts, 2):
        first, second = pair if _hash(rated.id, *pair) % 2 else reversed(pair)
        difference = means[second] - means[first]
        if abs(difference) >= gap - 1e-9:  # means of thirds are inexact
            summaries = (Summary(texts[first], first), Summary(texts[second], second))
            scores = {"scores": [means[first], means[second]]}
            choice = int(difference > 0)
            comparisons.append(Comparison(info, summaries, choice, "experts", site, split, scores))
    return comparisons


def split_of(article_id: str) -> str:
    """train (8 of 10), valid1 or valid2, from a hash of the article's id."""
    return {8: "valid1", 9: "valid2"}.get(_hash(article_id) % 10, "train")


def _mean(scores: dict, where: str) -> float:
    if not scores:
        raise RecordError(f"field {where} should hold at least one number")
    for axis, score in scores.items():
        if type(score) not in (int, float) or not abs(score) <= sys.float_info.max:
            raise RecordError(f"field {where}.{axis} should be a number, not {json.dumps(score)}")
    return fmean(scores.values())


def _hash(*names: str) -> int:
    return int.from_bytes(sha256("\n".join(names).encode()).digest()[:8], "big")


def main(argv: list[str]) -> int:
    def run() -> None:
        options = _parse(argv)
        for name, comparisons in comparisons_of(options.ratings, options.gap).items():
            file = Path(options.out) / name
            write_jsonl(file, comparisons)
            print(f"{file}: {len(comparisons):,} comparisons")

    return command(argv, run)


def _parse(argv: list[str]) -> flags.FlagValues:
    options = flags.FlagValues()
    flags.DEFINE_string("ratings", None, "folder of rated articles", required=True, flag_values=options)
    flags.DEFINE_string("out", None, "folder for the comparisons", required=True, flag_values=options)
    flags.DEFINE_float("gap", 0.5, "least difference of mean scores", flag_values=options)
    parse_flags(argv, options)
    if not 0 < options.gap < math.inf:
        raise flags.Error(f"--gap: {options.gap} should be above 0, or ties would be preferences")
    return options

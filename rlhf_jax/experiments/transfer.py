"""Policy and reward model trained on posts, applied to news as they are (Stiennon et al. 2020, §4.2).

    rlhf-jax transfer --workdir=runs/mini
    rlhf-jax transfer --workdir=runs/tldr --articles=tfds:FOLDER --ratings=FOLDER

--workdir=FOLDER   a run with all stages finished
--articles=SOURCE  CNN/DM, see rlhf_jax/data/tasks/cnndm.py; the miniature has news of its own
--ratings=FOLDER   experts' ratings of news summaries, as rlhf-jax ratings reads them
--count=N          (500) unseen articles that every policy summarizes
--train=N          (12000) articles that the supervised news policy learns from
--query_tokens=N   of an article; without it those of the run, in the miniature 80

Beside them stand the best of some samples of SFT by the reward model, the first three sentences, the title
where there is one, the highlights, and a policy that was fine-tuned on news from the same base, with the
settings of stage sft. It is told whom simulated people and the gold judge prefer, where the task has them;
elsewhere the reward model, which transfers itself and is held to the experts' ratings.

Departure from the paper: the supervised policy reads the same query as the others, not one of its own.
The figures are `<workdir>/transfer.json` and .png; the supervised policy lies in `<workdir>/transfer/`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from absl import flags

from rlhf_jax.config import ConfigError
from rlhf_jax.data.batches import SftPlan
from rlhf_jax.data.comparisons import comparisons_of_run, pairs_of
from rlhf_jax.data.news_ratings import comparisons_of
from rlhf_jax.data.records import Record, with_reference
from rlhf_jax.data.tasks.cnndm import Cnndm
from rlhf_jax.data.tasks.mini import Mini
from rlhf_jax.data.tasks.mini_news import MiniNews
from rlhf_jax.evaluation.choices import agreement, countable
from rlhf_jax.evaluation.intervals import Estimate, mean
from rlhf_jax.evaluation.judges import by_score, gold_scores
from rlhf_jax.evaluation.policies import best_of_n
from rlhf_jax.experiments.command import Opened, command, write_figures
from rlhf_jax.pipeline import sft
from rlhf_jax.report.paper_figures import transfer_figure

MINI_QUERY_TOKENS = 80
MIN_GAP = 0.6  # of the gold judge's ratings; closer pairs are no test


def main(argv: list[str]) -> int:
    options = flags.FlagValues()
    flags.DEFINE_string("articles", "", "where the news is", flag_values=options)
    flags.DEFINE_string("ratings", "", "folder of experts' ratings", flag_values=options)
    flags.DEFINE_integer("count", 500, "unseen articles", 1, flag_values=options)
    flags.DEFINE_integer("train", 12_000, "articles to train on", 1, flag_values=options)
    flags.DEFINE_integer("query_tokens", None, "of an article", 1, flag_values=options)

    def measure_and_draw(run: Opened) -> None:
        wanted = {"test": options.count, "train": options.train}
        on_news = on_the_news(run, options.articles, options.query_tokens, wanted)
        articles = {split: with_reference(some, split) for split, some in on_news.task.records().items()}
        with run.on_mesh():
            train_on_news(on_news, articles["train"])
            figures = measure(on_news, articles["test"], options.ratings)
        write_figures(run.workdir / "transfer.json", figures)
        transfer_figure([figures], run.workdir / "transfer.png")

    return command(argv, options, measure_and_draw)


def on_the_news(run: Opened, source: str, query_tokens: int | None, wanted: Mapping[str, int]) -> Opened:
    """The run on news: that of its own world where it has some, else CNN/DM from `source`."""
    data = run.config.data
    news = MiniNews if isinstance(run.task, Mini) else Cnndm
    if news is Cnndm and not source:
        raise ConfigError("--articles is missing: a file or folder of CNN/DM, or tfds:FOLDER; see --help")
    tokens = query_tokens or (MINI_QUERY_TOKENS if news is MiniNews else data.query_tokens)
    buckets = data.query_buckets and (*(each for each in data.query_buckets if each < tokens), tokens)
    data = dataclasses.replace(data, posts=source, query_tokens=tokens, query_buckets=buckets)
    return dataclasses.replace(run, task=news(data, run.config.seed, most=wanted))


def train_on_news(run: Opened, articles: Sequence[Record]) -> None:
    """Fine-tunes the run's base on articles with their highlights, into `<workdir>/transfer`."""
    config = run.config
    plan = SftPlan(articles, run.tokenizer, run.task, config.sft, config.seed)
    folder, base = run.workdir / "transfer", config.model.pretrained
    run.tokenizer.save(folder)
    sft.fine_tune("sft", base, config, plan, run.tokenizer.vocab_size, folder)


def measure(run: Opened, articles: Sequence[Record], ratings: str) -> dict[str, Any]:
    """What judge and metrics say of every policy's summaries, and how often the reward model is right."""
    config, task = run.config, run.task
    texts = {"reference": [article.reference for article in articles]}
    texts |= task.baselines(articles, run.tokenizer)
    for name in ("sft", "ppo"):
        texts[name] = run.network(name).write(articles)
    count, temperature, score = config.eval.best_of, config.eval.temperature, run.reward_model.scores
    best = f"best_of_{count}"
    texts[best] = best_of_n(run.network("sft"), articles, count, temperature, config.seed, score)
    on_news = dataclasses.replace(run, workdir=run.workdir / "transfer")
    texts["sft_on_news"] = on_news.network("sft").write(articles)

    rewards = {name: run.score(articles, written) for name, written in texts.items()}
    judges = run.truths or {"reward model": by_score(run.score)}
    judged, gold = rewards, task.judge
    if gold:
        judged = {name: gold_scores(gold, articles, written) for name, written in texts.items()}

    def preferred(ours: str, theirs: str) -> dict[str, Estimate]:
        return {who: mean(judge(articles, texts[ours], texts[theirs])) for who, judge in judges.items()}

    policies = {}
    for name, written in texts.items():
        counted = countable(task, articles, written, texts["reference"])
        figures: dict[str, Any] = {measure: mean(values) for measure, values in counted.items()}
        figures |= {"reward": mean(rewards[name]), "judged": mean(judged[name])}
        if name != "reference":
            figures["preference"] = preferred(name, "reference")
        policies[name] = figures
    found: dict[str, Any] = {
        "seed": config.seed,
        "over_sft": {name: preferred(name, "sft") for name in ("ppo", best)},
        "articles": len(articles),
        "policies": policies,
    }
    if gold:
        del rewards[best]  # chosen by them
        found["reward_model"] = {"gold judge": against_gold(articles, rewards, judged)}
    elif ratings:
        found |= against_experts(run, ratings)
    return found


def against_gold(articles: Sequence[Record], rewards: dict, judged: dict) -> Estimate:
    """How often the reward model picks what the gold judge does, of two policies' summaries."""
    pairs = list(combinations(rewards, 2))
    margins = np.concatenate([rewards[a] - rewards[b] for a, b in pairs])
    gaps = np.concatenate([judged[a] - judged[b] for a, b in pairs])
    gaps[np.abs(gaps) < MIN_GAP] = 0
    ids = [article.id for _ in pairs for article in articles]
    return agreement(margins, gaps, ids)


def against_experts(run: Opened, folder: str) -> dict[str, Any]:
    """How often the reward model picks what experts rated higher, of articles it was not trained on."""
    trained = {one.info.id for one in comparisons_of_run(run.config, run.workdir) if one.split == "train"}
    comparisons = [comparison for found in comparisons_of(folder).values() for comparison in found]
    pairs = [pair for split in ("train", "valid1", "valid2") for pair in pairs_of(comparisons, split)]
    pairs = [pair for pair in pairs if pair.info.id not in trained]
    infos = [pair.info for pair in pairs]
    margins = run.score(infos, [pair.chosen for pair in pairs])
    margins = margins - run.score(infos, [pair.rejected for pair in pairs])
    longer = np.array([len(pair.chosen) - len(pair.rejected) for pair in pairs])
    ids, right = [info.id for info in infos], np.ones(len(pairs))
    return {
        "reward_model": {"experts": agreement(margins, right, ids)},
        "longer_is_better": agreement(longer, right, ids),
    }

"""Has another judge say which summaries of a finished run are better than the references.

    rlhf-jax judged --workdir=runs/mini --people=collected/comparisons.jsonl
    rlhf-jax judged --workdir=runs/mini --url=https://api.example.com/v1 --model=NAME

--workdir=FOLDER   a run with stage eval finished, whose samples/test.jsonl is judged
--people=FILE      comparisons of the labelling site; pairs that nobody compared do not count
--url, --model     an OpenAI-compatible endpoint, see rlhf_jax/evaluation/endpoint.py; its key is read from
                   the environment (--key_variable=OPENAI_API_KEY)
--prompt=FILE      what it is asked, with {text}, {first} and {second}; without it, the built-in question
--answer_tokens=N  (128) tokens of an answer at most; a model that thinks first needs thousands
--tokens_parameter=NAME   how the endpoint calls that limit: max_tokens, or max_completion_tokens
--temperature=NUMBER      (0) some models take 1 alone
--max_wait=SECONDS        (600) an endpoint that asks to wait longer ends the command, which can go on later
--price_in, --price_out, --max_cost   dollars for a million tokens, and dollars at most (5)
--at_once=N        requests under way at once (8)
--policies=LIST    those to judge; without it, all
--posts=N          (100) posts to judge

The figures are `<workdir>/judged_<people or model>.json`: how often each policy is preferred over the
reference, plainly and at equal length, and how far other numbers agree with the judge on the same pairs.
Replies of an endpoint without a verdict are counted by their reason, `without_verdict`; their pairs are in no
figure.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags
from etils.epath import Path

from rlhf_jax.config import ConfigError
from rlhf_jax.data.record_json import read_comparisons, read_jsonl, record_of
from rlhf_jax.data.records import Record, RecordError
from rlhf_jax.data.task import Task
from rlhf_jax.evaluation import endpoint, judges
from rlhf_jax.evaluation.choices import agreement, countable
from rlhf_jax.evaluation.endpoint import Endpoint, EndpointJudge
from rlhf_jax.evaluation.intervals import mean
from rlhf_jax.evaluation.length_control import preference_at_equal_length
from rlhf_jax.experiments.command import Opened, command, write_figures
from rlhf_jax.feedback.viewer import parse_sample
from rlhf_jax.files import read_object

KEPT = "judged_cache.jsonl"  # of the endpoint's replies, in the run's folder


def main(argv: list[str]) -> int:
    options = flags.FlagValues()
    for name in ("people", "url", "model", "prompt"):
        flags.DEFINE_string(name, "", "see above", flag_values=options)
    flags.DEFINE_string("key_variable", Endpoint.key_variable, "of the environment", flag_values=options)
    for name in ("price_in", "price_out", "max_cost", "temperature", "max_wait"):
        flags.DEFINE_float(name, getattr(Endpoint, name), "see above", 0, flag_values=options)
    for name in ("at_once", "answer_tokens"):
        flags.DEFINE_integer(name, getattr(Endpoint, name), "see above", 1, flag_values=options)
    default, known = Endpoint.tokens_parameter, endpoint.TOKENS_PARAMETERS
    flags.DEFINE_enum("tokens_parameter", default, known, "see above", flag_values=options)
    flags.DEFINE_list("policies", [], "to judge", flag_values=options)
    flags.DEFINE_integer("posts", 100, "to judge", 1, flag_values=options)

    def measure_and_write(run: Opened) -> None:
        name, judge = judge_of(options, run)
        samples = read_samples(run.workdir / "samples" / "test.jsonl")[: options.posts]
        file = run.workdir / f"judged_{re.sub(r'[^A-Za-z0-9.-]+', '_', name)}.json"
        other = read_object(file, RecordError, missing={}).get("judge", name)
        if other != name:
            raise ConfigError(f"{file} has the figures of the judge {other}; move it away")
        figures = {"judge": name} | measure(run.task, judge, samples, options.policies)
        if isinstance(judge, EndpointJudge):
            figures["without_verdict"] = dict(Counter(judge.unread.values()))
        write_figures(file, figures)

    return command(argv, options, measure_and_write)


def judge_of(options: flags.FlagValues, run: Opened) -> tuple[str, judges.PairJudge]:
    if bool(options.people) == bool(options.url and options.model):
        raise ConfigError("name one judge: --people=FILE, or --url and --model")
    if options.people:
        return "people", judges.people(read_comparisons(options.people))
    try:
        prompt = Path(options.prompt).read_text(encoding="utf-8") if options.prompt else endpoint.PROMPT
    except UnicodeDecodeError:
        raise ConfigError(f"--prompt: {options.prompt} is not UTF-8 text") from None
    names = {field.name for field in dataclasses.fields(Endpoint)} & set(options)
    asked = Endpoint(**{name: getattr(options, name) for name in names} | {"prompt": prompt})
    return options.model, EndpointJudge(asked, run.workdir / KEPT, run.task)


def read_samples(path: Path) -> list[dict[str, Any]]:
    """Posts with summaries, as the evaluation writes them. Raises RecordError naming line and field."""

    def sample(record: Any) -> dict[str, Any]:
        parse_sample(record)
        return record

    samples = list(read_jsonl(path, sample))
    if not samples:
        raise RecordError(f"{path}: no samples there")
    return samples


def measure(
    task: Task, judge: judges.PairJudge, samples: Sequence[dict[str, Any]], policies: Sequence[str]
) -> dict[str, Any]:
    """Preference over the reference, by policy; agreement of other numbers with it, over all policies."""
    posts = [record_of(sample["post"]) for sample in samples]
    references = [post.reference for post in posts]
    names = list(dict.fromkeys(policies or samples[0]["summaries"]))
    names = [name for name in names if policies or name != "reference"]
    unknown = [name for name in names if any(name not in sample["summaries"] for sample in samples)]
    if unknown:
        raise ConfigError(f"--policies: no summaries of {', '.join(unknown)} in the run")
    texts = {name: [sample["summaries"][name]["text"] for sample in samples] for name in names}
    won = {name: judge(posts, texts[name], references) for name in names}
    judged = {name: np.isfinite(won[name]) for name in names}
    if not any(known.any() for known in judged.values()):
        raise RecordError("no verdict: the judge has compared none of these summaries with the references")
    ratios = {name: log_ratios(texts[name], references) for name in names}
    compared = [name for name in names if judged[name].any()]
    at_equal_length = preference_at_equal_length({name: won[name] for name in compared}, ratios)
    margins = {name: margins_of(task, samples, name, texts[name], posts) for name in names}
    truth = np.concatenate([won[name] - 0.5 for name in names])
    ids = [post.id for _ in names for post in posts]
    return {
        "posts": len(posts),
        "preference_over_reference": {
            name: {"pairs": int(judged[name].sum())} | mean(won[name]) for name in compared
        },
        "preference_at_equal_length": at_equal_length,
        "agreement": {
            metric: agreement(np.concatenate([margins[name][metric] for name in names]), truth, ids)
            for metric in margins[names[0]]
        },
    }


def log_ratios(texts: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Log of words, with the end, over those of the reference."""
    words, theirs = (np.array([len(text.split()) + 1 for text in each]) for each in (texts, references))
    return np.log(words / theirs)


def margins_of(
    task: Task, samples: Sequence[dict[str, Any]], policy: str, texts: Sequence[str], posts: Sequence[Record]
) -> dict[str, np.ndarray]:
    """By how much other numbers put a policy's summary above the reference, to which ROUGE says nothing."""
    references = [post.reference for post in posts]
    ours, theirs = (countable(task, posts, each, references) for each in (texts, references))
    margins = {metric: ours[metric] - theirs[metric] for metric in ("words", "copying")}
    for metric, field in {"reward_model": "score", "gold_judge": "gold"}.items():
        both = [
            [sample["summaries"].get(name, {}).get(field) for name in (policy, "reference")]
            for sample in samples
        ]
        scores = np.array(both, float)
        if np.isfinite(scores).all():
            margins[metric] = scores[:, 0] - scores[:, 1]
    return margins

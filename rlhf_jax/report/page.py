"""The page that shows a run: report.html, written from the files of its work folder.

It loads nothing from the network, and no text of a post can become markup.
"""

import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from rlhf_jax.data.mini.errors import KINDS
from rlhf_jax.data.names import NO_LABELS, titled
from rlhf_jax.data.record_json import read_jsonl, record_of
from rlhf_jax.data.records import Post, Words
from rlhf_jax.files import matching, read_object, write_text
from rlhf_jax.report.figures import anchor_of
from rlhf_jax.report.page_plots import change_plot, curve_plot, preference_plot
from rlhf_jax.run import workdir as runs
from rlhf_jax.run.stored_config import flatten
from rlhf_jax.training.metrics import read_metrics

# A policy's field in results.json: heading, format, meaning.
COLUMNS = {
    "preference_at_equal_length.value": (
        "At equal length",
        "{:.1%}",
        "the share that the judge prefers, were the {responses} as long as the {anchor}’s",
    ),
    "gold.overall": ("Overall", "{:.2f}", "the gold judge's mean rating, 1 to 7"),
    "gold.accuracy": (
        "Accuracy",
        "{:.2f}",
        "of the gold judge, 1 to 7: what is said is true",
    ),
    "gold.coverage": ("Coverage", "{:.2f}", "of the gold judge, 1 to 7: what matters is said"),
    "gold.coherence": ("Coherence", "{:.2f}", "of the gold judge, 1 to 7: it reads well by itself"),
    "key_fact": ("Key fact", "{:.0%}", "share of {responses} that state the {prompt}'s most important fact"),
    "reward": ("RM score", "{:+z.2f}", "mean score of the reward model; training references average 0"),
    "rouge.rougeL": ("ROUGE-L", "{:.3f}", "F1 against the reference"),
    "reference_nats": (
        "Reference, nats",
        "{:.1f}",
        "mean negative log-likelihood of a whole reference; the pretrained model's without examples",
    ),
    "tokens": ("Tokens", "{:.1f}", "mean length of a {response}, end of text included"),
    "words": ("Words", "{:.1f}", "mean length of a {response}"),
    "copying": (
        "Copying",
        "{:.0%}",
        "longest common subsequence of bigrams with the {prompt}, over the {response}'s",
    ),
}
DIVERSITY = {
    "diversity.distinct": ("Distinct", "{:,}", "different {responses}"),
    "diversity.distinct_share": ("… share", "{:.0%}", "different {responses}, of all"),
    "diversity.forms": (
        "Forms",
        "{:,}",
        "different forms; a form is what is left of a {response} when all that it says is taken out",
    ),
    "diversity.commonest_form": ("Commonest form", "{:.0%}", "share of {responses} of the commonest form"),
    "diversity.ideal": ("Ideal", "{:.1%}", "share that is the judge’s ideal {response} to the letter"),
    "diversity.ideal_claims": ("Ideal’s claims", "{:.1%}", "share that claims what the judge’s ideal does"),
}
# What errors of each kind are; a task's own kinds go by their names.
ERRORS = {"any": "an error of whatever kind"} | KINDS
# A field of `reward_model` or `ppo` in results.json: what it is, format. Other fields go by their names.
# {people} made the comparisons; {truth} is the gold judge, where there is one, or else they.
FACTS = {
    "valid_accuracy": ("Picks what {people} prefer of two held-out {responses}", "{:.1%}"),
    "gold_accuracy": ("Picks what the gold judge prefers", "{:.1%}"),
    "blind_accuracy": ("A scorer blind to the {prompt}, against {truth}", "{:.1%}"),
    "pairs": ("… held-out pairs", "{:,}"),
    "reference_mean": ("Mean score of held-out references", "{:+.3f}"),
    "reference_stderr": ("… its standard error", "{:.3f}"),
    "kl": ("KL from the SFT policy, nats", "{:.2f}"),
    "score_start": ("Mean score at the start", "{:+.2f}"),
    "score_end": ("Mean score at the end", "{:+.2f}"),
    "entropy": ("Entropy of a sample, nats", "{:.2f}"),
    "eos_rate": ("Samples that end by themselves", "{:.1%}"),
    "episodes": ("Episodes", "{:,}"),
    "episodes_per_second": ("Episodes a second", "{:.1f}"),
}
# Curves shown at once, and after them the mean of each reward of one's own; the others unfold.
LEADING = ("objective/score", "objective/kl", "objective/disagreement", "loss", "accuracy")
OWN_REWARD = re.compile("rewards/(.+)/mean")


class ReportError(ValueError):
    """A work folder that has no results, or files of it that cannot be read."""


def write_report(workdir: Path) -> None:
    """Writes `workdir`/report.html from config.json, results.json, metrics/ and samples/test.jsonl.

    Whatever the results lack (a gold judge, a stage) is absent from the page.
    """
    results = read_json(workdir / "results.json")
    config = read_json(workdir / "config.json")
    samples = workdir / "samples" / "test.jsonl"
    stages, networks = runs.labels(workdir), runs.networks(workdir)
    anchor = anchor_of(results)
    words, people = words_of(results), results.get("people") or "people"
    said = words._asdict() | {
        "anchor": titled(anchor, networks) if anchor == "sft" else anchor,
        "people": people,
    }
    found = {
        results.get("judge") or "judge": results.get(f"preference_over_{anchor}"),
        people: results.get(f"people_over_{anchor}"),
    }
    verdicts = {who: rates for who, rates in found.items() if rates}
    reward_model, policies = results.get("reward_model") or {}, results["policies"]
    page = template("report.html.jinja", stages, networks).render(
        run=workdir.resolve().name,
        config=config,
        results=results,
        judge=results.get("judge"),
        verdicts=verdicts,
        words=words,
        anchor=said["anchor"],
        preference_plot=verdicts and preference_plot(*named(verdicts.values(), networks)),
        table=policy_table(policies, COLUMNS | reward_columns(policies), said),
        diversity=policy_table(policies, DIVERSITY, said),
        errors=policy_table(policies, error_columns(policies), said),
        reward_model=facts(reward_model, said),
        change_plot=reward_model.get("by_change") and change_plot(reward_model["by_change"]),
        ppo=facts(results.get("ppo") or {}, said),
        training={
            title: curves(read_metrics(path))
            for title, path in named_logs(workdir / "metrics", stages, networks).items()
        },
        seconds=results.get("seconds") or {},
        samples=list(read_jsonl(samples, side_by_side)),
        settings=settings(config),
    )
    write_text(workdir / "report.html", page)


def words_of(results: Mapping[str, Any]) -> Words:
    """What prompts and responses are called; older runs are all of posts."""
    return Words(**results.get("words", Post.words._asdict()))


def template(
    name: str, stages: Mapping[str, str] = NO_LABELS, networks: Mapping[str, str] = NO_LABELS
) -> jinja2.Template:
    """A page to fill in; `stages` and `networks` are what a run calls its own."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "stage": functools.partial(titled, labels=stages),
        "policy": functools.partial(titled, labels=networks),
        "rate": rate_text,
        "text": text,
        "duration": duration,
    }
    return environment.get_template(name)


def duration(seconds: float) -> str:
    """48 s, 4 min 41 s, 3 h 07 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def rate_text(rate: dict[str, float]) -> str:
    """61.4 ± 2.2%."""
    return f"{100 * rate['rate']:.1f} ± {100 * rate['stderr']:.1f}%"


def text(value: float, form: str) -> str:
    """With a minus sign for a hyphen."""
    return form.format(value).replace("-", "−")


def named(verdicts: Iterable[Mapping[str, dict]], networks: Mapping[str, str]) -> list[dict[str, dict]]:
    """The same with the policies called as people read it."""
    return [{titled(policy, networks): rate for policy, rate in rates.items()} for rates in verdicts]


def policy_table(
    policies: Mapping[str, dict], columns: Mapping[str, tuple[str, str, str]], said: Mapping[str, str]
) -> dict:
    """Headings with their meanings, and a row of texts a policy; columns without any value are left out.

    `said` are the words for prompt, response and whom policies are compared with.
    """
    values = {policy: flatten(fields) for policy, fields in policies.items()}
    shown = [key for key in columns if any(row.get(key) is not None for row in values.values())]
    return {
        "columns": [(columns[key][0], columns[key][2].format(**said)) for key in shown],
        "rows": {
            policy: ["" if row.get(key) is None else text(row[key], columns[key][1]) for key in shown]
            for policy, row in values.items()
        },
    }


def reward_columns(policies: Mapping[str, dict]) -> dict[str, tuple[str, str, str]]:
    """A column a reward of one's own."""
    names = dict.fromkeys(name for fields in policies.values() for name in fields.get("rewards") or {})
    return {f"rewards.{name}": (name, "{:+z.2f}", "mean of this reward") for name in sorted(names)}


def error_columns(policies: Mapping[str, dict]) -> dict[str, tuple[str, str, str]]:
    """A column a kind of error that the results have."""
    kinds = dict.fromkeys(kind for fields in policies.values() for kind in fields.get("errors") or {})
    return {f"errors.{kind}": (in_words(kind), "{:.1%}", ERRORS.get(kind, "")) for kind in kinds}


def in_words(field: str) -> str:
    return field.replace("_", " ").capitalize()


def facts(fields: dict, said: Mapping[str, str]) -> dict[str, str]:
    """What each field that is a number says -> its value as text."""
    truth = "the gold judge" if fields.get("gold_accuracy") is not None else said["people"]
    texts = {}
    for key, value in fields.items():
        if value is not None and not isinstance(value, dict):
            name, form = FACTS.get(key, (in_words(key), "{:.4g}"))
            texts[name.format(truth=truth, **said)] = text(value, form)
    return texts


def side_by_side(sample: dict) -> dict:
    """A record, the responses to it, the reference among them, and the best score of each kind, if any."""
    record = record_of(sample["post"])
    own = {"reference": {"text": record.reference}} if record.reference else {}
    summaries = own | sample["summaries"]
    best = {}
    for kind in ("key_fact", "gold", "score"):
        scores = [summary[kind] for summary in summaries.values() if summary.get(kind) is not None]
        best[kind] = max(scores, default=None)
    given = [summary["rewards"] for summary in summaries.values() if "rewards" in summary]
    best["rewards"] = {name: max(rewards[name] for rewards in given) for name in (given or [{}])[0]}
    return {"post": record, "summaries": summaries, "best": best}


def settings(config: dict) -> dict[str, dict]:
    """Section -> dotted field -> value; the fields outside any section come first, under "run"."""
    sections = {name: flatten(value) for name, value in config.items() if isinstance(value, dict)}
    return {"run": {name: value for name, value in config.items() if name not in sections}} | sections


def named_logs(folder: Path, stages: Mapping[str, str], networks: Mapping[str, str]) -> dict[str, Path]:
    """Title → file, of every log in the folder, in the order of the stages; each seed has a log."""
    logs = {path.stem: path for path in matching(folder, "*.jsonl")}
    found = {}
    for stage, title in stages.items():
        for name in [name for name in logs if name == stage or name.startswith(f"{stage}_")]:
            seed = re.fullmatch(rf"{stage}_seed(\d+)", name)
            said = f"{title}, seed {seed[1]}" if seed else title if name == stage else titled(name, networks)
            found[said] = logs.pop(name)
    return found


def curves(records: list[dict[str, float]]) -> list[dict]:
    """One {name, last, leading, plot} a metric, the leading ones first."""
    names = dict.fromkeys(name for record in records for name in record if name != "step")
    panels = []
    for name in leading_first(names):
        logged = [(record["step"], record[name]) for record in records if name in record]
        steps, values = np.array(logged).T
        panels.append(
            {
                "name": name,
                "last": text(values[-1], "{:.4g}"),
                "leading": _place(name) <= len(LEADING),
                "plot": curve_plot(steps, values),
            }
        )
    return panels


def leading_first(metrics: Iterable[str]) -> list[str]:
    """Those that one looks at first, then each reward of one's own, then the others."""
    return sorted(metrics, key=_place)


def _place(metric: str) -> int:
    return LEADING.index(metric) if metric in LEADING else len(LEADING) + (not OWN_REWARD.fullmatch(metric))


def read_json(path: Path) -> dict:
    if not path.exists():
        raise ReportError(f"{path} is missing: a report needs a run that finished --stage=eval")
    try:
        return read_object(path, ReportError)
    except ReportError as error:
        raise ReportError(f"{error}; `rlhf-jax run --stage=eval` makes it again") from None

"""Writes a site for reading samples: every policy's summary of a post, side by side.

rlhf-jax view --samples=runs/mini/samples/test.jsonl --out=viewer

--samples=FILE      posts with summaries, as the evaluation stage writes them
--comparisons=FILE  people's comparisons of summaries of these posts, as OpenAI publishes them
--out=FOLDER        where to write; must be empty, new, or a viewer written earlier

The folder holds static files: it works from the disk, and below any address of any web server. Who
compared is not written. Where no comparison is about these posts, the gold judge's ratings, if the
samples have them, stand for people's verdicts.
"""

import json
import os
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from absl import flags

from rlhf_jax.command_line import command, parse_flags
from rlhf_jax.data.names import NO_LABELS, titled
from rlhf_jax.data.record_json import from_json, read_comparisons, read_jsonl, record_of
from rlhf_jax.data.records import Comparison, Record, RecordError, Summary
from rlhf_jax.files import naming, read_object

PAGE = Path(__file__).with_name("viewer_page")
CHUNK = 200_000  # characters of data in a file, about
LIST_CHARACTERS = 80  # of a prompt in the list
KINDS = ("score", "gold", "key_fact")  # of what a summary may have beside its text

# Two places among a sample's summaries → how many people prefer the one, and how many the other.
Verdicts = dict[tuple[int, int], list[int]]


class ViewerError(ValueError):
    """A folder that a viewer cannot be written to."""


@dataclass
class Sample:
    """A post, its summaries, and who preferred which."""

    post: Record
    summaries: list[Summary]
    verdicts: Verdicts = field(default_factory=dict)


def read_samples(path: str | Path) -> list[Sample]:
    """Samples with different posts; `score`, `gold` and `key_fact` stand in a summary's `extra`."""
    samples = list(read_jsonl(path, parse_sample))
    seen: set[str] = set()
    for sample in samples:
        if sample.post.id in seen:
            raise RecordError(f"{path}: post {sample.post.id!r} stands there twice")
        seen.add(sample.post.id)
    if not samples:
        raise RecordError(f"{path}: no samples there")
    return samples


def parse_sample(record) -> Sample:
    for name in ("post", "summaries"):
        if not isinstance(record, dict) or not isinstance(record.get(name), dict):
            raise RecordError(f"field {name} should be an object; is this a file of samples?")
    post = record_of(record["post"], "post")
    own = {"reference": {"text": post.reference}} if post.reference else {}
    return Sample(post, [parse_summary(*item) for item in (own | record["summaries"]).items()])


def parse_summary(policy: str, fields) -> Summary:
    where = f"summaries.{policy}"
    summary = from_json(Summary, fields | {"policy": policy} if isinstance(fields, dict) else fields, where)
    for kind in KINDS:
        value = summary.extra.get(kind)
        if value is not None and not (isinstance(value, int | float) and abs(value) <= sys.float_info.max):
            raise RecordError(f"field {where}.{kind} should be a finite number, not {json.dumps(value)}")
    return summary


def add_comparisons(samples: Iterable[Sample], comparisons: Iterable[Comparison]) -> int:
    """Adds people's verdicts, and summaries they read that the samples lack. Returns how many verdicts."""
    by_post = {sample.post.id: sample for sample in samples}
    count = 0
    for comparison in comparisons:
        if sample := by_post.get(comparison.info.id):
            chosen = place(sample, comparison.summaries[comparison.choice])
            other = place(sample, comparison.summaries[1 - comparison.choice])
            if chosen != other:
                pair = min(chosen, other), max(chosen, other)
                sample.verdicts.setdefault(pair, [0, 0])[pair.index(chosen)] += 1
                count += 1
    return count


def place(sample: Sample, summary: Summary) -> int:
    """Where a sample has the summary; it is added where the sample has none of this text."""
    same = [i for i, one in enumerate(sample.summaries) if one.text.strip() == summary.text.strip()]
    if not same:
        sample.summaries.append(Summary(summary.text, NAMES_OF_OTHERS.get(summary.policy, summary.policy)))
        return len(sample.summaries) - 1
    return next((i for i in same if sample.summaries[i].policy == summary.policy), same[0])


NAMES_OF_OTHERS = {"ref": "reference"}  # OpenAI's name of the reference


def disagreement(sample: Sample, by_people: bool) -> float | None:
    """The share of verdicts that the reward model's scores contradict, 0 to 1; None where there are none.

    A verdict is one person's about two summaries, or the gold judge's about any two. Those about equal
    scores do not count.
    """
    votes = sample.verdicts if by_people else judged(sample)
    scores = known(sample, "score")
    against = total = 0
    for (i, j), (first, second) in votes.items():
        if i in scores and j in scores and scores[i] != scores[j]:
            against += second if scores[i] > scores[j] else first
            total += first + second
    return against / total if total else None


def known(sample: Sample, kind: str) -> dict[int, float]:
    """Place in `summaries` → its value of a kind, where it has one."""
    values = {i: summary.extra.get(kind) for i, summary in enumerate(sample.summaries)}
    return {i: value for i, value in values.items() if value is not None}


def judged(sample: Sample) -> Verdicts:
    """The gold judge's verdicts, in the form of people's."""
    gold = known(sample, "gold")
    return {
        (i, j): [1, 0] if gold[i] > gold[j] else [0, 1]
        for i, j in combinations(gold, 2)
        if gold[i] != gold[j]
    }


def labels_of(path: str | Path) -> dict[str, str]:
    """Policy → what people call it, as the run says that the samples are of."""
    stages = read_object(Path(path).resolve().parent.parent / "progress.json", RecordError, missing={})
    told = [stage.get("networks") for stage in stages.values() if isinstance(stage, dict)]
    return {name: str(label) for each in told if isinstance(each, dict) for name, label in each.items()}


def contents(
    samples: Sequence[Sample], title: str, by_people: bool, labels: Mapping[str, str] = NO_LABELS
) -> tuple[dict, list[list[dict]]]:
    """What the page reads at once, and what it reads when needed: texts of the posts, in chunks."""
    summaries = [summary for sample in samples for summary in sample.summaries]
    policies = list(dict.fromkeys(summary.policy for summary in summaries))
    kinds = [kind for kind in KINDS if any(one.extra.get(kind) is not None for one in summaries)]
    chunks: list[list[dict]] = []
    posts, room = [], 0
    for sample in samples:
        texts = {
            "post": sample.post.text,
            "summaries": [
                {"policy": policies.index(one.policy), "text": one.text}
                | {kind: one.extra.get(kind) for kind in kinds}
                for one in sample.summaries
            ],
            "verdicts": [[*pair, *votes] for pair, votes in sample.verdicts.items()],
        }
        size = len(_json(texts))
        if size > room:
            chunks.append([])
            room = CHUNK
        room -= size
        posts.append(
            {
                "id": sample.post.id,
                "source": sample.post.place,
                "title": sample.post.title or _beginning(sample.post.text),
                "words": len(sample.post.text.split()),
                "disagreement": disagreement(sample, by_people),
                "place": [len(chunks) - 1, len(chunks[-1])],
            }
        )
        chunks[-1].append(texts)
    index = {
        "title": title,
        "words": samples[0].post.words._asdict(),
        "policies": [titled(policy, labels) for policy in policies],
        "ppo": policies.index("ppo") if "ppo" in policies else None,
        "kinds": kinds,
        "judge": "people" if by_people else "gold judge" if "gold" in kinds else None,
        "posts": posts,
        "chunks": len(chunks),
    }
    return index, chunks


def _beginning(text: str) -> str:
    """What stands in the list for a prompt, which has no title."""
    return textwrap.shorten(text, LIST_CHARACTERS, placeholder="…")


def files(index: dict, chunks: Sequence[list[dict]]) -> dict[str, str]:
    """The viewer's files: path below its folder → text."""
    found = {path.name: path.read_text(encoding="utf-8") for path in PAGE.iterdir()}
    # Scripts, since a page opened from the disk may not fetch: each sets a part of one variable.
    found["data/index.js"] = f"const samples = {_json(index)};\nsamples.texts = [];\n"
    return found | {
        f"data/{i}.js": f"samples.texts[{i}] = {_json(chunk)};\n" for i, chunk in enumerate(chunks)
    }


def write_viewer(out: Path, index: dict, chunks: Sequence[list[dict]]) -> None:
    """Writes the folder, whole or not at all. Raises ViewerError where it holds something else."""
    ours = {"data", *(path.name for path in PAGE.iterdir())}
    if out.exists() and not (out.is_dir() and {path.name for path in out.iterdir()} in (set(), ours)):
        raise ViewerError(f"--out: {out} is no empty folder and no viewer; name a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with naming(out), tempfile.TemporaryDirectory(dir=out.parent) as temporary:
        site = Path(temporary) / "viewer"
        (site / "data").mkdir(parents=True)
        for name, text in files(index, chunks).items():
            (site / name).write_text(text, encoding="utf-8")
        if out.exists():
            shutil.rmtree(out)
        os.replace(site, out)


def _json(value) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def title_of(path: Path) -> str:
    """ "mini, test" of runs/mini/samples/test.jsonl."""
    run = path.resolve().parent
    return f"{run.parent.name}, {path.stem}" if run.name == "samples" else path.stem


def main(argv: list[str]) -> int:
    def run() -> None:
        options = _parse(argv)
        samples, out = read_samples(options.samples), Path(options.out)
        count = 0
        if options.comparisons:
            count = add_comparisons(samples, read_comparisons(options.comparisons))
        title, labels = title_of(Path(options.samples)), labels_of(options.samples)
        write_viewer(out, *contents(samples, title, count > 0, labels))
        if options.comparisons:
            print(f"{count:,} comparisons are about posts of the samples")
        print(f"{len(samples):,} posts: {out / 'index.html'}")

    return command(argv, run)


def _parse(argv: list[str]) -> flags.FlagValues:
    options = flags.FlagValues()
    flags.DEFINE_string("samples", None, "file of samples", required=True, flag_values=options)
    flags.DEFINE_string("comparisons", None, "file of comparisons", flag_values=options)
    flags.DEFINE_string("out", None, "folder to write", required=True, flag_values=options)
    return parse_flags(argv, options)

"""Draws pairs of summaries of posts by different policies, for people to compare on the labelling site.

rlhf-jax ask --config=configs/mini.py --workdir=runs/mini \\
    --policies=sft,ppo,reference --out=tasks.jsonl

--config=FILE, --config.FIELD=VALUE, --workdir=FOLDER  the run, as of rlhf-jax run
--policies=LIST    two or more whose summaries are compared, with commas: reference is the post's own summary;
                   sft, sft_10x and ppo are of the work folder; base is the pretrained model with examples in
                   its prompt; NAME:FOLDER is another one, FOLDER an exported model or another run's
                   checkpoints, such as old:runs/old/checkpoints/ppo. Samples of a policy that is named
                   twice are also compared with each other. In a task with simulated people, editor is one
                   of them, who revises the summary that it meets
--out=FILE         where to write: comparison records without a choice, for rlhf-jax serve
--pairs=NUMBER     how many pairs to write (1000)
--posts=SPLIT      posts of train, valid1, valid2 (the halves of valid) or test, which the records then name;
                   without it, posts of train; `rlhf-jax answers` then draws which are held out
--temperature=T    temperature of the samples (1.0)
--not_again=GLOB   files of tasks or comparisons whose pairs are not asked again

Every two policies meet equally often, the posts take turns, and which summary comes first is drawn.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations, cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from rlhf_jax import inference
from rlhf_jax.command_line import command
from rlhf_jax.config import Config
from rlhf_jax.data import task as tasks
from rlhf_jax.data.comparisons import TEMPERATURE, halved
from rlhf_jax.data.record_json import read_jsonl, to_json, write_jsonl
from rlhf_jax.data.records import Record, RecordError, Summary, with_reference
from rlhf_jax.data.task import Task
from rlhf_jax.feedback.tasks import comparison_of
from rlhf_jax.files import named_by
from rlhf_jax.inference import NetworkError
from rlhf_jax.mesh import make_mesh
from rlhf_jax.model import pretrained
from rlhf_jax.run.config_flags import parse_config

AT_ONCE = 128  # pairs drawn at least, of which those needed are kept
REFERENCE, BASE, EDITOR = "reference", "base", "editor"
SPLITS = ("train", "valid1", "valid2", "test")

Asked = frozenset[tuple[str, frozenset[str]]]  # post and the two texts of every pair
Writer = Callable[[Sequence[Record], int], list[str]]  # posts, seed → a summary of each
Reviser = Callable[[Record, str, np.random.Generator], str]  # a post and a summary → the summary revised


class TaskError(ValueError):
    """Pairs that cannot be made: a policy that is not there, or too few that differ."""


class Policy(NamedTuple):
    """Somebody who summarizes, under the name that the records have: writes, or revises what it meets."""

    name: str
    write: Writer | None = None
    revise: Reviser | None = None


def main(argv: list[str]) -> int:
    return command(argv, lambda: ask(*_parse(argv)))


def _parse(argv: list[str]) -> tuple[Config, flags.FlagValues]:
    options = flags.FlagValues()
    for name, meaning in (("workdir", "folder of the run"), ("out", "file to write")):
        flags.DEFINE_string(name, None, meaning, required=True, flag_values=options)
    flags.DEFINE_list("policies", None, "whose summaries meet", required=True, flag_values=options)
    flags.DEFINE_integer("pairs", 1000, "number of pairs", lower_bound=1, flag_values=options)
    flags.DEFINE_enum("posts", None, SPLITS, "of these posts alone", flag_values=options)
    flags.DEFINE_float("temperature", TEMPERATURE, "of the samples", 0.0, flag_values=options)
    flags.DEFINE_string("not_again", "", "files of earlier tasks", flag_values=options)
    return parse_config(argv, options), options


def ask(config: Config, options: flags.FlagValues) -> None:
    """Writes the file of tasks that the options describe."""
    out = Path(options.out)
    if out.exists():
        raise RecordError(f"--out: {out} is there already; name a new file")
    earlier = named_by(options.not_again) if options.not_again else []
    if options.not_again and not earlier:
        raise RecordError(f"--not_again: there is no file {options.not_again}")
    source, task = options.posts or "train", tasks.find(config.data, config.seed)
    posts = halved(task.records()).get(source, [])
    if config.data.filters:
        posts = task.filtered(posts, task.load_tokenizer(options.workdir))
    if not posts:
        raise RecordError(f"--posts: the data have no posts in {source}")
    if REFERENCE in options.policies:
        posts = with_reference(posts, "--policies")
    with jax.set_mesh(make_mesh(config.mesh)):
        policies = find_policies(options.policies, config, Path(options.workdir), options.temperature)
        pairs = draw(policies, posts, options.pairs, config.seed, asked_in(earlier))
    split = {"split": options.posts} if options.posts else {}
    write_jsonl(out, [pair | split for pair in pairs])
    print(f"{out}: {len(pairs):,} pairs; rlhf-jax serve --tasks={out} asks them")


def find_policies(
    specs: Sequence[str], config: Config, workdir: Path, temperature: float, setting: str = "--policies"
) -> list[Policy]:
    """The policies of a list such as sft, reference, old:runs/a/checkpoints/ppo, each loaded once.

    A name without a folder is that of a network in `workdir`. Needs a mesh set. Raises TaskError, which names
    the `setting` that holds the list, where one does not exist.
    """
    if len(specs) < 2:
        raise TaskError(f"{setting}: name two or more, such as sft,reference, or sft,sft for its own samples")
    for once in (REFERENCE, EDITOR):
        if specs.count(once) > 1:
            raise TaskError(f"{setting}: {once} is not compared with itself: name it once")
    task = tasks.find(config.data, config.seed)
    own = inference.policies_of(workdir) if (workdir / "checkpoints").exists() else []
    known = [REFERENCE, *[BASE] * bool(config.model.pretrained), *own, *[EDITOR] * bool(task.labelers)]
    found: dict[str, Policy] = {}
    for spec in dict.fromkeys(specs):
        name, _, folder = spec.partition(":")
        if not folder and name not in known:
            raise TaskError(
                f"{setting}: {spec!r} is none of {', '.join(known)}; another one needs a name and a folder, "
                "NAME:FOLDER"
            )
        if folder:
            policy = Policy(name, _writer(folder, task, config, temperature, setting))
        elif name == REFERENCE:
            policy = Policy("ref", lambda records, seed: [record.reference for record in records])
        elif name == BASE:
            policy = Policy(name, _prompted(task, config, temperature))
        elif name == EDITOR:
            assert task.labelers
            policy = Policy(name, revise=task.labelers.revise)
        else:
            place = workdir / "checkpoints" / name
            policy = Policy(name, _writer(place, task, config, temperature, setting))
        if policy.name in {"", REFERENCE, *(other.name for other in found.values())}:
            raise TaskError(f"{setting}: {spec!r} needs a name of its own, NAME:FOLDER")
        found[spec] = policy
    return [found[spec] for spec in specs]


def _prompted(task: Task, config: Config, temperature: float) -> Writer:
    """Samples of the pretrained model, whose prompt begins with examples of the train split."""
    examples = with_reference(task.records()["train"], "train")[: config.eval.shots]
    base = inference.load(pretrained.folder_of(config.model.pretrained), config=config, task=task)
    shown = base.on(task.few_shot(examples))

    def write(records: Sequence[Record], seed: int) -> list[str]:
        return [text.split("\n")[0] for text in shown.write(records, temperature, seed)]

    return write


def _writer(place: str | Path, task: Task, config: Config, temperature: float, setting: str) -> Writer:
    """Samples of the policy in a folder: an exported model, or the checkpoints of a network."""
    exported = (Path(place).expanduser() / "config.json").is_file()  # which a run computes as it likes
    try:
        network = inference.load(place, config=config if exported else None, task=task)
    except NetworkError as error:
        raise TaskError(f"{setting}: {error}") from None
    if network.is_scalar:
        raise TaskError(f"{setting}: {place} is of a reward model, which writes nothing")
    longest = config.data.query_tokens + config.data.response_tokens
    if network.model.positions == "learned" and longest > network.model.context:
        raise TaskError(
            f"{setting}: {place} reads {network.model.context} tokens; query and summary are {longest}"
        )
    return lambda records, seed: network.write(records, temperature, seed)


def asked_in(paths: Iterable[str | Path]) -> Asked:
    """The pairs in files of tasks, or of comparisons; lines of other kinds have none."""

    def pair(line):
        if not isinstance(line, dict) or "summaries" not in line:
            return None
        record = comparison_of(line, choice=0)
        return pair_of(record.info.id, [summary.text for summary in record.summaries])

    return frozenset(found for path in paths for found in read_jsonl(path, pair) if found)


def pair_of(post: str, texts: Iterable[str]) -> tuple[str, frozenset[str]]:
    """What makes two pairs the same: the post and the texts, in whichever order."""
    return post, frozenset(text.strip() for text in texts)


def draw(
    policies: Sequence[Policy], posts: Sequence[Record], count: int, seed: int, asked: Asked = frozenset()
) -> list[dict[str, Any]]:
    """`count` comparisons without a choice, as JSON objects: none twice, none asked before.

    A policy that stands in `policies` twice is also compared with itself. Every two policies get
    equally many pairs, to within one. The same arguments give the same pairs. Raises TaskError where
    the policies do not write enough that differs.
    """
    rng = np.random.default_rng([seed, len(asked)])
    names = sorted(policy.name for policy in policies)
    meetings = list(dict.fromkeys(combinations(names, 2)))
    wanted = [meetings[i % len(meetings)] for i in range(count)]
    turns = _turns(posts, rng)
    seen, records = set(asked), list[dict[str, Any]]()
    while wanted:
        drawn = [(next(turns), who) for who in islice(cycle(wanted), max(len(wanted), AT_ONCE))]
        missing, before = Counter(wanted), len(records)
        for (post, who), texts in zip(drawn, _write(policies, drawn, rng), strict=True):
            pair = pair_of(post.id, texts)
            if missing[who] and len(pair[1]) == 2 and all(pair[1]) and pair not in seen:
                missing[who] -= 1
                seen.add(pair)
                records.append(_record(post, who, texts, flipped=bool(rng.integers(2))))
        if len(records) == before:
            raise TaskError(
                f"only {before:,} of {count:,} pairs: of {len(drawn):,} more that were drawn, each was asked "
                "before or has one text twice; ask for fewer, of more posts, or at a higher temperature"
            )
        wanted = list(missing.elements())
    return records


def _turns(posts: Sequence[Record], rng: np.random.Generator) -> Iterator[Record]:
    """All posts in random order, then again in another, without end."""
    while True:
        for i in rng.permutation(len(posts)):
            yield posts[i]


def _write(
    policies: Sequence[Policy], drawn: Sequence[tuple[Record, tuple[str, str]]], rng: np.random.Generator
) -> list[tuple[str, str]]:
    """The two texts of every pair drawn; who revises does so after the others have written."""
    texts = [["", ""] for _ in drawn]
    for policy in dict.fromkeys(policies):
        places = [
            (i, side) for i, (_, who) in enumerate(drawn) for side in (0, 1) if policy.name == who[side]
        ]
        if policy.write and places:
            written = policy.write([drawn[i][0] for i, _ in places], int(rng.integers(2**31)))
            for (i, side), text in zip(places, written, strict=True):
                texts[i][side] = text
    for policy in policies:
        for i, (post, who) in enumerate(drawn):
            if policy.revise and policy.name in who:
                side = who.index(policy.name)
                texts[i][side] = policy.revise(post, texts[i][1 - side], rng)
    return [(first, second) for first, second in texts]


def _record(post: Record, who: tuple[str, str], texts: tuple[str, str], flipped: bool) -> dict[str, Any]:
    summaries = [to_json(Summary(text, name)) for text, name in zip(texts, who, strict=True)]
    info = {name: value for name, value in to_json(post).items() if name not in ("summary", "reference")}
    return {"info": info, "summaries": summaries[::-1] if flipped else summaries}

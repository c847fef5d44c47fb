"""Inputs that cannot be used, as data: what is wrong, how it is made, words that the message must have.

An input is made in a copy of `make_place`, a folder where everything is as it should be.
"""

import hashlib
import json
import sqlite3
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import labelling
import numpy as np
import tiny
import tokenizers
from safetensors.numpy import load_file, save_file
from tokenizers import decoders, models, pre_tokenizers

from rlhf_jax import main
from rlhf_jax.config import ModelConfig
from rlhf_jax.data import news_ratings
from rlhf_jax.data.mini import labelers
from rlhf_jax.data.record_json import read_axis_ratings, write_jsonl
from rlhf_jax.data.records import RecordError
from rlhf_jax.data.tokenizer import train_tokenizer
from rlhf_jax.feedback import agreement, answering, answers, people, serve, viewer, work
from rlhf_jax.feedback.store import Store
from rlhf_jax.feedback.study import Study
from rlhf_jax.feedback.tasks import read_tasks
from rlhf_jax.model import pretrained, transformer
from rlhf_jax.pipeline import ask, export, pretrain
from rlhf_jax.plan import fit as plan
from rlhf_jax.plan import table
from rlhf_jax.run import checkpoint, workdir

FIXTURES = Path(__file__).parent / "fixtures"
ROWS = 257  # of the embedding in hf/
Edit = Callable[[Path], None]


class Bad(NamedTuple):
    kind: str  # what is read
    what: str  # is wrong with it
    edit: Edit  # makes it so
    command: str  # that reads it, a key of COMMANDS
    arguments: tuple[str, ...]  # more of the command's
    words: tuple[str, ...]  # place and fault


# Commands that read them --------------------------------------------------------------------


def axis_ratings(argv: list[str]) -> int:
    """No command reads these; this one stands for those that will."""
    try:
        list(read_axis_ratings(argv[1]))
    except RecordError as error:
        print(f"axis_ratings: {error}", file=sys.stderr)
        return 2
    return 0


def start(*more: str) -> tuple:
    return (main.main, "--config={}/config.py", "--workdir={}/new", "--stage=sft", *more)


# Command → (main, arguments, {} standing for the folder of the inputs)
COMMANDS: dict[str, tuple] = {
    "sft": start(),
    "sft, our tokenizer": start("--config.data.tokenizer={}/sp"),
    "sft, pretrained": start("--config.model.pretrained={}/hf"),
    "resume": (main.main, "--config={}/config.py", "--workdir={}/run"),
    "main": (main.main,),
    "collect": (ask.main,),
    "not again": (
        ask.main,
        "--config={}/config.py",
        "--workdir={}/run",
        "--policies=sft,reference",
        "--out={}/asked.jsonl",
        "--not_again={}/onboarding.jsonl",
    ),
    "export": (export.main, "--workdir={}/run", "--stage=sft", "--out={}/out"),
    "bare export": (export.main,),
    "pretrain": (pretrain.main,),
    "plan": (plan.main,),
    "plan table": (table.main,),
    "agreement": (agreement.main, "{}/data/comparisons/pairs.json"),
    "bare agreement": (agreement.main,),
    "axis ratings": (axis_ratings, "{}/axis.jsonl"),
    "news": (news_ratings.main, "--ratings={}/ratings", "--out={}/out"),
    "bare news": (news_ratings.main,),
    "viewer": (viewer.main, "--samples={}/samples.jsonl", "--out={}/out"),
    "bare viewer": (viewer.main,),
    "serve": (serve.main, "--tasks={}/tasks.jsonl", "--store={}/site.sqlite"),
    "serve a study": (
        serve.main,
        "--tasks={}/tasks.jsonl",
        "--store={}/site.sqlite",
        "--study={}/study.toml",
    ),
    "bare serve": (serve.main,),
    "feedback export": (answers.main, "--store={}/store.sqlite", "--out={}/out"),
    "bare feedback export": (answers.main,),
    "simulated": (labelers.main,),
}


# Making bad inputs ---------------------------------------------------------------------------


def nothing(place: Path) -> None:
    """What is wrong stands on the command line."""


def put(file: str, content: bytes | str) -> Edit:
    data = content.encode() if isinstance(content, str) else content
    return lambda place: (place / file).write_bytes(data) and None


def gone(file: str) -> Edit:
    return lambda place: (place / file).unlink()


def folder(file: str) -> Edit:
    """A folder in the place of a file."""

    def edit(place: Path) -> None:
        (place / file).unlink()
        (place / file).mkdir()

    return edit


def line(file: str, bad: bytes | str | dict | list) -> Edit:
    """The third line replaced."""
    content = bad if isinstance(bad, bytes) else (bad if isinstance(bad, str) else json.dumps(bad)).encode()

    def edit(place: Path) -> None:
        lines = (place / file).read_bytes().split(b"\n")
        (place / file).write_bytes(b"\n".join([*lines[:2], content, *lines[3:]]))

    return edit


def field(file: str, name: str, *value) -> Edit:
    """A field of a JSON file, or of the third line of JSON lines, set; without a value, removed."""

    def change(text: str) -> str:
        *path, last = [int(part) if part.isdigit() else part for part in name.split(".")]
        tree = inner = json.loads(text)
        for part in path:
            inner = inner[part]
        if value:
            inner[last] = value[0]
        else:
            del inner[last]
        return json.dumps(tree)

    def edit(place: Path) -> None:
        path = place / file
        if path.suffix == ".jsonl" or path.name == "pairs.json":
            line(file, change(path.read_text().split("\n")[2]))(place)
        else:
            path.write_text(change(path.read_text()))

    return edit


def cut(file: str, length: int) -> Edit:
    return lambda place: (place / file).write_bytes((place / file).read_bytes()[:length]) and None


def tensor(name: str, change: Callable[[np.ndarray], np.ndarray] | None) -> Edit:
    """A tensor of hf/model.safetensors changed, added or, by None, removed."""

    def edit(place: Path) -> None:
        file = place / "hf" / "model.safetensors"
        held = load_file(file)
        old = held.pop(name, np.zeros(3, np.float32))
        save_file(held | ({name: change(old)} if change else {}), file)

    return edit


def header(change: Callable[[bytes], bytes]) -> Edit:
    """The header of hf/model.safetensors changed, with its right length before it."""

    def edit(place: Path) -> None:
        file = place / "hf" / "model.safetensors"
        content = file.read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        changed = change(content[8:end])
        file.write_bytes(len(changed).to_bytes(8, "little") + changed + content[end:])

    return edit


def in_step(edit: Edit) -> Edit:
    """Files of a checkpoint changed, and the manifest with them, as a stranger could."""

    def changed(place: Path) -> None:
        edit(place)
        step = place / "run" / "checkpoints" / "sft" / "1"
        manifest = json.loads((step / "manifest.json").read_text())
        hashed = {name: hashlib.sha256((step / name).read_bytes()).hexdigest() for name in manifest}
        (step / "manifest.json").write_text(json.dumps(hashed))

    return changed


def sql(statement: str) -> Edit:
    def edit(place: Path) -> None:
        with sqlite3.connect(place / "store.sqlite") as db:
            db.execute(statement)
        db.close()

    return edit


def first_answer(place: Path) -> None:
    store = Store(place / "store.sqlite")
    with store.write() as db:
        person, _ = people.add(db, "Ana", "labeler")
        work.add_tasks(db, read_tasks(place / "pairs.jsonl", Study()), [], Study())
        task = work.next_task(db, person, Study())
        own = answering.open_task(db, person, task)
        fields = {"choice": "2", "interpretation_first": "a", "interpretation_second": "b"}
        own = answering.save(db, person, own, fields, "key", 2)
        answering.submit(db, person, own, "key", Study())
    store.close()


def make_place(place: Path) -> None:
    """Everything that is read, as it should be."""
    config = tiny.run_config(tiny.write_data(place / "data"))
    config.model = ModelConfig(width=16, layers=1, heads=2, context=40, positions="rotary")
    (place / "config.py").write_text(
        f"from rlhf_jax.config import *\n\n\ndef get_config():\n    return {config!r}\n"
    )
    trained = train_tokenizer(["the cat sat and ran"] * 9, 300)
    trained.save(place / "sp")
    run = workdir.open_workdir(place / "run", config)
    trained.save(run)
    specs = transformer.specs(config.model, trained.vocab_size)
    weights = tiny.parameters(specs)
    checkpoint.save(run / "checkpoints" / "sft", 1, params=weights, rest={"x": np.zeros(1)}, meta={})
    workdir.record_stage(run, "sft", 1.0)
    write_jsonl(run / "metrics" / "sft.jsonl", [{"step": i, "loss": 1.0} for i in range(5)])
    byte_level = tokenizers.Tokenizer(models.BPE())
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_level.decoder = decoders.ByteLevel()
    byte_level.add_tokens(sorted(pre_tokenizers.ByteLevel.alphabet()))
    byte_level.add_special_tokens(["<|endoftext|>"])
    hf = place / "hf"
    weights = tiny.parameters(transformer.specs(tiny.LLAMA, ROWS))
    pretrained.save(hf, weights, tiny.LLAMA, extra={"max_position_embeddings": 2048})
    byte_level.save(str(hf / "tokenizer.json"))
    (hf / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    kinds = (labelling.pair, labelling.single, labelling.post)
    write_jsonl(place / "tasks.jsonl", [kinds[i % 3](i) for i in range(3, 9)])
    write_jsonl(place / "pairs.jsonl", [labelling.pair(0)])
    answered = {"choice": 0, "worker": "r", "batch": "b", "split": "train"}
    write_jsonl(place / "onboarding.jsonl", [labelling.pair(i) | answered for i in range(5)])
    (place / "study.toml").write_text('[onboarding]\nrecords = "onboarding.jsonl"\n')
    write_jsonl(place / "samples.jsonl", [labelling.sample(i) for i in range(5)])
    axes = {"overall": 3, "accuracy": 5, "coverage": 4, "coherence": 2}
    rated = [labelling.single(i) | {"worker": "r", "batch": "b", "split": "test"} for i in range(5)]
    for each in rated:
        each["summary"] |= {"axes": axes}
    write_jsonl(place / "axis.jsonl", rated)
    systems = {name: {"text": name, "scores": {"fluency": i}} for i, name in enumerate("abc", 1)}
    news = [{"id": f"n{i}", "article": "It rained.", "systems": systems} for i in range(5)]
    write_jsonl(place / "ratings" / "news.jsonl", news)
    first_answer(place)


# Tables --------------------------------------------------------------------------------------

# Of every kind of JSON lines, in the third line.
LINES: tuple[tuple[str, bytes | str, str], ...] = (
    ("half a line", '{"id": "a", ', "not JSON (Expecting property name"),
    ("no JSON", "hello", "not JSON (Expecting value at column 1)"),
    ("two objects on a line", "{} {}", "not JSON (Extra data at column 4)"),
    ("Python, not JSON", "{'id': 1}", "not JSON (Expecting property name"),
    ("bytes that are no UTF-8", b'{"id": "\xff"}', "not UTF-8 text"),
    ("UTF-16", '{"id": "a"}'.encode("utf-16"), "not UTF-8 text"),
    ("a byte order mark", b"\xef\xbb\xbf{}", "not JSON (Unexpected UTF-8 BOM"),
    ("NaN", '{"id": NaN}', "not JSON (NaN is no number"),
    ("infinity", '{"id": -Infinity}', "not JSON (-Infinity is no number"),
    ("lists a hundred thousand deep", "[" * 100_000, "nested too deeply"),
    ("a number of 5,000 digits", "1" * 5_000, "thousands of digits"),
    ("half of a surrogate pair", '{"extra": {"a": ["\\ud83d"]}}', "extra.a[0] holds half of a surrogate"),
    ("the same in a name", '{"extra": {"\\uDC00": 1}}', "a name of extra holds half of a surrogate"),
    ("a name that stands twice", '{"id": "a", "id": "b"}', "the name 'id' stands twice"),
    ("a list", "[1, 2]", "object"),
    ("null", "null", "object"),
    ("a zero byte", b"\0", "not JSON"),
)


def lines(
    kind: str, command: str, file: str, faults: Iterable[tuple], arguments=(), of_folder="Is a directory"
) -> list[Bad]:
    """LINES, and what only this kind can have wrong: (what, words, field name[, value])."""
    where = (Path(file).name + ", line 3",)
    common = [Bad(kind, what, line(file, bad), command, arguments, (*where, w)) for what, bad, w in LINES]
    own = [
        Bad(kind, what, field(file, *change), command, arguments, (*where, words))
        for what, words, *change in faults
    ]
    name = Path(file).name
    missing = [
        Bad(kind, f"no {name}", gone(file), command, arguments, (name, "No such file")),
        Bad(kind, f"a folder {name}", folder(file), command, arguments, (name, of_folder)),
    ]
    return common + own + missing


def whole(kind: str, command: str, file: str, faults: Iterable[tuple], arguments=()) -> list[Bad]:
    """Of a file that is one JSON object: no such thing, and single fields: (what, words, field[, value])."""
    name = Path(file).name
    broken = (
        ("empty", b"", "not JSON"),
        ("half of it", b'{"a": ', "not JSON (Expecting value at column 7)"),
        ("two lines, the second broken", b'{"a": 1\n oops}', "at line 2, column"),
        ("no UTF-8", b"\xff\xfe{}", "not UTF-8 text"),
        ("a list", b"[]", "should be a JSON object"),
        ("a hundred thousand deep", b"[" * 100_000, "nested too deeply"),
        ("NaN", b'{"a": NaN}', "NaN is no number"),
    )
    common = [
        Bad(kind, f"{name}: {what}", put(file, bad), command, arguments, (name, w)) for what, bad, w in broken
    ]
    return common + [
        Bad(kind, f"{name}: {what}", field(file, *change), command, arguments, (name, words))
        for what, words, *change in faults
    ]


def single(kind: str, command: str, rows: Iterable[tuple]) -> list[Bad]:
    """Rows of (what, edit, words, arguments…)."""
    return [Bad(kind, what, edit, command, tuple(more), words) for what, edit, words, *more in rows]

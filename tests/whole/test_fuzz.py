"""Files changed at random are read to something that can be written again, or refused by the error of
their kind: nothing else leaves the functions that read bytes from outside.

Some dozen changes of each kind in the ordinary tests, always the same ones; other ones, and as many as
wanted, by `FUZZ=2000 python -m pytest tests/whole/test_fuzz.py`.
"""

import json
import os
import shutil
import string
from contextlib import suppress
from functools import partial

import bad_inputs
import jax
import pytest
import tiny
from absl import flags
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf_jax import main as pipeline
from rlhf_jax.config import Config, ConfigError, fields_of
from rlhf_jax.data import news_ratings
from rlhf_jax.data.record_json import from_json, parse_line, read_jsonl, to_json, write_jsonl
from rlhf_jax.data.records import AxisRating, Comparison, Post, RecordError
from rlhf_jax.data.tokenizer import TokenizerError, load_tokenizer
from rlhf_jax.feedback import agreement, answers, serve, viewer
from rlhf_jax.feedback.store import Store, StoreError
from rlhf_jax.feedback.study import Study, StudyError, read_study
from rlhf_jax.feedback.tasks import parse_task
from rlhf_jax.files import JsonError, parse_json
from rlhf_jax.mesh import make_mesh
from rlhf_jax.model import families, params, pretrained, transformer
from rlhf_jax.pipeline import ask, export, pretrain
from rlhf_jax.run import checkpoint
from rlhf_jax.run import workdir as runs
from rlhf_jax.run.stored_config import differences, from_dict, to_dict
from rlhf_jax.run.workdir import WorkdirError
from rlhf_jax.training.metrics import read_metrics
from rlhf_jax.validation import validate
from rlhf_jax.writing import write

MORE = int(os.environ.get("FUZZ", "0"))
TEXT = " \u2581SUBREDDIT: r/pets\n\nmy cat </s> <|endoftext|> \u732b"


def fuzz(examples: int):
    return settings(
        max_examples=MORE or examples,
        derandomize=not MORE,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@st.composite
def damaged(draw, content: bytes) -> bytes:
    """A few bytes changed, put in, taken out or said twice, or the end lost."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, max(len(content) - 1, 0)))
        end = min(len(content), start + draw(st.integers(0, 20)))
        put = draw(st.binary(max_size=6) | st.just(content[start:end] * 2))
        lost = draw(st.booleans()) and draw(st.booleans())
        content = content[:start] + (b"" if lost else put + content[end:])
    return content


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.sampled_from([10**400, -1, 0, 1e308, "\ud800", "\0", "nan", "inf", "../x.safetensors"])
)
JSON = st.recursive(
    LEAVES, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x, max_size=3)
)


@st.composite
def changed(draw, tree):
    """A JSON value with one part of it, at any depth, replaced or taken out."""
    if not isinstance(tree, dict | list) or not tree or draw(st.integers(0, 5)) == 0:
        return draw(JSON)
    copy = tree.copy()
    key = draw(st.sampled_from(sorted(tree)) if isinstance(tree, dict) else st.integers(0, len(tree) - 1))
    if draw(st.integers(0, 5)) == 0:
        del copy[key]
    else:
        copy[key] = draw(changed(tree[key]))
    return copy


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("inputs")
    bad_inputs.make_place(place)
    return place


@pytest.fixture
def copy(place, tmp_path):
    """Copies a file or folder of the sound inputs, over an earlier copy."""

    def make(name: str):
        target = tmp_path / name
        if target.is_dir():
            shutil.rmtree(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (place / name).is_dir() else shutil.copy)(place / name, target)
        return target

    return make


RECORDS = {
    "data/posts/train.jsonl": partial(from_json, Post),
    "data/comparisons/pairs.json": partial(from_json, Comparison),
    "axis.jsonl": partial(from_json, AxisRating),
    "ratings/news.jsonl": partial(from_json, news_ratings.RatedArticle),
}
OTHERS = {
    "samples.jsonl": viewer.parse_sample,
    "tasks.jsonl": parse_task,
    "ratings/news.jsonl": partial(news_ratings.compare, site="news", gap=0.5),
}


@pytest.mark.parametrize("name", RECORDS)
@fuzz(40)
@given(data=st.data())
def test_damaged_records_are_refused_or_survive(place, tmp_path, name, data):
    file = tmp_path / "records.jsonl"
    file.write_bytes(data.draw(damaged((place / name).read_bytes())))
    try:
        records = list(read_jsonl(file, RECORDS[name]))
    except RecordError as error:
        assert str(error).startswith(f"{file}, line ") and "\n" not in str(error)
        return
    write_jsonl(file, records)
    assert list(read_jsonl(file, RECORDS[name])) == records


@pytest.mark.parametrize("name", RECORDS)
@fuzz(60)
@given(data=st.data())
def test_a_record_with_a_strange_part_is_refused_or_survives(place, name, data):
    record = data.draw(changed(json.loads((place / name).read_text().split("\n")[0])))
    try:
        read = parse_line(json.dumps(record).encode(), RECORDS[name], "x")
    except RecordError as error:
        assert str(error).startswith("x: ") and "\n" not in str(error)
        return
    assert to_json(read) == record
    json.dumps(record, ensure_ascii=False).encode()


@pytest.mark.parametrize("name", OTHERS)
@fuzz(60)
@given(data=st.data())
def test_other_lines_with_a_strange_part_are_refused_or_read(place, name, data):
    line = data.draw(changed(json.loads((place / name).read_text().split("\n")[0])))
    try:
        read = parse_line(json.dumps(line).encode(), OTHERS[name], "x")
    except RecordError as error:
        assert str(error).startswith("x: ") and "\n" not in str(error)
        return
    if name == "samples.jsonl":
        viewer.files(*viewer.contents([read], "title", by_people=False))


@fuzz(200)
@given(content=st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_json_that_can_be_written_again_or_refused(content):
    try:
        value = parse_json(content)
    except JsonError as error:
        assert "\n" not in str(error)
        return
    assert parse_json(json.dumps(value).replace("Infinity", "1e999").encode()) == value


def use(tokenizer) -> None:
    """Ids within the embedding, EOS never among those of a text."""
    ids = tokenizer.encode(TEXT)
    assert all(0 <= i < tokenizer.vocab_size for i in ids)
    tokenizer.decode(ids)


@pytest.mark.parametrize(
    "folder, name",
    [("sp", "tokenizer.model"), ("sp", "tokenizer_config.json"), ("hf", "tokenizer.json")]
    + [("hf", "tokenizer_config.json"), ("hf", "config.json")],
)
@fuzz(50)
@given(data=st.data())
def test_a_damaged_tokenizer_is_refused_or_works(copy, folder, name, data):
    path = copy(folder)
    content = (path / name).read_bytes()
    if name.endswith(".json") and data.draw(st.booleans()):
        content = json.dumps(data.draw(changed(json.loads(content)))).encode()
    else:
        content = data.draw(damaged(content))
    (path / name).write_bytes(content)
    try:
        use(load_tokenizer(path))
    except TokenizerError as error:
        assert str(path) in str(error) and "\n" not in str(error)


@fuzz(150)
@given(changed(to_dict(Config())))
def test_a_strange_configuration_is_refused_or_survives(tree):
    if not isinstance(tree, dict):
        return
    differences(Config(), tree)
    try:
        config = validate(from_dict(tree))
    except ConfigError as error:
        assert "\n" not in str(error)
        return
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


FIELDS = [name for name, _, _ in fields_of(Config())]
WORDS = st.text(string.printable + "\u00e9\u2581", max_size=8) | st.sampled_from(
    [
        "0",
        "-1",
        "1e999",
        "nan",
        "1" * 5000,
        "(1,2)",
        "()",
        "[1]",
        "None",
        "True",
        "{}",
        "'",
        "(" * 99,
        "a,b",
        "1_0",
    ]
)


@fuzz(150)
@given(name=st.sampled_from(FIELDS), value=WORDS, prefix=st.sampled_from(["--", "-", "--no"]))
def test_any_override_gives_a_configuration_or_one_line(place, name, value, prefix):
    argv = ["main", f"--config={place / 'config.py'}", f"{prefix}config.{name}={value}", "--workdir=x"]
    try:
        config, *_ = pipeline.parse(argv)
    except (flags.Error, ConfigError):
        return
    validate(config)


PARSERS = (
    pipeline.parse,
    ask._parse,
    export._parse,
    write._parse,
    pretrain._parse,
    news_ratings._parse,
    agreement._parse,
    viewer._parse,
    serve._parse,
    answers._parse,
)


@pytest.mark.parametrize("parse", PARSERS, ids=lambda parse: parse.__module__)
@fuzz(40)
@given(data=st.data())
def test_any_command_line_is_understood_or_refused(parse, data):
    options = (
        "workdir out stage config store tasks pairs port gap ratings policies width seed flagfile".split()
    )
    option = st.tuples(st.sampled_from(options), WORDS).map(lambda x: f"--{x[0]}={x[1]}")
    argv = data.draw(st.lists(option | WORDS, max_size=4))
    with suppress(flags.Error, ConfigError):
        parse(["command", *argv])


@pytest.mark.parametrize("name", ["llama_llama3", "llama_yarn", "neox_linear", "gpt2_untied"])
@fuzz(60)
@given(data=st.data())
def test_a_strange_config_json_is_refused_or_describes_a_model(name, data):
    fields = json.loads((bad_inputs.FIXTURES / name / "config.json").read_text())
    fields = data.draw(changed(fields))
    if not isinstance(fields, dict):
        return
    try:
        _, model = families.read(fields, "config.json")
    except ConfigError as error:
        assert str(error).startswith("config.json") and "\n" not in str(error)
        return
    specs = transformer.specs(model, 60)
    assert params.count(specs) > 0


@fuzz(60)
@given(data=st.data())
def test_damaged_weights_are_refused_or_have_their_shapes(copy, data):
    folder = copy("hf")
    file = folder / "model.safetensors"
    content = file.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    head = json.loads(content[8:end])
    if data.draw(st.booleans()):
        file.write_bytes(data.draw(damaged(content[:end])) + content[end:])
    else:
        new = json.dumps(data.draw(changed(head))).encode()
        file.write_bytes(len(new).to_bytes(8, "little") + new + content[end:])
    like = params.abstract(transformer.specs(tiny.LLAMA, bad_inputs.ROWS), make_mesh())
    try:
        loaded = pretrained.load(folder, like)
    except ConfigError as error:
        assert str(file) in str(error)
        return
    assert jax.tree.map(lambda x: x.shape, loaded) == jax.tree.map(lambda x: x.shape, like)


@fuzz(60)
@given(data=st.data())
def test_any_index_of_weights_is_refused(copy, data):
    folder = copy("hf")
    names = pretrained.Tensors(folder).names()
    index = {"metadata": {"total_size": 5}, "weight_map": dict.fromkeys(sorted(names), "model.safetensors")}
    file = folder / "model.safetensors.index.json"
    file.write_text(json.dumps(data.draw(changed(index))))
    like = params.abstract(transformer.specs(tiny.LLAMA, bad_inputs.ROWS), make_mesh())
    try:
        pretrained.load(folder, like)
    except ConfigError as error:
        assert str(folder) in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("name", ["manifest.json", "meta.json", "shapes.json"])
@fuzz(40)
@given(data=st.data())
def test_a_damaged_step_is_as_it_was_or_refused(copy, name, data):
    folder = copy("run/checkpoints/sft")
    file = folder / "1" / name
    before = parse_json(file.read_bytes())
    file.write_bytes(data.draw(damaged(file.read_bytes())))
    try:
        assert checkpoint.read_meta(folder, 1) == {}
    except checkpoint.CheckpointError as error:
        assert str(folder / "1") in str(error) and "\n" not in str(error)
    if checkpoint.latest_step(folder) is not None and name != "manifest.json":
        assert parse_json(file.read_bytes()) == before


@pytest.mark.parametrize("name", ["config.json", "progress.json", "metrics/sft.jsonl"])
@fuzz(50)
@given(data=st.data())
def test_damaged_files_of_a_run_are_refused_or_read(copy, place, name, data):
    file = copy(f"run/{name}")
    content = file.read_bytes()
    if name != "metrics/sft.jsonl" and data.draw(st.booleans()):
        file.write_text(json.dumps(data.draw(changed(json.loads(content)))))
    else:
        file.write_bytes(data.draw(damaged(content)))
    try:
        if name == "metrics/sft.jsonl":
            assert all(type(record["step"]) is int for record in read_metrics(file))
        elif name == "config.json":
            validate(runs.read_config(file.parent))
        else:
            runs.stages_interrupted(file.parent)
            runs.stage_done(file.parent, "sft")
            runs.record_stage(file.parent, "sft", 1.0)
            assert "sft" in runs.read_seconds(file.parent)
    except (WorkdirError, RecordError) as error:
        assert str(file) in str(error) and "\n" not in str(error)


@fuzz(100)
@given(data=st.data())
def test_a_damaged_study_is_refused_or_read(tmp_path, data):
    file = tmp_path / "study.toml"
    text = "quota = 3\nkinds = ['likert']\nsteps = ['choose']\n[[axes]]\nname = 'a'\nquestion = 'b'\n"
    text += "[onboarding]\nrecords = 'a'\n[labelers.Ana]\nquota = 3\n"
    file.write_bytes(data.draw(damaged(text.encode())))
    try:
        assert isinstance(read_study(file), Study)
    except StudyError as error:
        assert str(error).startswith(str(file))


@fuzz(60)
@given(data=st.data())
def test_a_damaged_store_is_refused_or_exported(copy, tmp_path, data):
    file = copy("store.sqlite")
    file.write_bytes(data.draw(damaged(file.read_bytes())))
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    try:
        store = Store(file, must_exist=True)
        try:
            answers.export(store, tmp_path / "out", "batch")
        finally:
            store.close()
    except StoreError as error:
        assert str(file) in str(error)
    for side in ("-wal", "-shm"):
        (tmp_path / f"store.sqlite{side}").unlink(missing_ok=True)

"""Tasks by name, one of one's own in a file, and what every task does with prompts and responses."""

import random
from dataclasses import replace

import pytest
import tiny
import tokenizers
from tokenizers import models

from rlhf_jax.config import ConfigError, DataConfig
from rlhf_jax.data import task as tasks
from rlhf_jax.data.records import Example, Post, RecordError
from rlhf_jax.data.tasks.cnndm import Cnndm
from rlhf_jax.data.tasks.mini import Mini
from rlhf_jax.data.tasks.mini_news import MiniNews
from rlhf_jax.data.tasks.tldr import Tldr
from rlhf_jax.data.tokenizer import train_tokenizer

POST = Post("t3_a", "tifu", "A title", "I fell.\nIt hurt.", "Fell, hurt.")
EXAMPLE = Post("t3_b", "dogs", "Woof", "He\nbarks.", " A dog.")
SUMS = '''
from rlhf_jax.data.records import Example
from rlhf_jax.data.task import Prompt, Task


class Sums(Task):
    """Additions."""

    def records(self):
        made = [Example(str(i), f"{i} + {self.seed}", str(i + self.seed)) for i in range(30)]
        return {"train": made[:20], "valid": made[20:]}

    def prompt(self, record):
        return Prompt("add: ", record.text, " =")


TASK = Sums
'''


class Characters:
    """One token a character; 128 is EOS."""

    vocab_size, eos_id, pad_id, prefix = 129, 128, 129, ()

    def __init__(self):
        self.calls = 0

    def encode(self, text):
        self.calls += 1
        return [ord(c) for c in text]

    def decode(self, ids):
        return "".join(map(chr, ids))


class Merging(Characters):
    """Fifty a's are one token, so that text can get shorter in tokens by growing."""

    def encode(self, text):
        return super().encode(text.replace("a" * 50, "A"))


class Prefixed(Characters):
    """Two tokens before every text."""

    prefix = (1, 2)


@pytest.fixture(scope="module")
def trained():
    words = "lovely love loved lover robin said there was nothing left to say about it".split()
    shuffled = random.Random(0)
    texts = [" ".join(shuffled.choices(words, k=30)) + "\n\n=====\n\n" for _ in range(200)]
    return train_tokenizer(texts, 420, whole=("\n\nTL;DR:", "\n\n=====\n\n"))


@pytest.fixture
def own(tmp_path):
    """The configuration of a task that stands in one file."""
    path = tmp_path / "sums.py"
    path.write_text(SUMS)
    return DataConfig(source=str(path), vocabulary=280)


def query_text(post) -> str:
    return Tldr(DataConfig()).prompt(post).text


def encode_query(post, tokenizer, limit: int) -> list[int]:
    return Tldr(DataConfig(query_tokens=limit)).encode(post, tokenizer)


def encode_few_shot(post, tokenizer, limit: int) -> list[int]:
    few_shot = Tldr(DataConfig()).few_shot([EXAMPLE])
    return replace(few_shot, data=DataConfig(query_tokens=limit)).encode(post, tokenizer)


def encode_response(text: str, tokenizer, limit: int) -> list[int]:
    (ids,), _ = Tldr(DataConfig()).encode_responses([text], tokenizer, limit)
    return ids


def literal(post: Post, tokenizer, limit: int) -> list[int]:
    """The rule as it is stated, one cut at a time."""
    body = post.post
    while len(ids := tokenizer.encode(query_text(replace(post, post=body)))) > limit:
        body = body[: body.rindex("\n")] if "\n" in body else body[:-1]
    return ids


# Names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source, kind", [("tldr", Tldr), ("cnndm", Cnndm), ("mini", Mini), ("mini_news", MiniNews)]
)
def test_the_tasks_of_the_package_go_by_the_names_of_their_files(source, kind):
    found = tasks.find(DataConfig(source=source), 5)
    assert type(found) is kind and found.seed == 5 and found.data.source == source


def test_a_task_of_ones_own_is_one_file(own):
    task = tasks.find(own, 3)
    train, valid = task.records().values()
    assert (len(train), len(valid)) == (20, 10) and train[4] == Example("4", "4 + 3", "7")
    assert task.queries() == train and task.filtered(train, Characters()) == train
    assert task.prompt(train[4]).text == "add: 4 + 3 =" and task.response("7") == " 7"
    assert Characters().decode(task.encode(train[4], Characters())) == "add: 4 + 3 ="
    tokenizer = task.make_tokenizer(train, None)
    ids, cut = task.encode_responses(["7", "7 and more"], tokenizer, 4)
    assert cut == 1 and tokenizer.decode(ids[0]) == " 7" and ids[1][3] == tokenizer.eos_id
    assert (task.judge, task.labelers, task.baselines(train, tokenizer)) == (None, None, {})
    assert task.record_of("1 + 1").text == "1 + 1" and task.record_of("1 + 1").reference == ""
    assert own.source in task.about
    few_shot = task.few_shot(train[:2])
    assert few_shot.prompt(train[4]).text == (
        "add: 0 + 3 = 3\n\n=====\n\nadd: 1 + 3 = 4\n\n=====\n\nadd: 4 + 3 ="
    )
    assert few_shot.records() == task.records()


def test_a_task_of_ones_own_is_a_module_too(own, tmp_path, monkeypatch):
    (tmp_path / "a_package_of_tasks").mkdir()
    (tmp_path / "sums.py").rename(tmp_path / "a_package_of_tasks" / "sums.py")
    monkeypatch.syspath_prepend(tmp_path)
    task = tasks.find(replace(own, source="a_package_of_tasks.sums"), 2)
    assert task.records()["train"][1].text == "1 + 2"


def test_without_filters_a_task_refuses_to_filter(own):
    task = tasks.find(replace(own, filters=True), 0)
    with pytest.raises(ConfigError, match=r"^data\.filters: .*sums\.py has no filters$"):
        task.filtered(task.records()["train"], Characters())


@pytest.mark.parametrize(
    "source", ["nothing", "nothing.at_all", "rlhf_jax.nothing", "json.nothing", "nowhere/sums.py"]
)
def test_an_unknown_name_is_told_with_those_there_are(source):
    with pytest.raises(ConfigError) as error:
        tasks.find(DataConfig(source=source), 0)
    assert str(error.value) == (
        f"data.source: '{source}' is none of chat, cnndm, mini, mini_news, plain, tldr, no module "
        "and no file here"
    )


@pytest.mark.parametrize(
    "source, name, value, instead",
    [
        ("tldr", "files", "pairs.jsonl", "--config.data.source=plain or chat reads tables"),
        ("mini", "columns", "question:prompt", "--config.data.source=plain or chat reads tables"),
        ("tldr", "template_variables", "a=b", "--config.data.source=chat writes by a template"),
        ("plain", "template_variables", "a=b", "--config.data.source=chat writes by a template"),
        ("plain", "posts", "posts", "name tables in data.files"),
        ("chat", "queries", "published", "prompts for PPO are tables of data.files, too"),
        ("plain", "comparisons", "collected", "name their file in data.files, too"),
        ("chat", "filters", True, "leave those rows out of the tables"),
    ],
)
def test_a_field_that_the_task_does_not_read_is_refused(source, name, value, instead):
    with pytest.raises(ConfigError, match=rf"^data\.{name}: {source} does not read it: {instead}"):
        tasks.find(DataConfig(source=source, **{name: value}), 0)


def test_tables_are_of_plain_and_chat_and_a_templates_variables_of_chat():
    files = {"files": "pairs.jsonl", "columns": "question:prompt"}
    tasks.find(DataConfig(source="plain", **files), 0)
    tasks.find(DataConfig(source="chat", template_variables="a=b", **files), 0)


@pytest.mark.parametrize("text", ["", "TASK = 5", "TASK = int", "from rlhf_jax.data.task import Task"])
def test_a_module_without_a_task_is_told(tmp_path, text):
    path = tmp_path / "empty.py"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"^data\.source: .*empty\.py has no TASK, a subclass of "):
        tasks.find(DataConfig(source=str(path)), 0)
    with pytest.raises(ConfigError, match=r"^data\.source: json has no TASK"):
        tasks.find(DataConfig(source="json"), 0)


@pytest.mark.parametrize("as_module", [False, True])
@pytest.mark.parametrize("text", ["import what_is_not_there", "from json import what_is_not_there", "1 / 0"])
def test_an_error_of_the_module_itself_is_not_taken_for_its_absence(tmp_path, monkeypatch, text, as_module):
    path = tmp_path / f"broken_{abs(hash(text))}.py"
    path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=f"{path}, line 1: .*(what_is_not|division by)"):
        tasks.find(DataConfig(source=path.stem if as_module else str(path)), 0)


# Prompts -------------------------------------------------------------------------------------


def test_long_query_loses_lines_then_characters():
    whole = len(query_text(POST))
    cut = {
        whole: "I fell.\nIt hurt.",
        whole - 1: "I fell.",  # the last line goes at once
        whole - 9: "I fell.",  # "\nIt hurt." are 9 characters
        whole - 10: "I fell",
        whole - 16: "",
    }
    for limit, body in cut.items():
        query = Characters().decode(encode_query(POST, Characters(), limit))
        assert query == f"SUBREDDIT: r/tifu\n\nTITLE: A title\n\nPOST: {body}\n\nTL;DR:"
    with pytest.raises(RecordError, match=rf"^t3_a: the query takes {whole - 16} tokens without any text"):
        encode_query(POST, Characters(), whole - 17)


def test_a_query_begins_with_the_prefix_which_counts_and_a_response_does_not():
    for encode in (encode_query, encode_few_shot):
        bare = encode(POST, Characters(), 1_000)
        for limit in (len(bare), len(bare) - 1):
            assert encode(POST, Prefixed(), limit + 2) == [1, 2, *encode(POST, Characters(), limit)]
        assert len(encode(POST, Prefixed(), len(bare) + 1)) == len(bare) + 2 - len("\nIt hurt.")
    assert encode_response("abcd", Prefixed(), 6) == encode_response("abcd", Characters(), 6)
    frame = len(query_text(replace(POST, post="")))
    with pytest.raises(
        RecordError, match=rf"takes {frame + 2} tokens without any text, the limit is {frame}$"
    ):
        encode_query(POST, Prefixed(), frame)


@pytest.mark.parametrize("seed", range(12))
def test_cut_query_equals_the_literal_loop(trained, seed):
    draw = random.Random(seed)
    parts = [
        "lovely",
        " love",
        " lover",
        " robin",
        " said",
        "  ",
        "\n",
        "\n\n",
        "\n\n=====\n\n",
        "lovelo",
        "é",
        "x" * 9,
    ]
    weights = [3, 9, 9, 9, 9, 2, draw.choice([0, 4]), 1, draw.choice([0, 2]), 2, 1, 1]
    post = replace(POST, post="".join(draw.choices(parts, weights, k=draw.choice([20, 150]))))
    longest, shortest = (len(trained.encode(query_text(replace(post, post=p)))) for p in (post.post, ""))
    for limit in {shortest, longest - 1, *(draw.randint(shortest, longest) for _ in range(4))}:
        if limit >= shortest:
            assert encode_query(post, trained, limit) == literal(post, trained, limit)


def test_cut_query_equals_the_literal_loop_where_text_merges():
    for length in (49, 50, 99, 100, 101, 149, 160):
        post = replace(POST, post="a" * length)
        for limit in range(50, 110):
            assert encode_query(post, Merging(), limit) == literal(post, Merging(), limit)


def test_cutting_a_long_post_takes_few_encodings():
    line = replace(POST, post="word " * 8_000)
    lines = replace(POST, post="word word word\n" * 2_000)
    for post in (line, lines):
        counting = Characters()
        encode_query(post, counting, 512)
        assert counting.calls < 120  # 40,000 and 2,000 for the literal loop


def test_few_shot_prompt_keeps_the_examples_whole():
    shot = "Subreddit: r/dogs\n\nTitle: Woof\n\nHe\nbarks.\n\nTL;DR: A dog.\n\n=====\n\n"
    ids = encode_few_shot(POST, Characters(), 1_000)
    asked = "Subreddit: r/tifu\n\nTitle: A title\n\nI fell.\nIt hurt.\n\nTL;DR:"
    assert Characters().decode(ids) == shot + asked
    shorter = encode_few_shot(POST, Characters(), len(ids) - 1)
    assert Characters().decode(shorter) == shot + asked.replace("\nIt hurt.", "")


def test_a_few_shot_prompt_has_room_for_the_examples():
    """Each as long as it may be, with its response and what frames it."""
    data = DataConfig(query_tokens=90, query_buckets=(60, 90), response_tokens=12)
    longest = replace(EXAMPLE, post="x" * 44, summary="y" * 10)
    assert len(query_text(longest)) == 90 and len(encode_response("y" * 10, Characters(), 99)) == 12
    task = Tldr(data).few_shot([longest] * 3)
    assert task.data.query_buckets == (task.data.query_tokens,)
    whole = task.encode(longest, Characters())
    assert Characters().decode(whole) == task.prompt(longest).text


# Responses -----------------------------------------------------------------------------------


def test_response_has_one_space_and_keeps_eos():
    abcd = [ord(c) for c in " abcd"]
    for summary in ("abcd", " abcd", "   abcd"):
        assert encode_response(summary, Characters(), 6) == [*abcd, 128]
    assert encode_response("abcd", Characters(), 4) == [*abcd[:3], 128]
    assert encode_response("", Characters(), 4) == [ord(" "), 128]


def test_truncated_responses_are_counted():
    task = Tldr(DataConfig())
    responses, truncated = task.encode_responses(["abc", "abcd", "abcde"], Characters(), 5)
    assert truncated == 2  # " abc" and EOS are 5 tokens
    assert [len(ids) for ids in responses] == [5, 5, 5]
    assert {ids[-1] for ids in responses} == {128}


# Tokenizers ----------------------------------------------------------------------------------


def test_the_tokenizer_is_the_pretrained_models_or_the_one_named_or_trained(tmp_path):
    data, posts = DataConfig(vocabulary=320), tiny.posts(40, 0)
    for i, name in enumerate(("named", "pretrained")):
        train_tokenizer(["zzz qqq " * 9], 266 + i).save(tmp_path / name)
    named = replace(data, tokenizer=str(tmp_path / "named"))
    sizes = [
        tasks.find(each, 0).make_tokenizer(posts, folder).vocab_size
        for each, folder in ((data, None), (named, None), (named, tmp_path / "pretrained"))
    ]
    assert sizes[0] > 300 and sizes[1:] == [266, 267]


def test_a_pretrained_folder_with_a_tokenizer_json_is_followed_to_its_models_rows(tmp_path):
    words = tokenizers.Tokenizer(models.BPE({"a": 0, "</s>": 1}, []))
    words.add_special_tokens(["</s>"])
    words.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text('{"vocab_size": 64, "eos_token_id": 1}')
    tokenizer = Tldr(DataConfig()).make_tokenizer([], tmp_path)
    assert (tokenizer.vocab_size, tokenizer.eos_id, tokenizer.encode("aa")) == (64, 1, [0, 0])

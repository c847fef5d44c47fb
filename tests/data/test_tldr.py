import random
from dataclasses import replace
from functools import partial

import pytest

from rlhf_jax.config import DataConfig
from rlhf_jax.data import tldr
from rlhf_jax.data.records import Article, Post, RecordError, write_jsonl
from rlhf_jax.data.tldr import (
    encode_few_shot,
    encode_query,
    encode_response,
    encode_responses,
    load_posts,
    load_queries,
    query_text,
)
from rlhf_jax.data.tokenizer import train_tokenizer

POST = Post("t3_a", "tifu", "A title", "I fell.\nIt hurt.", "Fell, hurt.")


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


def literal(post: Post, tokenizer, limit: int) -> list[int]:
    """The rule as it is stated, one cut at a time."""
    body = post.post
    while len(ids := tokenizer.encode(query_text(replace(post, post=body)))) > limit:
        body = body[: body.rindex("\n")] if "\n" in body else body[:-1]
    return ids


def test_query_of_a_post_and_of_an_article():
    assert query_text(POST) == "SUBREDDIT: r/tifu\n\nTITLE: A title\n\nPOST: I fell.\nIt hurt.\n\nTL;DR:"
    assert query_text(Article("n1", "cnn", "News", "It rained.")) == "It rained.\n\nTL;DR:"


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
    example = Post("t3_b", "dogs", "Woof", "He\nbarks.", " A dog.")
    for encode in (encode_query, partial(encode_few_shot, [example])):
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


def test_response_has_one_space_and_keeps_eos():
    abcd = [ord(c) for c in " abcd"]
    for summary in ("abcd", " abcd", "   abcd"):
        assert encode_response(summary, Characters(), 6) == [*abcd, 128]
    assert encode_response("abcd", Characters(), 4) == [*abcd[:3], 128]
    assert encode_response("", Characters(), 4) == [ord(" "), 128]


def test_truncated_responses_are_counted():
    responses, truncated = encode_responses(["abc", "abcd", "abcde"], Characters(), 5)
    assert truncated == 2  # " abc" and EOS are 5 tokens
    assert [len(ids) for ids in responses] == [5, 5, 5]
    assert {ids[-1] for ids in responses} == {128}


def test_few_shot_prompt_keeps_the_examples_whole():
    example = Post("t3_b", "dogs", "Woof", "He\nbarks.", " A dog.")
    shot = "Subreddit: r/dogs\n\nTitle: Woof\n\nHe\nbarks.\n\nTL;DR: A dog.\n\n=====\n\n"
    ids = encode_few_shot([example], POST, Characters(), 1_000)
    asked = "Subreddit: r/tifu\n\nTitle: A title\n\nI fell.\nIt hurt.\n\nTL;DR:"
    assert Characters().decode(ids) == shot + asked
    shorter = encode_few_shot([example], POST, Characters(), len(ids) - 1)
    assert Characters().decode(shorter) == shot + asked.replace("\nIt hurt.", "")


def test_posts_are_loaded_by_split(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", [POST, replace(POST, id="t3_b")])
    write_jsonl(tmp_path / "valid.jsonl", [POST])
    data = DataConfig(posts=str(tmp_path))
    assert {split: len(posts) for split, posts in load_posts(data).items()} == {"train": 2, "valid": 1}
    write_jsonl(tmp_path / "test.jsonl", [POST])
    assert set(load_posts(data)) == {"train", "valid", "test"}
    assert load_queries(data) == load_posts(data)


def test_queries_may_be_other_posts(tmp_path):
    for folder, post in (("posts", POST), ("queries", replace(POST, id="t3_q"))):
        for split in ("train", "valid"):
            write_jsonl(tmp_path / folder / f"{split}.jsonl", [post])
    data = DataConfig(posts=str(tmp_path / "posts"), queries=str(tmp_path / "queries"))
    assert [post.id for post in load_queries(data)["train"]] == ["t3_q"]


def test_the_published_queries_are_downloaded(tmp_path, monkeypatch):
    asked = []

    def download(url, path):
        asked.append(url)
        write_jsonl(path, [replace(POST, summary="")])

    monkeypatch.setattr(tldr, "download", download)
    queries = load_queries(DataConfig(queries="published", url="http://store", cache=str(tmp_path)))
    assert [post.summary for post in queries["train"]] == [""]
    assert asked[0] == "http://store/datasets/tldr_3_filtered_queries/train.jsonl"


def test_split_without_posts_is_named(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", [POST])
    with pytest.raises(RecordError, match=r"valid\.jsonl: cannot be read"):
        load_posts(DataConfig(posts=str(tmp_path)))
    write_jsonl(tmp_path / "valid.jsonl", [])
    with pytest.raises(RecordError, match=r"valid\.jsonl: no posts in it$"):
        load_posts(DataConfig(posts=str(tmp_path)))

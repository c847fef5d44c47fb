import re
from dataclasses import replace

import pytest
import tiny

from rlhf_jax.config import DataConfig
from rlhf_jax.data.record_json import write_jsonl
from rlhf_jax.data.records import Article, Post, RecordError
from rlhf_jax.data.tasks import tldr
from rlhf_jax.data.tasks.tldr import Tldr

POST = Post("t3_a", "tifu", "A title", "I fell.\nIt hurt.", "Fell, hurt.")


@pytest.fixture
def data(tmp_path):
    return tiny.write_data(tmp_path / "data")


def trained_tokenizer():
    return Tldr(DataConfig(vocabulary=320)).make_tokenizer(tiny.posts(40, 0), None)


def test_query_of_a_post_of_an_article_and_of_a_lone_text():
    task = Tldr(DataConfig())
    assert (
        task.prompt(POST).text == "SUBREDDIT: r/tifu\n\nTITLE: A title\n\nPOST: I fell.\nIt hurt.\n\nTL;DR:"
    )
    assert task.prompt(Article("n1", "cnn", "News", "It rained.")).text == "It rained.\n\nTL;DR:"
    lone = task.prompt(task.record_of("I fell.")).text
    assert lone == "SUBREDDIT: r/\n\nTITLE: \n\nPOST: I fell.\n\nTL;DR:"


def test_an_example_of_a_few_shot_prompt_is_written_as_openai_s_zero_shot_task():
    task = Tldr(DataConfig())
    assert task.shot(POST).text == "Subreddit: r/tifu\n\nTitle: A title\n\nI fell.\nIt hurt.\n\nTL;DR:"
    assert task.shot(Article("n1", "cnn", "News", "It rained.")).text == "It rained.\n\nTL;DR:"


def test_posts_are_loaded_by_split(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", [POST, replace(POST, id="t3_b")])
    write_jsonl(tmp_path / "valid.jsonl", [POST])
    task = Tldr(DataConfig(posts=str(tmp_path)))
    assert {split: len(posts) for split, posts in task.records().items()} == {"train": 2, "valid": 1}
    write_jsonl(tmp_path / "test.jsonl", [POST])
    assert set(task.records()) == {"train", "valid", "test"}
    assert task.queries() == task.records()["train"]


def test_posts_are_those_of_the_folder_whatever_the_seed_and_a_test_split_may_be_missing(data):
    for seed in range(2):
        assert Tldr(data, seed).records() == {"train": tiny.posts(40, 0), "valid": tiny.posts(8, 1)}


def test_ppo_summarizes_the_training_posts_or_those_of_its_own_folder(data, tmp_path):
    assert Tldr(data).queries() == tiny.posts(40, 0)
    unwritten = [replace(post, summary="") for post in tiny.posts(5, 9)]
    for split in ("train", "valid"):
        write_jsonl(tmp_path / "queries" / f"{split}.jsonl", unwritten)
    task = Tldr(replace(data, queries=str(tmp_path / "queries")))
    assert task.queries() == unwritten and task.records()["train"] == tiny.posts(40, 0)


def test_the_published_queries_are_downloaded(tmp_path, monkeypatch):
    asked = []

    def download(url, path):
        asked.append(url)
        write_jsonl(path, [replace(POST, summary="")])

    monkeypatch.setattr(tldr, "download", download)
    queries = Tldr(DataConfig(queries="published", url="http://store", cache=str(tmp_path))).queries()
    assert [post.summary for post in queries] == [""]
    assert asked[0] == "http://store/datasets/tldr_3_filtered_queries/train.jsonl"


def test_split_without_posts_is_named(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", [POST])
    task = Tldr(DataConfig(posts=str(tmp_path)))
    with pytest.raises(RecordError, match=r"valid\.jsonl: cannot be read"):
        task.records()
    write_jsonl(tmp_path / "valid.jsonl", [])
    with pytest.raises(RecordError, match=r"valid\.jsonl: no posts in it$"):
        task.records()


def test_a_trained_tokenizer_knows_the_fixed_parts_of_a_query():
    tokenizer = trained_tokenizer()
    query = ("SUBREDDIT:", "\n\nTITLE:", "\n\nPOST:", "\n\nTL;DR:")
    for part in (*query, "Subreddit:", "\n\nTitle:", "\n\n=====\n\n"):
        assert len(tokenizer.encode(part)) == 1, part


def test_filters_apply_where_asked_for_and_tell_what_they_took(capsys):
    tokenizer = trained_tokenizer()
    assert 24 <= len(tokenizer.encode("cat" * 15)) <= 48  # what the filter for summaries lets pass
    good = Post("1", "tifu", "a title", "what happened", "cat" * 15)
    posts = [good, replace(good, id="2", subreddit="nowhere", post="something else")]
    assert Tldr(DataConfig()).filtered(posts, tokenizer) == posts
    assert capsys.readouterr().out == ""
    assert Tldr(DataConfig(filters=True)).filtered(posts, tokenizer) == [good]
    assert re.search(r"subreddits not on the list +1 +1\n", capsys.readouterr().out)


def test_queries_are_filtered_without_regard_to_their_references():
    task, tokenizer = Tldr(DataConfig(filters=True)), trained_tokenizer()
    unwritten = [Post("1", "tifu", "a title", "what happened", "")]
    assert task.filtered(unwritten, tokenizer) == []
    assert task.filtered(unwritten, tokenizer, references=False) == unwritten


def test_lead_is_as_much_of_the_post_as_a_summary_may_hold():
    tokenizer = trained_tokenizer()
    post = Post("1", "pets", "title", "the cat sat and the cat ran and the dog hid and the hen ate")
    found = Tldr(DataConfig(response_tokens=8)).baselines([post, POST], tokenizer)
    assert list(found) == ["title", "lead"] and found["title"] == ["title", "A title"]
    text = found["lead"][0]
    assert post.post.startswith(text) and text.startswith("the cat")
    assert len(tokenizer.encode(" " + text)) == 7  # and EOS
    whole = Tldr(DataConfig(response_tokens=100)).baselines([post], tokenizer)
    assert whole["lead"] == [post.post]

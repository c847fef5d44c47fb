import dataclasses
import re

import pytest
import tiny
import tokenizers
from tokenizers import models

from rlhf_jax.config import DataConfig
from rlhf_jax.data import sources, tldr
from rlhf_jax.data.records import Post, write_jsonl
from rlhf_jax.data.tokenizer import train_tokenizer

MINI = DataConfig(source="mini", mini_posts=7, mini_test=3)


@pytest.fixture
def data(tmp_path):
    return tiny.write_data(tmp_path / "data")


def test_the_miniature_has_three_splits_of_the_sizes_asked_for_and_no_post_twice():
    splits = sources.load_posts(MINI, seed=0)
    assert {split: len(posts) for split, posts in splits.items()} == {"train": 7, "valid": 3, "test": 3}
    assert len({post.post for posts in splits.values() for post in posts}) == 13


def test_the_seed_draws_the_miniature_and_nothing_else(data):
    assert sources.load_posts(MINI, 0) == sources.load_posts(MINI, 0) != sources.load_posts(MINI, 1)
    assert sources.load_posts(data, 0) == sources.load_posts(data, 1)


def test_real_posts_are_those_of_the_folder_and_a_test_split_may_be_missing(data):
    assert sources.load_posts(data, 0) == {"train": tiny.posts(40, 0), "valid": tiny.posts(8, 1)}


def test_ppo_summarizes_the_training_posts_or_those_of_its_own_folder(data, tmp_path):
    assert sources.load_queries(MINI, 0, None) == sources.load_posts(MINI, 0)["train"]
    assert sources.load_queries(data, 0, None) == tiny.posts(40, 0)
    unwritten = [dataclasses.replace(post, summary="") for post in tiny.posts(5, 9)]
    for split in ("train", "valid"):
        write_jsonl(tmp_path / "queries" / f"{split}.jsonl", unwritten)
    queries = dataclasses.replace(data, queries=str(tmp_path / "queries"))
    assert sources.load_queries(queries, 0, None) == unwritten


def test_the_tokenizer_is_the_pretrained_models_or_the_one_named_or_trained(tmp_path):
    data, posts = DataConfig(vocabulary=320), tiny.posts(40, 0)
    for i, name in enumerate(("named", "pretrained")):
        train_tokenizer(["zzz qqq " * 9], 266 + i).save(tmp_path / name)
    named = dataclasses.replace(data, tokenizer=str(tmp_path / "named"))
    sizes = [
        sources.make_tokenizer(posts, *source).vocab_size
        for source in ((data, None), (named, None), (named, tmp_path / "pretrained"))
    ]
    assert sizes[0] > 300 and sizes[1:] == [266, 267]


def test_a_pretrained_folder_with_a_tokenizer_json_is_followed_to_its_models_rows(tmp_path):
    words = tokenizers.Tokenizer(models.BPE({"a": 0, "</s>": 1}, []))
    words.add_special_tokens(["</s>"])
    words.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text('{"vocab_size": 64, "eos_token_id": 1}')
    tokenizer = sources.make_tokenizer([], DataConfig(), tmp_path)
    assert (tokenizer.vocab_size, tokenizer.eos_id, tokenizer.encode("aa")) == (64, 1, [0, 0])


def test_a_trained_tokenizer_knows_the_fixed_parts_of_a_query():
    tokenizer = sources.make_tokenizer(tiny.posts(40, 0), DataConfig(vocabulary=320), None)
    for part in (*tldr.QUERY_PARTS, *tldr.FEW_SHOT_PARTS):
        assert len(tokenizer.encode(part)) == 1, part


def test_filters_apply_where_asked_for_and_tell_what_they_took(capsys):
    tokenizer = sources.make_tokenizer(tiny.posts(40, 0), DataConfig(vocabulary=320), None)
    assert 24 <= len(tokenizer.encode("cat" * 15)) <= 48  # what the filter for summaries lets pass
    good = Post("1", "tifu", "a title", "what happened", "cat" * 15)
    posts = [good, dataclasses.replace(good, id="2", subreddit="nowhere", post="something else")]
    assert sources.filtered(posts, DataConfig(), tokenizer) == posts
    assert capsys.readouterr().out == ""
    assert sources.filtered(posts, DataConfig(filters=True), tokenizer) == [good]
    assert re.search(r"subreddits not on the list +1 +1\n", capsys.readouterr().out)

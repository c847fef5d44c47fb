import json
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from rlhf_jax.data.sentencepiece_json import tokenizer_json
from rlhf_jax.data.tokenizer import TokenizerError, train_tokenizer

TEXTS = [
    "my cat sat on the mat and the cat was fat\n\nTL;DR:",
    "é ü 猫 it's 30! https://example.org/a?b=c",
    "the theme of the thesis",
] * 20
POSTS = Path(__file__).parents[3] / "shared" / "data" / "tldr_posts" / "valid.jsonl"


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Our tokenizer and the written one."""
    folder = tmp_path_factory.mktemp("tokenizer")
    ours = train_tokenizer(TEXTS, 400, ["\n\nTL;DR:", "SUBREDDIT: r/"])
    ours.save(folder)
    return ours, opened((folder / "tokenizer.model").read_bytes())


def opened(model: bytes) -> Tokenizer:
    written = Tokenizer.from_str(tokenizer_json(model).decode())
    written.encode_special_tokens = True
    return written


@given(st.text(st.characters(exclude_characters="\u2581", exclude_categories=["Cs"])))
def test_any_text_gets_the_same_ids_and_comes_back(both, text):
    ours, written = both
    ids = written.encode(text, add_special_tokens=False).ids
    assert ids == ours.encode(text)
    assert written.decode(ids, skip_special_tokens=False) == text


@given(st.text("the catsm\n TL;DR:SUB\u0301é猫r/", max_size=60))
def test_text_full_of_merges_does_too(both, text):
    ours, written = both
    assert written.encode(text, add_special_tokens=False).ids == ours.encode(text)


@pytest.mark.skipif(not POSTS.exists(), reason="no real posts beside the repository")
def test_real_posts_do_too(tmp_path):
    posts = [json.loads(line)["post"] for line in POSTS.read_text(encoding="utf-8").splitlines()[:150]]
    ours = train_tokenizer(posts, 2000)
    ours.save(tmp_path)
    written = opened((tmp_path / "tokenizer.model").read_bytes())
    for post in posts:
        if "\u2581" not in post:
            assert written.encode(post, add_special_tokens=False).ids == ours.encode(post)


def test_a_model_that_puts_a_space_in_front_is_refused(tmp_path):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_prefix=str(tmp_path / "foreign"),
        model_type="bpe",
        vocab_size=350,
        hard_vocab_limit=False,
        byte_fallback=True,
        minloglevel=2,
    )
    with pytest.raises(TokenizerError, match="not one of ours"):
        tokenizer_json((tmp_path / "foreign.model").read_bytes())

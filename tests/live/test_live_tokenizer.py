"""AutoTokenizer of an exported folder gives our ids, whatever the text says."""

from pathlib import Path

import pytest

NEEDS = "needs torch and transformers: pip install -r tests/requirements-live.txt"
pytest.importorskip("torch", reason=NEEDS)
pytest.importorskip("transformers", reason=NEEDS)

from transformers import AutoTokenizer

from rlhf_jax.data.record_json import read_posts

pytestmark = pytest.mark.live

REAL = Path(__file__).parents[3] / "shared" / "data" / "tldr_posts" / "valid.jsonl"
TEXTS = [
    "SUBREDDIT: r/pets\n\nTITLE: My cat 🐈‍⬛ hisses 😾\n\nPOST: naïve café, e\u0301 and Ångström\n\nTL;DR:",
    "  two leading spaces,\ta tab,   three spaces \n and a space at the end ",
    " the end is </s>, <|endoftext|> or <|pad|>, it begins with <|begin|><unk>",
    "https://example.org/a/very/long/path?query=%20one&two=2#part" * 8,
    "日本語 と 한국어, Ωmega, ½ and ﬁ \x00 \ufeff \r\n\n\n\nTL;DR: TL;DR:",
    "",
]


def assert_same_ids(tokenizer, ours, texts: list[str]) -> None:
    for text in texts:
        theirs = tokenizer(text, split_special_tokens=True).input_ids
        assert theirs == [*ours.prefix, *ours.encode(text)], repr(text)
        bare = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        assert tokenizer.decode(bare) == ours.decode(bare), repr(text)


@pytest.mark.parametrize("stage", ["ppo", "reward"])
def test_invented_texts(run, stage):
    assert_same_ids(AutoTokenizer.from_pretrained(run.exported[stage]), run.tokenizer, TEXTS)


@pytest.mark.skipif(not REAL.exists(), reason="there are no real posts here")
def test_real_posts(run):
    tokenizer = AutoTokenizer.from_pretrained(run.exported["ppo"])
    assert_same_ids(tokenizer, run.tokenizer, [run.task.prompt(post).text for post in read_posts(REAL)])

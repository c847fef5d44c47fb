"""Chat templates give the ids and texts of transformers, and typed tokens are text."""

import itertools
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="pip install -r tests/requirements-live.txt")

from chat_folders import (
    EXAMPLES,
    SPECIAL,
    SYSTEMS,
    TEMPLATES,
    A,
    Q,
    byte_level,
    write_folder,
    write_folders,
    written,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers
from transformers import AutoTokenizer

from rlhf_jax.data.chat import Chat, load_chat
from rlhf_jax.data.records import Turn

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    return write_folders(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def chats(folders) -> dict[str, Chat]:
    return {name: load_chat(folder) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def theirs(folders) -> dict:
    return {name: AutoTokenizer.from_pretrained(folder) for name, folder in folders.items()}


def their_ids(tokenizer, turns, prompt: bool, **options) -> list[int]:
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    return tokenizer.apply_chat_template(
        messages, add_generation_prompt=prompt, tokenize=True, return_dict=False, **options
    )


def conversations(name: str):
    """Those of the examples that the template takes."""
    for example in EXAMPLES.values():
        yield example
        if name != "gemma2":
            yield from ([Turn("system", system), *example] for system in SYSTEMS)


@pytest.mark.parametrize("name", TEMPLATES)
def test_ids_and_text_are_those_of_transformers(name, chats, theirs):
    for turns, prompt in itertools.product(conversations(name), (True, False)):
        assert chats[name].encode(turns, prompt) == their_ids(theirs[name], turns, prompt), turns
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        text = theirs[name].apply_chat_template(messages, add_generation_prompt=prompt, tokenize=False)
        assert chats[name].template.render(turns, prompt) == text


@settings(max_examples=50, deadline=None)
@given(contents=st.lists(st.text(), min_size=1, max_size=5))
def test_any_contents_are_those_of_transformers(contents, chats, theirs):
    turns = [Turn(("user", "assistant")[i % 2], content) for i, content in enumerate(contents)]
    for name in TEMPLATES:
        assert chats[name].encode(turns, True) == their_ids(theirs[name], turns, True)


@pytest.mark.parametrize("name", TEMPLATES)
def test_typed_tokens_are_text_as_where_transformers_is_asked_to_sanitize(name, chats, theirs):
    special = {theirs[name].convert_tokens_to_ids(token) for token in SPECIAL}
    for token, form in itertools.product(SPECIAL, ("{}", " a{0}b{0} ", "<|{}|>")):
        said = form.format(token)
        turns = [Turn("user", said), Turn("assistant", said), Turn("user", Q)]
        ours = chats[name].encode(turns, True)
        sanitized = their_ids(theirs[name], turns, True, sanitize_control_tokens=True)
        # It encodes a typed token apart from the text beside it, so that newlines may be split otherwise.
        assert theirs[name].decode(ours) == theirs[name].decode(sanitized)
        assert [i for i in ours if i in special] == [i for i in sanitized if i in special]


def test_reasoning_is_that_of_transformers(chats, theirs, folders):
    turns = [Turn("user", Q), Turn("assistant", f"<think>\nSpring?\n</think>\n\n{A}")]
    for said in (turns, [*turns, Turn("user", "<|im_end|"), turns[1]]):
        for prompt in (True, False):
            assert chats["qwen3"].encode(said, prompt) == their_ids(theirs["qwen3"], said, prompt)
    quick = load_chat(folders["qwen3"], enable_thinking=False)
    ids = quick.encode(turns[:1], True)
    assert ids == their_ids(theirs["qwen3"], turns[:1], True, enable_thinking=False)
    assert written(folders["qwen3"], ids)[-4:] == ["<think>", "\n\n", "</think>", "\n\n"]


@pytest.mark.parametrize(
    "normalizer",
    [
        normalizers.Prepend("▁"),
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
    ],
)
def test_a_tokenizer_that_puts_spaces_before_texts(normalizer, tmp_path):
    special = [AddedToken(token, normalized=False, rstrip=token == "</s>") for token in SPECIAL]
    folder = write_folder(tmp_path, *TEMPLATES["mistral"], byte_level(normalizer, special))
    ours, tokenizer = load_chat(folder), AutoTokenizer.from_pretrained(folder)
    for turns in conversations("mistral"):
        assert ours.encode(turns, False) == their_ids(tokenizer, turns, False), turns

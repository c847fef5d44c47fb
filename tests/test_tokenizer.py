import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rlhf_jax.data.tokenizer import SentencePieceTokenizer, TokenizerError, load_tokenizer, train_tokenizer

WORDS = "robin sued taylor because morgan lied about money".split()
TEXTS = [" ".join(WORDS[i:] + WORDS[:i]) + "\n\nTL;DR:" for i in range(len(WORDS))] * 20


@pytest.fixture(scope="module")
def tokenizer() -> SentencePieceTokenizer:
    return train_tokenizer(TEXTS, 400, whole=("\n\nTL;DR:",))


@settings(max_examples=300, deadline=None)
@given(text=st.text())
@example(text="  robin\t\tsued \n\n\n taylor  \r\n")
@example(text="naïve 日本語 👩‍👩‍👧 \x00 \ufeff")
@example(text="</s><unk><s><pad><0x0A>")
@example(text="▁robin ▁ sued▁")
def test_any_text_survives_and_holds_no_special_token(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.eos_id not in ids
    assert all(0 < i < tokenizer.vocab_size for i in ids)  # 0 is sentencepiece's unknown piece


def test_trained_words_are_single_tokens(tokenizer):
    for word in WORDS:
        assert len(tokenizer.encode(" " + word)) == 1
    assert len(tokenizer.encode(" " + " ".join(WORDS))) == len(WORDS)


def test_whole_parts_are_single_tokens_wherever_they_stand(tokenizer):
    part = tokenizer.encode("\n\nTL;DR:")
    assert len(part) == 1
    assert tokenizer.encode(" robin\n\nTL;DR: sued") == tokenizer.encode(" robin") + part + tokenizer.encode(
        " sued"
    )


def test_no_space_is_put_before_a_text(tokenizer):
    assert tokenizer.encode("robin") != tokenizer.encode(" robin")
    assert tokenizer.decode(tokenizer.encode(" robin") + tokenizer.encode(" sued")) == " robin sued"


def test_decoding_stops_at_eos_and_drops_padding(tokenizer):
    robin, sued = tokenizer.encode(" robin sued")
    assert tokenizer.pad_id == tokenizer.vocab_size
    assert tokenizer.decode([tokenizer.pad_id, robin, tokenizer.eos_id, sued]) == " robin"
    assert tokenizer.decode([robin, sued, tokenizer.pad_id, tokenizer.pad_id]) == " robin sued"


def test_training_is_deterministic(tmp_path, tokenizer):
    train_tokenizer(TEXTS, 400, whole=("\n\nTL;DR:",)).save(tmp_path / "a")
    tokenizer.save(tmp_path / "b")
    assert (tmp_path / "a" / "tokenizer.model").read_bytes() == (
        tmp_path / "b" / "tokenizer.model"
    ).read_bytes()


def test_saved_tokenizer_is_read_from_folder_and_file(tmp_path, tokenizer):
    tokenizer.save(tmp_path)
    for path in (tmp_path, tmp_path / "tokenizer.model"):
        loaded = load_tokenizer(path)
        assert (loaded.vocab_size, loaded.eos_id) == (tokenizer.vocab_size, tokenizer.eos_id)
        assert loaded.encode(TEXTS[3]) == tokenizer.encode(TEXTS[3])


@pytest.mark.parametrize("content", [b"", b"not a model"])
def test_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(
        TokenizerError, match=r"tokenizer\.model: not a sentencepiece model, or a damaged one$"
    ):
        load_tokenizer(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(TokenizerError, match=r"gone\.model: cannot be read \(No such file or directory\)$"):
        load_tokenizer(tmp_path / "gone.model")


def test_untrainable_vocabulary_is_explained():
    with pytest.raises(
        TokenizerError, match=r"^tokenizer of 100 pieces: Vocabulary size is smaller .* 100 vs"
    ):
        train_tokenizer(TEXTS, 100)
    with pytest.raises(TokenizerError, match="no text to learn from"):
        train_tokenizer([], 400)

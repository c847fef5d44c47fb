import io
import json
import re
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from chat_folders import byte_fallback
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from rlhf_jax.config import Config
from rlhf_jax.data.tokenizer import (
    HuggingFaceTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    TokenizerError,
    load_tokenizer,
    train_tokenizer,
)
from rlhf_jax.run.workdir import open_workdir

WORDS = "robin sued taylor because morgan lied about money".split()
TEXTS = [" ".join(WORDS[i:] + WORDS[:i]) + "\n\nTL;DR:" for i in range(len(WORDS))] * 20
NAMES_EOS = {"eos_token": "<|endoftext|>"}


@pytest.fixture(scope="module")
def tokenizer() -> SentencePieceTokenizer:
    return train_tokenizer(TEXTS, 400, whole=("\n\nTL;DR:",))


def byte_level() -> tokenizers.Tokenizer:
    """Byte-level BPE of 303 tokens: 0 ends a text, 300 is two spaces, 301 and 302 are special."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(TEXTS, trainer)
    made.add_tokens([AddedToken("  ", normalized=False)])
    made.add_special_tokens(["<|pad|>", "<|begin|>"])
    return made


def write_folder(folder: Path, made: tokenizers.Tokenizer, **objects: dict) -> Path:
    """A folder with `made` as its tokenizer.json and each of `objects` as <name>.json."""
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    for name, value in objects.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("pretrained")
    return load_tokenizer(write_folder(folder, byte_level(), tokenizer_config=NAMES_EOS))


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


def foreign_sentencepiece(path: Path, **options) -> Path:
    """A model with BOS, as Llama's has it: 1 is <s>, 2 is </s>."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=model,
        vocab_size=40,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    path.write_bytes(model.getvalue())
    return path


def test_a_sentencepiece_model_with_bos_puts_it_before_texts_unless_told_not_to(tmp_path, tokenizer):
    file = foreign_sentencepiece(tmp_path / "tokenizer.model")
    assert tokenizer.prefix == ()
    for told, prefix in (({}, (1,)), ({"add_bos_token": True}, (1,)), ({"add_bos_token": False}, ())):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(told))
        loaded = load_tokenizer(file)
        assert loaded.prefix == prefix
        assert 1 not in loaded.encode("<s> robin")
        loaded.save(tmp_path / "saved")
        assert load_tokenizer(tmp_path / "saved").prefix == prefix


def characters(normalizer, pre_tokenizer=None) -> tokenizers.Tokenizer:
    """Letters, bytes, ▁, and two of it as one token: 2 ends a text, decoding drops one space in front."""
    names = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{i:02X}>" for i in range(256)),
        *"▁abcdefghijklmnopqrstuvwxyz",
        "▁▁",
    ]
    vocabulary = {name: i for i, name in enumerate(names)}
    merges = [("▁", "▁")]
    made = tokenizers.Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True)
    )
    made.normalizer, made.pre_tokenizer = normalizer, pre_tokenizer
    drop_one = decoders.Strip(" ", 1, 0)
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), drop_one]
    )
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    return made


@pytest.mark.parametrize(
    "made",
    [
        characters(normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])),
        characters(normalizers.Sequence([normalizers.Replace(" ", "▁"), normalizers.Prepend("▁")])),
        characters(None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False)),
        characters(None, pre_tokenizers.Metaspace(prepend_scheme="always", split=False)),
    ],
    ids=["Llama 2", "space last", "Llama 2 in transformers 5", "always"],
)
def test_one_space_stands_between_a_query_and_a_response_encoded_apart(tmp_path, made):
    ours = load_tokenizer(write_folder(tmp_path, made, tokenizer_config={"eos_token": "</s>"}))
    query, response = ours.encode("robin sued"), ours.encode(" taylor")
    assert query + response == made.encode("robin sued taylor", add_special_tokens=False).ids
    assert [made.id_to_token(i) for i in query[:3]] == ["▁", "r", "o"]  # as in pretraining
    assert [made.id_to_token(i) for i in response[:3]] == ["▁", "t", "a"]
    assert ours.decode(query + response) == "robin sued taylor"
    assert [made.id_to_token(i) for i in ours.encode(" ")] == ["▁"]


@pytest.mark.parametrize("cleans", [True, False])
def test_one_space_stands_between_texts_of_a_sentencepiece_model_that_puts_one_before_each(tmp_path, cleans):
    file = foreign_sentencepiece(tmp_path / "tokenizer.model", remove_extra_whitespaces=cleans)
    whole = sentencepiece.SentencePieceProcessor(model_file=str(file))
    ours = load_tokenizer(file)
    assert ours.encode("robin sued") + ours.encode(" taylor") == whole.encode("robin sued taylor")
    assert ours.encode(" ") == [whole.piece_to_id("▁")]
    assert ours.encode("robin▁sued") == whole.encode(
        "robin sued"
    )  # which a model of others cannot tell apart


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


@settings(max_examples=300, deadline=None)
@given(text=st.text())
@example(text="  robin\t\tsued \n\n\n taylor  \r\n")
@example(text="naïve e\u0301 日本語 👩‍👩‍👧 \x00 \ufeff")
@example(text="https://example.com/a/b?c=d&e=%20f#g" * 9)
@example(text="<|endoftext|> <|pad|><|begin|></s>")
def test_any_text_survives_a_byte_level_tokenizer_and_holds_no_special_token(pretrained, text):
    ids = pretrained.encode(text)
    assert pretrained.decode(ids) == text
    assert not {0, 301, 302} & set(ids)


def test_without_merges_every_byte_is_a_token_and_two_spaces_are_one(tmp_path):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(["<|endoftext|>", *alphabet])}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_special_tokens(["<|endoftext|>"])
    made.add_tokens(["  "])
    tokenizer = load_tokenizer(write_folder(tmp_path, made, tokenizer_config=NAMES_EOS))
    assert (tokenizer.vocab_size, tokenizer.eos_id) == (258, 0)
    assert len(tokenizer.encode("né 日<|endoftext|>")) == 1 + 2 + 1 + 3 + 13
    a, b = (1 + alphabet.index(c) for c in "ab")
    assert tokenizer.encode("a  b") == [a, 257, b]


def test_an_end_of_text_listed_as_an_ordinary_token_is_still_text_in_a_post(tmp_path):
    made = byte_level()
    made.add_tokens(["<|eot|>"])
    ordinary = load_tokenizer(write_folder(tmp_path, made, tokenizer_config=NAMES_EOS))
    assert ordinary.encode("<|eot|>") == [303]
    ends = load_tokenizer(write_folder(tmp_path, made, tokenizer_config={"eos_token": "<|eot|>"}))
    assert ends.eos_id == 303
    assert len(ends.encode("<|eot|>")) > 1


def test_the_lengths_that_a_file_asks_for_are_not_applied(tmp_path):
    made = byte_level()
    made.enable_truncation(2)
    made.enable_padding(length=50)
    tokenizer = load_tokenizer(write_folder(tmp_path, made, tokenizer_config=NAMES_EOS))
    robin = tokenizer.encode(" robin")
    assert len(robin) < 50
    assert tokenizer.encode(" robin" * 30) == robin * 30


@pytest.mark.parametrize(
    "template, prefix", [("$A", ()), ("<|begin|> $A", (302,)), ("<|begin|> $A <|endoftext|>", (302,))]
)
def test_the_prefix_is_what_the_file_puts_before_a_text(tmp_path, template, prefix):
    made = byte_level()
    special = [(name, made.token_to_id(name)) for name in ("<|begin|>", "<|endoftext|>")]
    plain = load_tokenizer(write_folder(tmp_path, made, tokenizer_config=NAMES_EOS))
    made.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    framed = load_tokenizer(write_folder(tmp_path, made, tokenizer_config=NAMES_EOS))
    assert (plain.prefix, framed.prefix) == ((), prefix)
    assert framed.encode(" robin") == plain.encode(" robin")
    framed.save(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").prefix == prefix


@pytest.mark.parametrize(
    "said, cut, text",
    [
        ("a\n🐈", 2, "a\n\ufffd"),  # of four bytes: the newline, a byte, stays
        ("é🐈", 3, "é\ufffd"),
        ("é🐈", 1, "é\ufffd"),
        ("a\n🐈", 0, "a\n🐈"),
    ],
)
def test_bytes_that_are_no_character_leave_those_beside_them_alone(said, cut, text):
    ours = HuggingFaceTokenizer(b"", byte_fallback(), 1300, 999)
    ids = ours.encode(said)
    ids = ids[: len(ids) - cut]
    assert ours.decode(ids) == text
    assert ours.decode([*ids, *ours.encode("b")]) == f"{text}b"


def test_special_tokens_but_the_end_are_shown_and_ids_without_a_token_are_not(tmp_path):
    folder = write_folder(
        tmp_path,
        byte_level(),
        tokenizer_config=NAMES_EOS,
        config={"model_type": "gpt_neox", "vocab_size": 320},
    )
    tokenizer = load_tokenizer(folder)
    robin = tokenizer.encode(" robin")
    assert (tokenizer.vocab_size, tokenizer.pad_id) == (320, 320)  # of 303 tokens
    assert tokenizer.decode([tokenizer.pad_id, *robin, 319, 301, *robin]) == " robin<|pad|> robin"
    assert tokenizer.decode([*robin, tokenizer.eos_id, *robin]) == " robin"


def test_special_tokens_that_no_text_becomes_need_no_rows_as_in_gemma_3(tmp_path):
    folder = write_folder(
        tmp_path, byte_level(), tokenizer_config=NAMES_EOS, config={"model_type": "gpt2", "vocab_size": 301}
    )
    tokenizer = load_tokenizer(folder)
    robin = tokenizer.encode("  robin")
    assert robin[0] == 300  # the last row; <|pad|> and <|begin|> have none
    assert (tokenizer.vocab_size, tokenizer.pad_id) == (301, 301)
    assert tokenizer.decode([*robin, tokenizer.pad_id, 302]) == "  robin"
    assert max(tokenizer.encode("<|pad|><|begin|>")) < 301
    tokenizer.save(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").vocab_size == 301


def test_a_token_that_begins_or_ends_texts_needs_a_row(tmp_path):
    made = byte_level()
    folder = write_folder(
        tmp_path, made, tokenizer_config={"eos_token": "<|pad|>"}, config={"vocab_size": 301}
    )
    with pytest.raises(TokenizerError, match=r"the model has 301 rows, and none for '<\|pad\|>' \(301\)"):
        load_tokenizer(folder)
    begins = [("<|begin|>", made.token_to_id("<|begin|>"))]
    made.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=begins)
    write_folder(tmp_path, made, tokenizer_config=NAMES_EOS)
    with pytest.raises(TokenizerError, match=r"none for '<\|begin\|>' \(302\)"):
        load_tokenizer(folder)


def test_the_first_file_that_names_the_end_of_text_decides(tmp_path):
    files = {
        "config": {"eos_token_id": 301},
        "generation_config": {"eos_token_id": [302, 301]},
        "special_tokens_map": {"eos_token": {"content": "<|pad|>", "lstrip": False}},
        "tokenizer_config": {"eos_token": "<|endoftext|>"},
    }
    for (name, value), eos_id in zip(files.items(), (301, 302, 301, 0), strict=True):
        folder = write_folder(tmp_path, byte_level(), **{name: value})
        assert load_tokenizer(folder).eos_id == eos_id
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": null}')
    assert load_tokenizer(tmp_path).eos_id == 301


def test_a_tokenizer_saved_in_a_runs_folder_is_the_same_tokenizer(tmp_path, tokenizer):
    pieces = tokenizer.vocab_size
    for name, rows in (("json", 303), ("json_padded", 384), ("pieces", pieces), ("pieces_padded", 512)):
        source, workdir = tmp_path / name, open_workdir(tmp_path / f"run_{name}", Config())
        if name.startswith("json"):
            write_folder(source, byte_level(), config={"vocab_size": rows, "eos_token_id": 301})
        else:
            tokenizer.save(source)
            (source / "config.json").write_text(json.dumps({"vocab_size": rows}))
        before = load_tokenizer(source)
        before.save(workdir)
        after = load_tokenizer(workdir)
        assert before.vocab_size == rows
        for field in ("vocab_size", "eos_id", "pad_id", "prefix"):
            assert getattr(after, field) == getattr(before, field), (name, field)
        assert after.encode(TEXTS[3]) == before.encode(TEXTS[3])
        file = "tokenizer.json" if name.startswith("json") else "tokenizer.model"
        assert (workdir / file).read_bytes() == (source / file).read_bytes()
        assert not list(workdir.glob("*.part"))


def test_in_a_folder_tokenizer_json_goes_before_tokenizer_model(tmp_path, tokenizer):
    tokenizer.save(tmp_path)
    write_folder(tmp_path, byte_level(), tokenizer_config=NAMES_EOS)
    sizes = [load_tokenizer(tmp_path / name).vocab_size for name in ("", "tokenizer.json", "tokenizer.model")]
    assert sizes == [303, 303, tokenizer.vocab_size]


@pytest.mark.parametrize(
    "model",
    [
        models.WordLevel({"<|end|>": 0, "a": 1}, unk_token="<unk>"),
        models.Unigram([("<|end|>", 0.0), ("a", -1.0)]),
    ],
)
def test_a_tokenizer_that_cannot_read_every_text_is_told(tmp_path, model):
    write_folder(tmp_path, tokenizers.Tokenizer(model), tokenizer_config={"eos_token": "<|end|>"})
    with pytest.raises(
        TokenizerError, match=r"tokenizer\.json: not every text can be read with it \(.*; name the token"
    ):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("tokenizer.json", "", r"tokenizer\.json: not a tokenizer\.json, or a damaged one \(EOF .* line 1"),
        ("tokenizer.json", "{}", r"tokenizer\.json: not a tokenizer\.json, or a damaged one \(Model missing"),
        ("tokenizer_config.json", "{", r"tokenizer_config\.json: not JSON \(.*column 2"),
        ("tokenizer_config.json", "[]", r"tokenizer_config\.json: should be a JSON object$"),
        (
            "tokenizer_config.json",
            "{}",
            r"tokenizer\.json: no end-of-text token known; name it beside this file in one of "
            r"tokenizer_config\.json \(eos_token\), special_tokens_map\.json \(eos_token\), "
            r"generation_config\.json \(eos_token_id\), config\.json \(eos_token_id\)$",
        ),
        (
            "tokenizer_config.json",
            '{"eos_token": "</s>"}',
            r"tokenizer_config\.json: eos_token '</s>' is not a token of tokenizer\.json$",
        ),
        (
            "config.json",
            '{"eos_token_id": 303}',
            r"config\.json: eos_token_id 303 is not a token of tokenizer\.json$",
        ),
        (
            "config.json",
            '{"vocab_size": 300}',
            r"tokenizer\.json: 303 tokens, but the model has 300 rows .*\(vocab_size in config\.json\)",
        ),
    ],
)
def test_each_fault_of_a_folder_is_one_line_that_names_the_file(tmp_path, name, content, message):
    write_folder(tmp_path, byte_level())
    (tmp_path / name).write_text(content)
    with pytest.raises(TokenizerError, match=rf"^{re.escape(str(tmp_path))}/{message}") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_more_pieces_than_rows_are_refused_too(tmp_path, tokenizer):
    tokenizer.save(tmp_path)
    (tmp_path / "config.json").write_text('{"vocab_size": 300}')
    with pytest.raises(TokenizerError, match=r"tokenizer\.model: \d+ tokens, but the model has 300 rows"):
        load_tokenizer(tmp_path)


def test_a_folder_without_a_tokenizer_and_a_file_that_is_none_are_named(tmp_path):
    with pytest.raises(TokenizerError, match=r"neither tokenizer\.json nor tokenizer\.model in this folder$"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").mkdir()
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: cannot be read \(Is a directory\)$"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_that_reads_the_name_of_the_end_as_the_end_is_refused(tmp_path):
    pieces = [("<unk>", 0.0), ("</s>", 0.0), *((c, -2.0) for c in "</s>a")]
    made = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=0))
    made.add_special_tokens(["</s>"])
    write_folder(tmp_path, made, tokenizer_config={"eos_token": "</s>"})
    with pytest.raises(
        TokenizerError, match=r"tokenizer\.json: a post that says '</s>' would get the special"
    ):
        load_tokenizer(tmp_path)

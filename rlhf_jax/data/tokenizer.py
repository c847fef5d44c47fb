"""Text to token ids and back, behind one small protocol; the implementation is sentencepiece.

The tokenizers trained here are lossless: `decode(encode(text)) == text` for any text. They
neither normalize nor strip, a newline is a piece of its own, characters without a piece
become their UTF-8 bytes, and no space is put before the text: " word" is what to encode
where a word follows others, as a response follows its query.
"""

import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import sentencepiece

FILE_NAME = "tokenizer.model"
TRAINING_CHARACTERS = 10_000_000  # enough for stable pieces, a few seconds on one core
META_SPACE = "\u2581"  # what sentencepiece writes for a space


class TokenizerError(ValueError):
    """A tokenizer that cannot be trained or read."""


class Tokenizer(Protocol):
    vocab_size: int
    eos_id: int
    pad_id: int  # vocab_size: outside the vocabulary, never in a text

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; never a special one, whatever the text says."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text up to the first EOS, without padding."""

    def save(self, folder: str | Path) -> None:
        """Writes what `load_tokenizer(folder)` reads."""


class SentencePieceTokenizer:
    """A sentencepiece model as a `Tokenizer`."""

    def __init__(self, model: bytes):
        self._processor = sentencepiece.SentencePieceProcessor()
        self._processor.LoadFromSerializedProto(model)
        self._meta_space = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in META_SPACE.encode()]
        self.vocab_size = self._processor.vocab_size()
        self.eos_id = self._processor.eos_id()
        self.pad_id = self.vocab_size

    def encode(self, text: str) -> list[int]:
        first, *others = self._processor.encode(text.split(META_SPACE))
        for part in others:  # sentencepiece would read the character itself as a space
            first += self._meta_space + part
        return first

    def decode(self, ids: Iterable[int]) -> str:
        kept = []
        for i in ids:
            if i == self.eos_id:
                break
            if i < self.vocab_size:
                kept.append(int(i))
        return self._processor.decode(kept)

    def piece(self, i: int) -> str:
        """The text of one token, for people: "▁" stands for a space."""
        return self._processor.id_to_piece(i)

    def save(self, folder: str | Path) -> None:
        path = Path(folder) / FILE_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.part")
        partial.write_bytes(self._processor.serialized_model_proto())
        os.replace(partial, path)


def load_tokenizer(path: str | Path) -> SentencePieceTokenizer:
    """The tokenizer in a sentencepiece model file, or in a folder that holds `tokenizer.model`."""
    path = Path(path)
    if path.is_dir():
        path = path / FILE_NAME
    try:
        tokenizer = SentencePieceTokenizer(path.read_bytes())
    except OSError as error:
        raise TokenizerError(f"{path}: cannot be read ({error.strerror})") from None
    except RuntimeError:
        raise TokenizerError(f"{path}: not a sentencepiece model, or a damaged one") from None
    if tokenizer.eos_id < 0:
        raise TokenizerError(f"{path}: this sentencepiece model has no end-of-text piece (</s>)")
    return tokenizer


def train_tokenizer(
    texts: Sequence[str], vocabulary: int, whole: Sequence[str] = ()
) -> SentencePieceTokenizer:
    """Trains a BPE model of at most `vocabulary` pieces, 256 bytes among them; deterministic.

    `whole` are texts that become one piece each wherever they stand, such as the fixed parts of a
    query. BPE rather than unigram, which on a small vocabulary keeps stems and endings where
    whole words would fit. Texts beyond TRAINING_CHARACTERS are thinned out evenly.
    """
    thinning = -(-sum(map(len, texts)) // TRAINING_CHARACTERS)
    lines = (line for text in texts[:: max(thinning, 1)] for line in text.split("\n") if line)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines,
            model_writer=model,
            model_type="bpe",
            vocab_size=vocabulary,
            hard_vocab_limit=False,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            user_defined_symbols=["\n", *whole],
            unk_id=0,
            eos_id=1,
            bos_id=-1,
            pad_id=-1,
            max_sentence_length=1 << 20,
            shuffle_input_sentence=False,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error).rpartition("] ")[2].partition(" Increase")[0] or "there is no text to learn from"
        raise TokenizerError(f"tokenizer of {vocabulary} pieces: {reason}") from None
    return SentencePieceTokenizer(model.getvalue())

"""Text to token ids and back, behind one small protocol: sentencepiece and Hugging Face's tokenizer.json.

The tokenizers trained here are sentencepiece models and lossless: `decode(encode(text)) == text`
for any text. They neither normalize nor strip, a newline is a piece of its own, characters
without a piece become their UTF-8 bytes, and no space is put before the text: " word" is what
to encode where a word follows others, as a response follows its query. A pretrained model's
tokenizer is taken as it is; a byte-level one is lossless too, unless it normalizes.
"""

import io
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import groupby, takewhile
from os import PathLike
from typing import Protocol

import sentencepiece
import tokenizers
from etils.epath import Path

from rlhf_jax.files import read_object, whole, write_json

JSON_FILE = "tokenizer.json"
MODEL_FILE = "tokenizer.model"
SETTINGS_FILE = "tokenizer_config.json"
GENERATION_FILE = "generation_config.json"
TEMPLATE_FILE = "chat_template.jinja"
EOS_NAMED_IN = (  # the first that names it decides
    (SETTINGS_FILE, "eos_token"),
    ("special_tokens_map.json", "eos_token"),
    (GENERATION_FILE, "eos_token_id"),
    ("config.json", "eos_token_id"),
)
ROWS_NAMED_IN = ("config.json", SETTINGS_FILE)
TRAINING_CHARACTERS = 10_000_000  # enough for stable pieces, a few seconds on one core
UNFINISHED = "\ufffd"  # what decodes from bytes that are not yet, or never, a character
NO_CHARACTER = "\uffff"  # and Unicode promises that it never becomes one: no vocabulary has it
META_SPACE = "\u2581"  # what sentencepiece writes for a space


class TokenizerError(ValueError):
    """A tokenizer that cannot be trained or read."""


class Tokenizer(Protocol):
    vocab_size: int  # rows of the model's embedding: some models have more of them than there are tokens
    eos_id: int  # with which a response is written
    eos_ids: tuple[int, ...]  # each of them ends a response that a policy writes
    pad_id: int  # vocab_size: outside the vocabulary, never in a text
    prefix: tuple[int, ...]  # what the model expects before every text, such as Llama's BOS; often nothing

    def encode(self, text: str) -> list[int]:
        """Token ids of `text` without the prefix; never a special one, whatever the text says.

        A tokenizer that puts a space before every text, as Llama 2's does, puts none before one that
        begins with a space: it follows another.
        """

    def decode(self, ids: Iterable[int]) -> str:
        """The text up to the first EOS, without padding and ids that no token has."""

    def save(self, folder: str | PathLike[str]) -> None:
        """Writes what `load_tokenizer(folder)` reads."""


class SentencePieceTokenizer:
    """A sentencepiece model as a `Tokenizer`."""

    def __init__(
        self, processor: sentencepiece.SentencePieceProcessor, vocab_size: int, prefix: tuple[int, ...]
    ):
        self._processor = processor
        self._meta_space = [processor.piece_to_id(f"<0x{byte:02X}>") for byte in META_SPACE.encode()]
        self.vocab_size = self.pad_id = vocab_size
        self.eos_id = processor.eos_id()
        self.eos_ids: tuple[int, ...] = (self.eos_id,)
        self.prefix = prefix
        self._puts_space = _puts_space(processor.normalize)

    def encode(self, text: str) -> list[int]:
        if self._puts_space:  # a model of others, which reads the character ▁ as a space
            space = [self._processor.piece_to_id(META_SPACE)]
            return space if text == " " else self._processor.encode(text.removeprefix(" "))
        # One by one: for a list sentencepiece starts threads, which takes longer than a text.
        first, *others = map(self._processor.encode, text.split(META_SPACE))
        for part in others:  # sentencepiece would read the character itself as a space
            first += self._meta_space + part
        return first

    def decode(self, ids: Iterable[int]) -> str:
        pieces = self._processor.vocab_size()
        return self._processor.decode([i for i in before(self.eos_ids, ids) if i < pieces])

    def save(self, folder: str | PathLike[str]) -> None:
        settings = {"eos_token": self._processor.id_to_piece(self.eos_id), "add_bos_token": bool(self.prefix)}
        if self.vocab_size != self._processor.vocab_size():
            settings["vocab_size"] = self.vocab_size
        _save(Path(folder), MODEL_FILE, self._processor.serialized_model_proto(), settings)


class HuggingFaceTokenizer:
    """A tokenizer.json as a `Tokenizer`; `content` is the file, `tokenizer` what it holds.

    The ids are those of transformers with `add_special_tokens=False, split_special_tokens=True`.
    Special tokens other than EOS decode to their names: whoever reads a sample should see them. Bytes
    that are no character leave those beside them alone, as with byte-level tokenizers, so that a text that
    is shown while it grows keeps its beginning; transformers would lose the characters beside them.
    """

    def __init__(self, content: bytes, tokenizer: tokenizers.Tokenizer, vocab_size: int, eos_id: int):
        self._content = content
        self._tokenizer = tokenizer
        self._eos_token = tokenizer.id_to_token(eos_id)
        tokenizer.add_special_tokens([self._eos_token])  # some files list it as an ordinary added token
        tokenizer.encode_special_tokens = True  # as the ordinary text they are
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.vocab_size = self.pad_id = vocab_size
        self.eos_id = eos_id
        self.eos_ids: tuple[int, ...] = (eos_id,)
        framed = tokenizer.encode("a")
        specials = sum(takewhile(bool, framed.special_tokens_mask))
        self.prefix = tuple(framed.ids[:specials])
        self._puts_space = bool(tokenizer.normalizer) and _puts_space(tokenizer.normalizer.normalize_str)
        named = (tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in range(256))
        ids = [i for i in named if i is not None]
        are_bytes = len(ids) == 256 and tokenizer.decode(ids[0x80:0x81]) == UNFINISHED
        self._byte_ids = ids if are_bytes else []
        self._bytes = {i: byte for byte, i in enumerate(self._byte_ids)}

    def encode(self, text: str) -> list[int]:
        if self._puts_space and text == " ":
            space = self._tokenizer.token_to_id(META_SPACE)
            return [] if space is None else [space]
        text = text.removeprefix(" ") if self._puts_space else text
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        written = [i for i in before(self.eos_ids, ids) if i < self.vocab_size]
        return self._tokenizer.decode(self._in_characters(written), skip_special_tokens=False)

    def _in_characters(self, ids: list[int]) -> list[int]:
        """The ids with U+FFFD for bytes that are no character."""
        whole: list[int] = []
        for are_bytes, run in groupby(ids, self._bytes.__contains__):
            if are_bytes:
                text = bytes(self._bytes[i] for i in run).decode(errors="replace")
                run = (self._byte_ids[byte] for byte in text.encode())
            whole += run
        return whole

    def save(self, folder: str | PathLike[str]) -> None:
        settings: dict = {"eos_token": self._eos_token}
        if self.vocab_size != _token_count(self._tokenizer):
            settings["vocab_size"] = self.vocab_size
        _save(Path(folder), JSON_FILE, self._content, settings)


def load_tokenizer(path: str | PathLike[str]) -> Tokenizer:
    """The tokenizer in a sentencepiece model, a tokenizer.json, or a folder that holds one of the two.

    In a folder tokenizer.json goes first. What neither says, the JSON files beside them do, each of
    which may be missing: the rows of the model's embedding, EOS, whether texts begin with BOS.
    """
    file = Path(path)
    if file.is_dir():
        held = [file / name for name in (JSON_FILE, MODEL_FILE) if (file / name).exists()]
        if not held:
            raise TokenizerError(f"{path}: neither {JSON_FILE} nor {MODEL_FILE} in this folder")
        file = held[0]
    return _load_json(file) if file.suffix == ".json" else _load_sentencepiece(file)


def _load_sentencepiece(path: Path) -> SentencePieceTokenizer:
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(_read(path))
    except (RuntimeError, UnicodeDecodeError):  # the latter where its own words quote a damaged piece
        raise TokenizerError(f"{path}: not a sentencepiece model, or a damaged one") from None
    if processor.eos_id() < 0:
        raise TokenizerError(f"{path}: this sentencepiece model has no end-of-text piece (</s>)")
    rows = _embedding_rows(path, processor.vocab_size(), last=processor.vocab_size() - 1)
    settings = path.with_name(SETTINGS_FILE)
    adds_bos = read_object(settings, TokenizerError, missing={}).get("add_bos_token", True)  # as Llama's does
    if type(adds_bos) is not bool:
        raise TokenizerError(f"{settings}: add_bos_token {adds_bos!r} should be true or false")
    prefix = (processor.bos_id(),) if adds_bos and processor.bos_id() >= 0 else ()
    return SentencePieceTokenizer(processor, rows, prefix)


def _load_json(path: Path) -> HuggingFaceTokenizer:
    content = _read(path)
    try:
        held = tokenizers.Tokenizer.from_buffer(content)
    except ValueError as error:
        reason = str(error).partition(": ")[2]
        raise TokenizerError(f"{path}: not a tokenizer.json, or a damaged one ({reason})") from None
    if not held.get_vocab():
        raise TokenizerError(f"{path}: a tokenizer without any token")
    _check_reads_all(path, held)
    special = {i for i, token in held.get_added_tokens_decoder().items() if token.special}
    last = max(set(held.get_vocab().values()) - special, default=0)
    rows = _embedding_rows(path, _token_count(held), last)
    tokenizer = HuggingFaceTokenizer(content, held, rows, _eos_id(path, held))
    for i in (tokenizer.eos_id, *tokenizer.prefix):
        name = held.decode([i], skip_special_tokens=False)
        if i >= rows:
            raise TokenizerError(
                f"{path}: the model has {rows} rows, and none for {name!r} ({i}); "
                "use the tokenizer it was trained with"
            )
        if i in tokenizer.encode(name):  # an ordinary piece, or a unigram model: these know no special ones
            raise TokenizerError(
                f"{path}: a post that says {name!r} would get the special token of that name; "
                "use a tokenizer that keeps them apart, such as byte-level BPE"
            )
    return tokenizer


def _check_reads_all(path: Path, tokenizer: tokenizers.Tokenizer) -> None:
    try:
        tokenizer.encode(f"a{NO_CHARACTER}")
    except Exception as error:  # the library has no narrower one
        raise TokenizerError(
            f"{path}: not every text can be read with it ({error}); name the token of what it does not know "
            "in it, as unk_token or unk_id of the model"
        ) from None


def _eos_id(path: Path, tokenizer: tokenizers.Tokenizer) -> int:
    for name, field in EOS_NAMED_IN:
        value = read_object(path.with_name(name), TokenizerError, missing={}).get(field)
        if value is None:
            continue
        if isinstance(value, list):  # several ids
            value = next(iter(value), None)
        elif isinstance(value, dict):  # a token with its settings
            value = value.get("content")
        eos_id = tokenizer.token_to_id(value) if isinstance(value, str) else value
        if type(eos_id) is not int or eos_id not in tokenizer.get_vocab().values():
            raise TokenizerError(f"{path.with_name(name)}: {field} {value!r} is not a token of {path.name}")
        return eos_id
    places = ", ".join(f"{name} ({field})" for name, field in EOS_NAMED_IN)
    raise TokenizerError(f"{path}: no end-of-text token known; name it beside this file in one of {places}")


def _embedding_rows(path: Path, tokens: int, last: int) -> int:
    """The rows of the model's embedding, one for each id that a text can become, of which `last` is the last.

    Special tokens may lie beyond, as that of images does in Gemma 3's models that read text alone.
    """
    for name in ROWS_NAMED_IN:
        rows = read_object(path.with_name(name), TokenizerError, missing={}).get("vocab_size")
        if rows is None:
            continue
        if type(rows) is not int:
            raise TokenizerError(f"{path.with_name(name)}: vocab_size {rows!r} should be a whole number")
        if rows <= last:
            raise TokenizerError(
                f"{path}: {tokens} tokens, but the model has {rows} rows for them (vocab_size in {name}); "
                "use the tokenizer it was trained with"
            )
        return rows
    return tokens


def _token_count(tokenizer: tokenizers.Tokenizer) -> int:
    """One more than the largest id: ids may have gaps."""
    return max(tokenizer.get_vocab().values()) + 1


def _puts_space(normalize: Callable[[str], str]) -> bool:
    """Whether a tokenizer that reads what `normalize` makes of a text puts a space before it, and before any.

    Those that do so later, for each word, leave the space with which a text begins alone.
    """
    return normalize("a") in (" a", f"{META_SPACE}a")


def before(eos_ids: Collection[int], ids: Iterable[int]) -> list[int]:
    """The ids before the first EOS."""
    return [int(i) for i in takewhile(lambda i: i not in eos_ids, ids)]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TokenizerError(f"{path}: cannot be read ({error.strerror})") from None


def _save(folder: Path, name: str, content: bytes, settings: dict) -> None:
    write_json(folder / SETTINGS_FILE, settings)
    with whole(folder / name) as partial:
        partial.write_bytes(content)


def train_tokenizer(
    texts: Sequence[str], vocabulary: int, whole: Sequence[str] = ()
) -> SentencePieceTokenizer:
    """Trains a BPE model of at most `vocabulary` pieces, 256 bytes among them; deterministic.

    `whole` are texts without spaces (sentencepiece overlooks others) that become one piece each
    wherever they stand, such as the fixed parts of a query. BPE rather than unigram, which on a small
    vocabulary keeps stems and endings where whole words would fit. Texts beyond TRAINING_CHARACTERS
    are thinned out evenly.
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
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return SentencePieceTokenizer(processor, processor.vocab_size(), prefix=())

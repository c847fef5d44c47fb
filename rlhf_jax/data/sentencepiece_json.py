"""A sentencepiece model of ours as the `tokenizer.json` that transformers opens."""

from collections.abc import Iterator

import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE

from rlhf_jax.data.tokenizer import META_SPACE, TokenizerError

SAMPLES = (
    "SUBREDDIT: r/pets\n\nTITLE: my cat\n\nPOST: Why does he hiss?! I'm 30, it's so odd.\n\nTL;DR:",
    " two  spaces, a\ttab, https://example.org/a_b?c=1#d, café, naïve, 猫, 🐈‍⬛, and </s> <unk>",
)


def tokenizer_json(model: bytes) -> bytes:
    """The file for a BPE model as `train_tokenizer` makes them.

    It gives the same ids for any text without the character ▁. Raises TokenizerError for a model
    that normalizes, puts a space in front or is no BPE.
    """
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = [processor.id_to_piece(i) for i in range(processor.vocab_size())]
    first_byte = pieces.index("<0x00>") if "<0x00>" in pieces else len(pieces)
    ranks = {piece: rank for rank, piece in enumerate(pieces[first_byte + 256 :])}
    tokenizer = Tokenizer(
        BPE(
            vocab={piece: i for i, piece in enumerate(pieces)},
            merges=[pair for piece in ranks for pair in _splits(piece, ranks)],
            unk_token=pieces[processor.unk_id()],
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Replace(" ", META_SPACE)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(META_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    special = [pieces[i] for i in range(first_byte) if processor.is_control(i) or processor.is_unknown(i)]
    whole = [piece for piece in pieces[:first_byte] if piece not in special]
    matched = [piece for piece in whole if " " not in piece]  # sentencepiece looks for them after ▁ took over
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in matched])
    tokenizer.add_special_tokens([AddedToken(piece, normalized=False) for piece in special])
    text = tokenizer.to_str()
    tokenizer.encode_special_tokens = True
    for sample in SAMPLES:
        if tokenizer.encode(sample, add_special_tokens=False).ids != processor.encode(sample):
            raise TokenizerError(
                "this sentencepiece model cannot be written as a tokenizer.json: it is not one of ours; "
                "take the tokenizer.json of the model it came with"
            )
    return text.encode()


def _splits(piece: str, ranks: dict[str, int]) -> Iterator[tuple[str, str]]:
    """The pairs of pieces whose merge gives `piece`, which sentencepiece does not store."""
    for k in range(1, len(piece)):
        if piece[:k] in ranks and piece[k:] in ranks:
            yield piece[:k], piece[k:]

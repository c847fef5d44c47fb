"""Rows of the documents that a base model is trained on."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from rlhf_jax.data.mini.documents import documents
from rlhf_jax.data.tokenizer import load_tokenizer
from rlhf_jax.model import pretrained
from rlhf_jax.pipeline import pretrain

PAD = 9


def rows(*lengths):
    encoded = (([i] * n, [0.1] + [1.0] * (n - 1)) for i, n in enumerate(lengths, 1))
    return list(pretrain.packed_rows(encoded, PAD))


def test_a_row_takes_documents_until_the_next_does_not_fit():
    made = rows(100, 44, 1, 100, 60)  # 100 + 44 = 144 fills a row; 1 + 100 + 60 is more than one
    assert [np.unique(row["tokens"]).tolist() for row in made] == [[1, 2], [3, 4, PAD]]
    assert (made[0]["segments"] == [1] * 100 + [2] * 44).all()
    assert (made[1]["segments"] == [1] + [2] * 100 + [0] * 43).all()


def test_nothing_predicts_the_first_token_of_a_document_or_padding():
    row = rows(3, 4, 144)[0]
    assert row["weights"][:8].tolist() == [0, 1, 1, 0, 1, 1, 1, 0]
    assert row["weights"][7:].sum() == 0


def test_spans_keep_their_weights_and_a_document_ends_in_eos():
    tokenizer = load_tokenizer(pretrained.folder_of("mini/small"))
    tokens, weights = pretrain.encode([("POST: anna", 0.1), (" left", 1.0)], tokenizer)
    before = len(tokenizer.encode("POST: anna"))
    assert tokens[-1] == tokenizer.eos_id
    assert weights == [0.1] * before + [1.0] * (len(tokens) - before)


def test_every_document_fits_into_a_row():
    tokenizer = load_tokenizer(pretrained.folder_of("mini/small"))
    longest = max(
        len(tokenizer.encode("".join(text for text, _ in spans))) + 1 for spans in documents(5, 300)
    )
    assert longest <= pretrain.ROW_TOKENS


@pytest.mark.parametrize("name", ["small", "large"])
def test_the_shipped_bases_share_one_tokenizer_and_fit_the_package(name):
    folder = pretrained.folder_of(f"mini/{name}")
    small = pretrained.folder_of("mini/small")
    assert (folder / "tokenizer.model").read_bytes() == (small / "tokenizer.model").read_bytes()
    assert sum(p.stat().st_size for p in Path(pretrained.SHIPPED).rglob("*") if p.is_file()) < 8_000_000


def test_an_update_draws_documents_that_no_other_update_draws():
    first = ["".join(t for t, _ in s) for s in islice(documents(0, 40), 40)]
    again = ["".join(t for t, _ in s) for s in documents(0, 20, start=20)]
    assert first[20:] == again

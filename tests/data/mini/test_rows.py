"""Rows of the documents that a base model is trained on."""

import numpy as np
import pytest

from rlhf_jax.data.mini import rows
from rlhf_jax.data.mini.documents import Document, documents
from rlhf_jax.data.tasks.tldr import Tldr
from rlhf_jax.data.tokenizer import train_tokenizer
from rlhf_jax.pipeline.pretrain import VOCABULARY

PAD = 9


@pytest.fixture(scope="module")
def tokenizer():
    texts = [document.text for document in documents(0, 0, 5_000, 5_000)]
    return train_tokenizer(texts, VOCABULARY, Tldr.pieces)


def packed(*lengths):
    encoded = (rows.Encoded([i] * n, [0.1] + [1.0] * (n - 1), {}) for i, n in enumerate(lengths, 1))
    return list(rows.packed_rows(encoded, PAD))


def test_a_document_goes_into_the_first_row_with_room_and_the_fullest_of_eight_is_closed():
    # 100 + 28 fill the first row, and 60 + 68 the second; six more rows and the ninth closes the fullest.
    first, second = packed(100, 60, 28, 68, *[120] * 6, 90, 90)
    assert np.unique(first["tokens"]).tolist() == [1, 3]
    assert first["segments"].tolist() == [1] * 100 + [2] * 28
    assert np.unique(second["tokens"]).tolist() == [2, 4]


def test_nothing_predicts_the_first_token_of_a_document_or_padding():
    row = packed(*[120] * 8, 3, 4, 128, 128)[-1]
    assert row["weights"][0] == 0 and row["weights"][1:120].all()
    assert row["tokens"].shape == row["segments"].shape == (rows.ROW_TOKENS,)
    assert (row["weights"][row["segments"] == 0] == 0).all()


def test_spans_keep_their_weights_and_a_document_ends_in_eos(tokenizer):
    tokens, weights, _ = rows.encode(Document([(" anna", 0.1), (" left", 1.0)], {}), tokenizer)
    before = len(tokenizer.encode(" anna"))
    assert tokens[-1] == tokenizer.eos_id
    assert weights == [0.1] * before + [1.0] * (len(tokens) - before)


def test_every_document_fits_into_a_row(tokenizer):
    lengths = [len(tokenizer.encode(document.text)) + 1 for document in documents(5, 1_500, 2_000, 2_000)]
    assert max(lengths) <= rows.ROW_TOKENS


def test_processes_make_the_batches_that_one_makes_wherever_it_begins(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    made = list(rows.batches(str(tmp_path), 3, 1, 3, workers=2))
    for i, batch in enumerate(made, 1):
        alone = rows.batch(str(tmp_path), 3, 3, i)
        assert all(values.shape[:2] == (rows.ROWS, rows.ROW_TOKENS) for values in batch.values())
        assert all((batch[name] == alone[name]).all() for name in alone)
    assert (made[0]["tokens"] != made[1]["tokens"]).any()

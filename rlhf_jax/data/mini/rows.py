"""Rows of pretraining documents, packed beside each other, and the batches of updates made of them.

Update i of a course reads the batch that (seed, i, number of updates) names, whichever process makes it.
"""

import functools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context

import numpy as np

from rlhf_jax.data.mini.documents import Spans, documents
from rlhf_jax.data.tokenizer import Tokenizer, load_tokenizer

ROWS = 16  # of an update
ROW_TOKENS = 128  # of a packed row; a document is cut there
ROW_FILLED = 0.85  # of a packed row, on average
OPEN_ROWS = 8  # that wait for documents that fit
DOCUMENTS = 6 * (ROWS + OPEN_ROWS)  # set apart for an update, more than it can hold
AHEAD = 64  # batches that are made before they are asked for

Batch = dict[str, np.ndarray]  # tokens, segments and weights, each [ROWS, ROW_TOKENS]


def batches(tokenizer: str, seed: int, first: int, updates: int, workers: int) -> Iterator[Batch]:
    """The batches of a course of `updates`, from that of update `first`, made by other processes.

    `tokenizer` is its folder. The workers know nothing of JAX, which may hold an accelerator.
    """
    make = functools.partial(batch, tokenizer, seed, updates)
    ahead: deque[Future[Batch]] = deque()
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for i in range(first, updates):
            ahead.append(pool.submit(make, i))
            if len(ahead) > AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def batch(tokenizer: str, seed: int, updates: int, i: int) -> Batch:
    """That of update i, from documents that no other update reads."""
    coder = _loaded(tokenizer)
    drawn = documents(seed, i * DOCUMENTS, (i + 1) * DOCUMENTS, updates * DOCUMENTS)
    rows = list(islice(packed_rows((encode(one, coder) for one in drawn), coder.pad_id), ROWS))
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


_loaded = functools.cache(load_tokenizer)


def encode(spans: Spans, tokenizer: Tokenizer) -> tuple[list[int], list[float]]:
    """Token ids and weights of a document, EOS included."""
    tokens, weights = [], []
    for text, weight in spans:
        ids = tokenizer.encode(text)
        tokens += ids
        weights += [weight] * len(ids)
    return [*tokens, tokenizer.eos_id][:ROW_TOKENS], [*weights, weights[-1]][:ROW_TOKENS]


def packed_rows(encoded: Iterable[tuple[list[int], list[float]]], pad_id: int) -> Iterator[Batch]:
    """Rows of whole documents: each goes into the first open row that it fits into; the fullest is closed."""
    open_rows: list[dict[str, list]] = []
    for tokens, weights in encoded:
        row = next((one for one in open_rows if len(one["tokens"]) + len(tokens) <= ROW_TOKENS), None)
        if row is None:
            if len(open_rows) == OPEN_ROWS:
                fullest = max(open_rows, key=lambda one: len(one["tokens"]))
                open_rows.remove(fullest)
                yield _closed(fullest, pad_id)
            row = {"tokens": [], "segments": [0], "weights": []}
            open_rows.append(row)
        row["segments"] += [row["segments"][-1] + 1] * len(tokens)
        row["tokens"] += tokens
        row["weights"] += [0.0, *weights[1:]]  # nothing predicts a document's first token


def _closed(row: dict[str, list], pad_id: int) -> Batch:
    padding = ROW_TOKENS - len(row["tokens"])
    return {
        "tokens": np.array(row["tokens"] + [pad_id] * padding, np.int32),
        "segments": np.array(row["segments"][1:] + [0] * padding, np.int32),
        "weights": np.array(row["weights"] + [0.0] * padding, np.float32),
    }

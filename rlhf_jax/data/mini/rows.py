"""Rows of pretraining documents, packed beside each other, and the batches of updates made of them.

Update i of a course reads the batch that (seed, i, number of updates) names, whichever process makes it.
"""

import functools
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np

from rlhf_jax.data.mini.clauses import NO_SLOT, SLOTS, Clause, values
from rlhf_jax.data.mini.documents import Document, documents
from rlhf_jax.data.tokenizer import Tokenizer, load_tokenizer

ROWS = 16  # of an update
ROW_TOKENS = 128  # of a packed row; a document is cut there
ROW_FILLED = 0.85  # of a packed row, on average
OPEN_ROWS = 8  # that wait for documents that fit
DOCUMENTS = 6 * (ROWS + OPEN_ROWS)  # set apart for an update, more than it can hold
AHEAD = 64  # batches that are made before they are asked for

# tokens, segments and weights [ROWS, ROW_TOKENS]; says and found [ROWS, ROW_TOKENS, slots], at the last token
# of a clause: what it says and what the story says of it (clauses.values)
Batch = dict[str, np.ndarray]


class Encoded(NamedTuple):
    """A document's tokens, their weights, and the clauses by the token with which they end."""

    tokens: Sequence[int]
    weights: Sequence[float]
    clauses: Mapping[int, Clause]


def batches(
    tokenizer: str, seed: int, first: int, updates: int, workers: int
) -> Generator[Batch, None, None]:
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


def encode(document: Document, tokenizer: Tokenizer) -> Encoded:
    """A document as tokens, EOS included, cut where a row ends."""
    tokens: list[int] = []
    weights: list[float] = []
    clauses: dict[int, Clause] = {}
    start = 0
    for text, weight in document.spans:
        end = start + len(text)
        ends = [place for place in sorted(document.clauses) if start < place <= end]
        for place in sorted({*ends, end}):
            ids = tokenizer.encode(document.text[start:place])
            tokens += ids
            weights += [weight] * len(ids)
            if place in document.clauses:
                clauses[len(tokens) - 1] = document.clauses[place]
            start = place
    return Encoded([*tokens, tokenizer.eos_id][:ROW_TOKENS], [*weights, weights[-1]][:ROW_TOKENS], clauses)


def packed_rows(encoded: Iterable[Encoded], pad_id: int) -> Iterator[Batch]:
    """Rows of whole documents: each goes into the first open row that it fits into; the fullest is closed."""
    open_rows: list[list[Encoded]] = []
    for document in encoded:
        row = next((one for one in open_rows if _length(one) + len(document.tokens) <= ROW_TOKENS), None)
        if row is None:
            if len(open_rows) == OPEN_ROWS:
                fullest = max(open_rows, key=_length)
                open_rows.remove(fullest)
                yield _closed(fullest, pad_id)
            row = []
            open_rows.append(row)
        row.append(document)


def _length(row: Sequence[Encoded]) -> int:
    return sum(len(document.tokens) for document in row)


def _closed(row: Sequence[Encoded], pad_id: int) -> Batch:
    tokens = np.full(ROW_TOKENS, pad_id, np.int32)
    segments = np.zeros(ROW_TOKENS, np.int32)
    weights = np.zeros(ROW_TOKENS, np.float32)
    says, found = (np.full((ROW_TOKENS, len(SLOTS)), NO_SLOT, np.int8) for _ in range(2))
    start = 0
    for number, document in enumerate(row, 1):
        end = start + len(document.tokens)
        tokens[start:end], segments[start:end] = document.tokens, number
        weights[start + 1 : end] = document.weights[1:]  # nothing predicts a document's first token
        for place, clause in document.clauses.items():
            if start + place < end:
                says[start + place], found[start + place] = values(clause.says), values(clause.found)
        start = end
    return {"tokens": tokens, "segments": segments, "weights": weights, "says": says, "found": found}

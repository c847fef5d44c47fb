"""Batches as pure functions of the step number: the seed and the step are the whole data cursor.

An epoch is a permutation of the rows drawn from (seed, epoch). Every batch takes its rows
from one length bucket, so that short texts get short arrays and a stage compiles at most
once a bucket, times three widths of responses where these are read. Nothing depends on the
number of devices.
"""

from abc import ABC, abstractmethod
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import ClassVar

import numpy as np
from jaxtyping import Int

from rlhf_jax.config import DataConfig, ImitationConfig
from rlhf_jax.data.comparisons import Pair
from rlhf_jax.data.records import Record
from rlhf_jax.data.task import Task
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.data.widths import MOST, fitting, halves

Batch = dict[str, np.ndarray]
Ids = Sequence[int] | Int[np.ndarray, "T"]  # of one text


class BatchError(ValueError):
    """Rows that cannot be put into batches as asked."""


class Plan(ABC):
    """Which rows make up the batch of each step.

    `lengths` [N] are in tokens, at most `limit`, and `buckets` the padded lengths in increasing
    order; where none are given, `widths.fitting` chooses them, no more than there are batches. The
    rows that do not fill a batch of their bucket move up to the next longer one; those left over in
    the longest, fewer than a batch, sit an epoch out. Subclasses make the arrays: `collate` those of
    a batch, and `widest(data, rows)` arrays without meaning in the shapes of the longest bucket; and they
    count what is `lost`.
    """

    lost: list[tuple[int, str]]  # how many texts lost something to a limit, and "of" how many what
    field: ClassVar[str]  # of the configuration, that says how many rows a batch has

    def __init__(
        self, lengths: Sequence[int], buckets: Sequence[int], limit: int, batch_size: int, seed: int
    ):
        self._is_fitted = not buckets
        buckets = buckets or fitting(lengths, limit, min(len(lengths) // batch_size, MOST))
        self._lengths, self._bucket_of = lengths, np.searchsorted(buckets, lengths)
        self._buckets, self.batch_size, self._seed = buckets, batch_size, seed
        self._epoch = lru_cache(maxsize=1)(self._shuffled)

    def tell(self, stage: str) -> None:
        """Prints the widths that were fitted to its texts, and what these lost to limits, if anything."""
        if self._is_fitted:
            widths, padded = ", ".join(map(str, self._buckets)), np.take(self._buckets, self._bucket_of)
            padding = 1 - np.sum(self._lengths) / np.sum(padded)
            print(f"{stage}: prompts are padded to {widths} tokens, {padding:.0%} of which are padding")
        for count, what in self.lost:
            if count:
                print(f"{stage}: {count:,} of {what}")
        rows = len(self._bucket_of)
        if left := rows - self.batch_size * self.steps_per_epoch:
            print(f"{stage}: {left:,} of {rows:,} rows fill no batch; others do in each epoch")

    @abstractmethod
    def collate(self, rows: np.ndarray, width: int) -> Batch:
        """The arrays of some rows [B], which a bucket of `width` tokens holds; `index` [B] is `rows`."""

    @property
    def steps_per_epoch(self) -> int:
        return self.full_batches(len(self._bucket_of), self.batch_size)

    @classmethod
    def full_batches(cls, rows: int, size: int) -> int:
        """How many batches of `size` rows there are. Raises BatchError where there is none."""
        if rows < size:
            raise BatchError(
                f"{cls.field}: {rows:,} rows do not fill a batch of {size}: lower it or add data"
            )
        return rows // size

    def total_steps(self, epochs: float) -> int:
        return max(1, round(epochs * self.steps_per_epoch))

    def batch(self, step: int) -> Batch:
        epoch, i = divmod(step, self.steps_per_epoch)
        rows, width = self._epoch(epoch)[i]
        return self.collate(rows, width)

    def in_order(self, multiple: int = 1) -> Iterator[tuple[Batch, int]]:
        """Every row once, bucket by bucket, as (batch, number of valid rows).

        Only the last batch may be short of rows; it is filled by repeating the ones it has, up to the
        smallest half, quarter, … of a batch that holds them and is a multiple of `multiple`.
        """
        batches, left, width = self._fill(np.arange(len(self._bucket_of), dtype=np.int32))
        for rows, batch_width in batches:
            yield self.collate(rows, batch_width), len(rows)
        if len(left):
            size = self.batch_size
            while size % (2 * multiple) == 0 and size // 2 >= len(left):
                size //= 2
            yield self.collate(np.resize(left, size), width), len(left)

    def _shuffled(self, epoch: int) -> list[tuple[np.ndarray, int]]:
        rng = np.random.default_rng([self._seed, epoch])
        batches, _, _ = self._fill(rng.permutation(len(self._bucket_of)).astype(np.int32))
        return [batches[i] for i in rng.permutation(len(batches))]

    def _fill(self, order: np.ndarray) -> tuple[list[tuple[np.ndarray, int]], np.ndarray, int]:
        """Full batches of rows in `order` with their widths; the rows left over and their width."""
        batches, left, width = [], order[:0], self._buckets[-1]
        for bucket in np.unique(self._bucket_of):
            width = self._buckets[bucket]
            rows = np.concatenate([left, order[self._bucket_of[order] == bucket]])
            full = len(rows) - len(rows) % self.batch_size
            batches += [(batch, width) for batch in rows[:full].reshape(-1, self.batch_size)]
            left = rows[full:]
        return batches, left, width


class QueryPlan(Plan):
    """Batches of `query` [B, Q], left-padded."""

    field = "ppo.batch_size"

    @staticmethod
    def widest(data: DataConfig, rows: int) -> Batch:
        return _shaped(rows, query=data.query_tokens)

    def __init__(
        self, records: Sequence[Record], tokenizer: Tokenizer, task: Task, batch_size: int, seed: int
    ):
        self._queries, cut = _encoded_queries(records, tokenizer, task)
        self.lost = [(cut, f"{len(records):,} prompts lose text to data.query_tokens")]
        self._pad_id = tokenizer.pad_id
        lengths, data = [len(query) for query in self._queries], task.data
        super().__init__(lengths, data.query_buckets, data.query_tokens, batch_size, seed)

    def collate(self, rows: np.ndarray, width: int) -> Batch:
        return {"query": left_pad([self._queries[i] for i in rows], width, self._pad_id), "index": rows}


class ResponsePlan(QueryPlan):
    """Batches of queries with N `responses` [B, N, R] to each, right-padded: what is to be scored.

    R is the width that `response_width` gives a batch.
    """

    def __init__(
        self,
        records: Sequence[Record],
        responses: Sequence[Sequence[str]],
        tokenizer: Tokenizer,
        task: Task,
        batch_size: int,
        seed: int = 0,
    ):
        super().__init__(records, tokenizer, task, batch_size, seed)
        self._limit = task.data.reward_response_tokens
        every = [text for texts in responses for text in texts]
        encoded, truncated = _encoded_responses(every, tokenizer, task, self._limit)
        self.lost += [(truncated, f"{len(every):,} responses lose tokens to data.reward_response_tokens")]
        following = iter(encoded)
        self._responses = [[next(following) for _ in texts] for texts in responses]

    def collate(self, rows: np.ndarray, width: int) -> Batch:
        every = [ids for i in rows for ids in self._responses[i]]
        padded = right_pad(every, response_width(every, self._limit), self._pad_id)
        return super().collate(rows, width) | {"responses": padded.reshape(len(rows), -1, padded.shape[1])}


class PairPlan(ResponsePlan):
    """Batches of queries with the two responses of a pair, `chosen` and `rejected` [B, R]."""

    field = "reward.batch_size"

    @staticmethod
    def widest(data: DataConfig, rows: int) -> Batch:
        limit = data.reward_response_tokens
        return _shaped(rows, query=data.query_tokens, chosen=limit, rejected=limit)

    def __init__(self, pairs: Sequence[Pair], tokenizer: Tokenizer, task: Task, batch_size: int, seed: int):
        responses = [(pair.chosen, pair.rejected) for pair in pairs]
        super().__init__([pair.info for pair in pairs], responses, tokenizer, task, batch_size, seed)
        equal = sum(np.array_equal(chosen, rejected) for chosen, rejected in self._responses)
        self.lost += [(equal, f"{len(pairs):,} pairs are equal in what is left, and teach nothing")]

    def collate(self, rows: np.ndarray, width: int) -> Batch:
        batch = super().collate(rows, width)
        responses = batch.pop("responses")
        return batch | {"chosen": responses[:, 0], "rejected": responses[:, 1]}


class DpoPlan(PairPlan):
    """The same for a policy that learns from the pairs."""

    field = "dpo.batch_size"


class SftPlan(Plan):
    """Batches of rows of query–response examples: `tokens`, `segments` and `targets_mask` [B, T].

    Unpacked, a row is one example, B is `options.batch_size` and T a bucket plus `data.response_tokens`,
    or fitted to the examples. Packed, T is `data.query_tokens` plus `data.response_tokens` and B such that
    a batch holds about `options.batch_size` examples; which examples share a row is drawn once from the
    seed, and epochs permute rows. `most_targets` is the largest number of targets in a row.
    """

    field = "sft.batch_size"

    @staticmethod
    def widest(data: DataConfig, rows: int) -> Batch:
        """A row holds one example: how many share a packed one is known only with the data."""
        width = data.query_tokens + data.response_tokens
        shaped = _shaped(rows, tokens=width, segments=width, targets_mask=width)
        return shaped | {"targets_mask": shaped["targets_mask"].astype(np.float32)}

    def __init__(
        self,
        records: Sequence[Record],
        tokenizer: Tokenizer,
        task: Task,
        options: ImitationConfig,
        seed: int,
    ):
        data, references = task.data, [record.reference for record in records]
        queries, cut = _encoded_queries(records, tokenizer, task)
        responses, truncated = _encoded_responses(references, tokenizer, task, data.response_tokens)
        self.lost = [
            (cut, f"{len(records):,} prompts lose text to data.query_tokens"),
            (truncated, f"{len(records):,} references lose tokens to data.response_tokens"),
            (
                sum(len(response) == 1 < data.response_tokens for response in responses),
                f"{len(records):,} references have no token in this tokenizer, and teach to write nothing",
            ),
        ]
        self._pad_id = tokenizer.pad_id
        self._examples = [np.concatenate(pair) for pair in zip(queries, responses, strict=True)]
        self._is_target = [
            np.arange(len(example)) >= len(query)
            for example, query in zip(self._examples, queries, strict=True)
        ]
        earlier, unlearnable = task.answers_in_prompts(records, tokenizer)
        told = "prompts have answers that stand behind no generation prompt, and are not learned"
        self.lost += [(unlearnable, f"{len(records):,} {told}")]
        for i, answers in enumerate(earlier):
            end = len(queries[i])  # the prompt's tokens may stand behind a filling of spaces
            self._is_target[i][end - len(answers) : end] = answers
        for is_target in self._is_target:
            is_target[1:] |= options.query_loss
            is_target[:1] = False  # nothing stands before it
        lengths = [len(example) for example in self._examples]
        widths = [bucket + data.response_tokens for bucket in data.query_buckets]
        limit = data.query_tokens + data.response_tokens
        self._rows = [[i] for i in range(len(records))]
        batch_size = options.batch_size
        if options.pack:
            widths = [limit]
            order = np.random.default_rng(seed).permutation(len(records))
            self._rows = pack_rows(lengths, limit, order)
            batch_size = _packed_batch_size(options, len(self._rows) / len(records))
        targets = [int(is_target.sum()) for is_target in self._is_target]
        self.most_targets = max(sum(targets[i] for i in row) for row in self._rows)
        of_rows = [sum(lengths[i] for i in row) for row in self._rows]
        super().__init__(of_rows, widths, limit, batch_size, seed)

    def collate(self, rows: np.ndarray, width: int) -> Batch:
        tokens = np.full((len(rows), width), self._pad_id, np.int32)
        segments = np.zeros((len(rows), width), np.int32)
        targets = np.zeros((len(rows), width), np.float32)
        for b, row in enumerate(rows):
            start = 0
            for segment, i in enumerate(self._rows[row], 1):
                end = start + len(self._examples[i])
                tokens[b, start:end] = self._examples[i]
                segments[b, start:end] = segment
                targets[b, start:end] = self._is_target[i]
                start = end
        return {"tokens": tokens, "segments": segments, "targets_mask": targets, "index": rows}


class DistillPlan(SftPlan):
    """The same where the responses are a policy's own."""

    field = "distill.batch_size"


def pack_rows(lengths: Sequence[int], width: int, order: Iterable[int]) -> list[list[int]]:
    """Puts examples, in `order`, into rows of `width` tokens; each into the fullest row that holds it."""
    rows: list[list[int]] = []
    open_rows: list[tuple[int, int]] = []  # (tokens left, row), increasing
    for i in order:
        place = bisect_left(open_rows, (lengths[i], 0))
        if place == len(open_rows):
            left, row = width, len(rows)
            rows.append([])
        else:
            left, row = open_rows.pop(place)
        rows[row].append(int(i))
        insort(open_rows, (left - lengths[i], row))
    return rows


def _packed_batch_size(options: ImitationConfig, rows_per_example: float) -> int:
    """Rows for about `options.batch_size` examples.

    A multiple of a divisor of `options.batch_size`, so that they divide among devices and
    microbatches nearly as well; the divisor is at most a quarter of the rows where it can be.
    """
    rows = options.batch_size * rows_per_example
    unit = options.batch_size
    while unit > rows / 4 and unit % (2 * options.microbatches) == 0:
        unit //= 2
    return unit * max(1, round(rows / unit))


def _shaped(rows: int, **widths: int) -> Batch:
    """Arrays [rows, width] by name, and `index` [rows]."""
    return {name: np.zeros((rows, width), np.int32) for name, width in widths.items()} | {
        "index": np.zeros(rows, np.int32)
    }


def _encoded_queries(
    records: Sequence[Record], tokenizer: Tokenizer, task: Task
) -> tuple[list[Int[np.ndarray, "T"]], int]:
    encoded, cut = task.encode_prompts(records, tokenizer)
    return filled(encoded, task.data, tokenizer), cut


def filled(encoded: Iterable[Ids], data: DataConfig, tokenizer: Tokenizer) -> list[Int[np.ndarray, "T"]]:
    """Queries as `data.padding` fills them: as they are, or with spaces, which are attended to (OpenAI's).

    The latter up to their bucket, and where the configuration names none to `data.query_tokens`, for what is
    attended to may not depend on other texts. A query that is longer than any stays as it is.
    """
    queries = [np.asarray(ids, np.int32) for ids in encoded]
    if data.padding == "space":
        buckets, space = data.query_buckets or (data.query_tokens,), _space(tokenizer)
        widths = [next((width for width in buckets if width >= len(q)), len(q)) for q in queries]
        queries = [left_pad([query], width, space)[0] for query, width in zip(queries, widths, strict=True)]
    return queries


def _space(tokenizer: Tokenizer) -> int:
    ids = tokenizer.encode(" ")
    if len(ids) != 1 or set(tokenizer.decode(ids * 3)) != {" "}:  # of three, as some drop the first
        raise BatchError(
            "data.padding: space needs a tokenizer with a token for a space, which this one has not; "
            "masked needs none"
        )
    return ids[0]


def _encoded_responses(
    texts: Sequence[str], tokenizer: Tokenizer, task: Task, limit: int
) -> tuple[list[Int[np.ndarray, "T"]], int]:
    responses, truncated = task.encode_responses(texts, tokenizer, limit)
    return [np.asarray(ids, np.int32) for ids in responses], truncated


def response_width(responses: Iterable[Ids], limit: int) -> int:
    """Columns that hold some right-padded responses: the least of the `halves` of the limit that suffices."""
    longest = max(len(ids) for ids in responses)
    return min(width for width in halves(limit) if width >= longest)


def left_pad(rows: Sequence[Ids], width: int, pad_id: int) -> Int[np.ndarray, "B T"]:
    """Texts of at most T = `width` tokens as one array, padding before them."""
    padded = np.full((len(rows), width), pad_id, np.int32)
    for row, ids in zip(padded, rows, strict=True):
        row[width - len(ids) :] = ids
    return padded


def right_pad(rows: Sequence[Ids], width: int, pad_id: int) -> Int[np.ndarray, "B T"]:
    """The same with the padding behind them."""
    padded = np.full((len(rows), width), pad_id, np.int32)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = ids
    return padded

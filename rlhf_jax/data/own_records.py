"""What becomes of the rows of tables: prompts, responses to learn from, and comparisons."""

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator

from rlhf_jax.data.preferences import Demonstration, Preference, PromptOnly, UnpairedPreference
from rlhf_jax.data.record_json import to_json
from rlhf_jax.data.records import Comparison, Example, Prompt, RecordError, Summary, Turn

OF_COMPARISONS = {"train": "train", "valid": "valid1", "test": "valid2"}

Prompted = PromptOnly | Demonstration | Preference | UnpairedPreference | Example
Row = Prompted | Comparison


@functools.cache
def tell(line: str) -> None:
    """Prints a line once, for each stage reads the tables again."""
    print(line)


# Prompts -------------------------------------------------------------------------------------


def name_of(row: Row) -> str:
    """A name of the row's prompt, which tells on which side it is."""
    return _name(_prompted(row).prompt)


def id_of(row: Row) -> str:
    """The id of the row's record, or the name of its prompt where it has none of its own."""
    one = _prompted(row)
    return one.id if isinstance(one, Example) else _name(one.prompt)


def places(rows: Iterable[Row]) -> dict[str, str]:
    """Where records stand, by their ids. Raises RecordError where an id is of two prompts."""
    found: dict[str, tuple[str, str]] = {}
    for row in rows:
        own, name = id_of(row), name_of(row)
        place = _prompted(row).place or f"id {own}"
        if found.setdefault(own, (name, place))[0] != name:
            raise RecordError(f"data.files: two prompts have the id {own!r}; give each one of its own")
    return {own: place for own, (_, place) in found.items()}


def query(row: Row) -> Example:
    """The row's prompt, without a reference."""
    return _record(row, "")


def distinct(records: Iterable[Example], once: bool) -> list[Example]:
    """Each prompt with each reference, or each prompt `once`."""
    found: dict[tuple[str, str], Example] = {}
    for record in records:
        found.setdefault((record.id, "" if once else record.reference), record)
    return list(found.values())


def _record(row: Row, reference: str) -> Example:
    one = _prompted(row)
    return Example(id_of(row), one.prompt, reference, one.extra)


def _prompted(row: Row) -> Prompted:
    """The row, or the record that people compared responses to."""
    if not isinstance(row, Comparison):
        return row
    assert isinstance(row.info, Example)  # as own_tables sees to it
    return row.info


def _name(prompt: Prompt) -> str:
    """The same for a text and a conversation in which a user says it alone, whatever blanks are around it."""
    given = (Turn("user", prompt),) if isinstance(prompt, str) else prompt
    turns = tuple(Turn(turn.role, turn.content.strip()) for turn in given)
    alone = len(turns) == 1 and turns[0].role == "user"
    said = turns[0].content if alone else json.dumps(to_json(turns))
    return hashlib.sha256(said.encode()).hexdigest()[:16]


# Responses and comparisons -------------------------------------------------------------------


def demonstrations(rows: Iterable[Row]) -> Iterator[Example]:
    """The responses that are there to be learned."""
    for row in rows:
        if isinstance(row, Demonstration) or (isinstance(row, UnpairedPreference) and row.label):
            yield _record(row, row.completion)
        elif isinstance(row, Example) and row.reference:
            yield row


def preferred(rows: Iterable[Row]) -> Iterator[Example]:
    """The responses that were not rejected more often than preferred, of each prompt the best one first."""
    first: dict[str, Row] = {}
    lead: dict[str, Counter[str]] = {}  # by record and response: how much more often it was preferred
    for row in rows:
        if isinstance(row, Preference):
            chosen, rejected = row.chosen, row.rejected
        elif isinstance(row, Comparison):
            chosen, rejected = (row.summaries[i].text for i in (row.choice, 1 - row.choice))
        else:
            continue
        own = id_of(row)
        first.setdefault(own, row)
        lead.setdefault(own, Counter()).update({chosen: 1, rejected: -1})
    for own, responses in lead.items():
        yield from (_record(first[own], text) for text, more in responses.most_common() if more >= 0)


def comparisons(rows: Iterable[Row], split: str) -> Iterator[Comparison]:
    """People's, and those of a good and a bad response to one prompt."""
    good: dict[str, list[UnpairedPreference]] = {}
    bad: dict[str, list[UnpairedPreference]] = {}
    for row in rows:
        if isinstance(row, Comparison):
            yield row
        elif isinstance(row, Preference):
            yield _comparison(row, row.chosen, row.rejected, row.worker, split)
        elif isinstance(row, UnpairedPreference):
            (good if row.label else bad).setdefault(name_of(row), []).append(row)
    both = [(g, b) for name in good for g, b in zip(good[name], bad.get(name, []), strict=False)]
    pairs = [(g, b) for g, b in both if g.completion != b.completion]
    yield from (_comparison(g, g.completion, b.completion, "", split) for g, b in pairs)
    if labelled := sum(map(len, [*good.values(), *bad.values()])):
        made = f"{len(pairs):,} preferences, a good and a bad response to one prompt each"
        tell(f"data.files: {labelled:,} responses of {split} with a label make {made}")


def _comparison(row: Row, chosen: str, rejected: str, worker: str, split: str) -> Comparison:
    texts = Summary(chosen, "chosen"), Summary(rejected, "rejected")
    return Comparison(query(row), texts, 0, worker, "", OF_COMPARISONS[split])

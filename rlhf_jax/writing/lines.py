"""Prompts of a file, and responses to them as lines of JSON.

A file holds one prompt a line. It is read as JSON where its name ends in .jsonl or its first line begins with
{: a line is then a record of the task, such as a post, or has `messages`, or a `prompt`.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from rlhf_jax.data.record_json import parse_line, write_jsonl
from rlhf_jax.data.records import RecordError
from rlhf_jax.data.tables import READERS, lines_of
from rlhf_jax.run.hosts import progress_bar
from rlhf_jax.writing.prompts import Prompt, Prompts
from rlhf_jax.writing.response import Response, row_seed
from rlhf_jax.writing.writer import Writer

T = TypeVar("T")

AT_ONCE = 1024  # responses written before the next lines are, those of a length together
SHOWN_AFTER = 1  # seconds without a progress bar
RESPONSE, FINISH = "response", "finish"  # fields of what is written


class Line(NamedTuple):
    """A prompt, where it stands, and the fields that its responses' lines begin with."""

    where: str
    fields: dict[str, Any]
    prompt: Prompt


def read_lines(file: Iterable[bytes], name: str, prompts: Prompts) -> list[Line]:
    """The prompts of a file. Raises RecordError naming file, line and field of a bad one."""
    numbered = [(number, line) for number, line in enumerate(lines_of(file), 1) if line.strip()]
    if not numbered:
        raise RecordError(f"{name}: no prompts in it")
    as_json = name.endswith(".jsonl") or numbered[0][1].lstrip().startswith(b"{")
    if not as_json and name.endswith(tuple(READERS)):  # whose lines would be taken for prompts
        raise RecordError(f"{name}: prompts are read from text or JSON lines; write this table as .jsonl")
    read = _json_line if as_json else _text_line
    return [read(line, f"{name}, line {number}", prompts) for number, line in numbered]


def _json_line(line: bytes, where: str, prompts: Prompts) -> Line:
    def read(value: Any) -> Line:
        if not isinstance(value, dict):
            raise RecordError("the line should be a JSON object")
        for name in (RESPONSE, FINISH):
            if name in value:
                raise RecordError(f"field {name} is there already, and would be overwritten: rename it")
        return Line(where, value, prompts.of_fields(value))

    return parse_line(line, read, where)


def _text_line(line: bytes, where: str, prompts: Prompts) -> Line:
    try:
        text = line.decode().strip("\r\n")
        return Line(where, {"prompt": text}, prompts.of_text(text))
    except UnicodeDecodeError:
        raise RecordError(f"{where}: not UTF-8 text") from None
    except RecordError as error:
        raise RecordError(f"{where}: {error}") from None


def answer(
    writer: Writer, lines: Sequence[Line], samples: int, seed: int, **sampling: Any
) -> Iterator[dict[str, Any]]:
    """Each line's fields with a response and why it ended, `samples` of them a line, in the lines' order.

    `sampling` goes to `Writer.response`. A response depends on its line, its place and the seed alone. Raises
    RecordError for a line whose prompt is too long, before anything is written.
    """
    asked = [
        (line, _response(writer, line, row_seed(seed, i, j), sampling))
        for i, line in enumerate(lines)
        for j in range(samples)
    ]
    with progress_bar(len(asked), "responses", delay=SHOWN_AFTER, leave=False) as bar:
        for chunk in batched(asked, AT_ONCE):
            by_length = sorted((response for _, response in chunk), key=lambda one: len(one.prompt))
            for together in batched(by_length, writer.most_rows):
                for _ in writer.write(together):
                    pass
                bar.update(len(together))
            for line, response in chunk:
                yield line.fields | {RESPONSE: response.text, FINISH: response.finish}


def _response(writer: Writer, line: Line, seed: int, sampling: dict[str, Any]) -> Response:
    try:
        return writer.response(line.prompt.ids, seed, **sampling)
    except RecordError as error:
        raise RecordError(f"{line.where}: {error}") from None


def batched(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def write_lines(values: Iterable[dict[str, Any]], out: str | None) -> None:
    """Writes the objects, one a line: to the file `out`, whole or not at all, or to standard output."""
    if out is None:
        for value in values:
            print(json.dumps(value, ensure_ascii=False), flush=True)
    else:
        write_jsonl(out, values)


def tell_cut(lines: Sequence[Line]) -> None:
    """Says on stderr how many prompts lost text to the longest query."""
    cut = [line for line in lines if line.prompt.is_cut]
    if cut:
        first = f"the first is {cut[0].where}"
        print(
            f"{len(cut):,} of {len(lines):,} prompts lose text to data.query_tokens; {first}", file=sys.stderr
        )

"""Prompts and responses as they stand in a table: texts, or conversations whose last turn is the response."""

import os
import re
from typing import Any

from rlhf_jax.data.columns import form_of
from rlhf_jax.data.record_json import turns_of
from rlhf_jax.data.records import Prompt, RecordError, Turn
from rlhf_jax.data.visible import has_text

ANSWER_BEGINS = re.compile(  # where chat formats that are plain text let the assistant speak
    r"\n\nAssistant:|### Response:\n?|\[/INST\]|<\|assistant\|>\n?|<\|im_start\|>assistant\n"
    r"|<start_of_turn>model\n|<\|start_header_id\|>assistant<\|end_header_id\|>\n\n"
)
CONVERSATION_AS_TEXT = re.compile(r"\s*\[\s*\{\s*['\"](role|content)['\"]\s*:")


def parted(values: dict[str, Any], *columns: str) -> tuple[Prompt, list[str]]:
    """The prompt of a row, and the response in each of `columns`.

    Conversations in them may begin with the prompt; where there is no column prompt, they and texts have to.
    Raises RecordError, without the row's place, naming a column that cannot be used, as one that is empty.
    """
    prompt, responses = parted_or_empty(values, *columns)
    for column, response in zip(columns, responses, strict=True):
        check_filled(response, column)
    return prompt, responses


def parted_or_empty(values: dict[str, Any], *columns: str) -> tuple[Prompt, list[str]]:
    """The same where responses may be empty."""
    prompt = text_or_turns(values["prompt"], "prompt") if "prompt" in values else None
    sides = {column: text_or_turns(values[column], column) for column in columns}
    texts = {column: side for column, side in sides.items() if isinstance(side, str)}
    turns = {column: side for column, side in sides.items() if not isinstance(side, str)}
    if texts and (turns or isinstance(prompt, tuple)):
        text, turn = next(iter(texts)), next(iter(turns), "prompt")
        raise RecordError(f"column {text} is a text, where column {turn} is a conversation")
    if turns:
        return _parted_turns(prompt, turns)
    if prompt is None:
        prompt, texts = _parted_texts(texts)
    return answerable(prompt, "prompt"), list(texts.values())


def _parted_turns(prompt: Prompt | None, turns: dict[str, tuple[Turn, ...]]) -> tuple[Prompt, list[str]]:
    """Of conversations that differ in their last turn, which is the assistant's."""
    column, first = next(iter(turns.items()))
    for name, side in turns.items():
        if not side or side[-1].role != "assistant":
            raise RecordError(f"column {name} should end with a turn of the assistant")
        if side[:-1] != first[:-1]:
            raise RecordError(f"columns {column} and {name} differ before their last turn, the one compared")
    before = first[:-1]
    given = (Turn("user", prompt),) if isinstance(prompt, str) else prompt
    if given and before and before[-len(given) :] != given:
        raise RecordError(f"column {column} begins with turns that are not those of the column prompt")
    where, responses = "prompt" if given else column, [side[-1].content for side in turns.values()]
    return answerable(before or given or (), where), responses


def _parted_texts(texts: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Of texts that begin alike; the cut is where the assistant's answer begins, or else at whitespace.

    Of the whitespace there, a space is the responses' and a newline the prompt's.
    """
    if len(texts) < 2:
        raise RecordError(f"column {next(iter(texts))} should be a conversation")
    shared = os.path.commonprefix(list(texts.values()))
    cuts = [found.end() for found in ANSWER_BEGINS.finditer(shared)]
    blank = [i for i, follows in enumerate(shared) if follows.isspace()]
    cuts = [i if shared[i] == " " else i + 1 for i in blank] + cuts  # the last of them is preferred
    if all(text[len(shared) :][:1].isspace() for text in texts.values()):
        cuts.insert(len(blank), len(shared))
    for cut in reversed(cuts):
        if has_text(shared[:cut]) and all(has_text(text[cut:]) for text in texts.values()):
            return shared[:cut], {column: text[cut:] for column, text in texts.items()}
    if len(set(texts.values())) == 1:
        raise RecordError(f"columns {' and '.join(texts)} are equal; leave the row out")
    raise RecordError(f"columns {' and '.join(texts)} do not begin alike, and there is no column prompt")


def text_or_turns(value: Any, column: str) -> Prompt:
    """The text or the turns in a value of `column`, whichever it is."""
    if isinstance(value, list):
        return turns_of(value, f"column {column}")
    if not isinstance(value, str):
        raise RecordError(f"column {column} should be a text or a list of turns, not {form_of(value)}")
    if CONVERSATION_AS_TEXT.match(value):
        raise RecordError(f"column {column} is a conversation written as text; use JSON lines or Parquet")
    return value


def answerable(prompt: Prompt, column: str) -> Prompt:
    """The prompt. Raises RecordError where nobody asks anything in it."""
    if isinstance(prompt, str):
        check_filled(prompt, column)
    elif not prompt or prompt[-1].role not in ("user", "tool"):
        raise RecordError(f"column {column} has no turn of a user that is to be answered")
    elif prompt[-1].role == "user":
        check_filled(prompt[-1].content, column)
    return prompt


def check_filled(text: str, column: str) -> None:
    if not has_text(text):
        raise RecordError(f"column {column} is empty")

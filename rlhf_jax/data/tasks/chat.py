"""Conversations, written by the chat template of the model's folder, and the answers to them.

A prompt that is a text is what a user says. One that is too long loses its first turns, but for those of the
system, until it begins with a turn of a user and fits; and where the last one does not, the beginning of
that.
"""

import json
from bisect import bisect_left
from collections.abc import Sequence
from os import PathLike
from typing import Any, cast

from rlhf_jax.config import ConfigError
from rlhf_jax.data.chat import ASSISTANT, ChatTokenizer, load_chat_tokenizer
from rlhf_jax.data.own_tables import Gathered
from rlhf_jax.data.records import Example, Record, RecordError, Turn
from rlhf_jax.data.task import Task
from rlhf_jax.data.tasks.plain import Plain
from rlhf_jax.data.tokenizer import Tokenizer

SYSTEM = ("system", "developer")


class Chat(Plain):
    """The conversations of `data.files`."""

    unread = {name: instead for name, instead in Plain.unread.items() if name != "template_variables"}
    in_python = "query = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)"

    def check(self, records: Sequence[Example], found: Gathered) -> None:
        """Each of them can be a conversation."""

    def record_of(self, text: str) -> Record:
        return Example(id="", prompt=(Turn("user", text),))

    def few_shot(self, examples: Sequence[Record]) -> Task:
        """The same task: a chat model is asked without examples."""
        return self

    def text(self, response: str) -> str:
        return response.strip()  # whose blanks are the template's

    def load_tokenizer(self, place: PathLike[str] | str) -> Tokenizer:
        return load_chat_tokenizer(place, **parse_variables(self.data.template_variables))

    def given_tokenizer(self, pretrained: PathLike[str] | None) -> Tokenizer:
        given = super().given_tokenizer(pretrained)
        if given is None:
            raise ConfigError(
                "model.pretrained: chat needs a model with a chat template, or its folder as data.tokenizer"
            )
        return given

    def answers_in_prompts(
        self, records: Sequence[Record], tokenizer: Tokenizer
    ) -> tuple[list[list[bool]], int]:
        """The assistant's turns before the last one, where the policy would write them just so."""
        found = [self._answers(record, _chat_of(tokenizer)) for record in records]
        return [answers or [] for answers in found], found.count(None)

    def _answers(self, record: Record, tokenizer: ChatTokenizer) -> list[bool] | None:
        """Nothing where the prompt has no answer, None where it has some that the policy would not write."""
        if all(turn.role != ASSISTANT for turn in _turns(record)):
            return []
        turns, _ = self._kept(record, tokenizer)
        try:
            return tokenizer.chat.encode_with_mask(turns, generation_prompt=True)[1]
        except RecordError:  # of a first turn, or a template that writes earlier answers otherwise
            return None

    def _fitted(self, record: Record, tokenizer: Tokenizer) -> tuple[list[int], bool]:
        turns, cut = self._kept(record, _chat_of(tokenizer))
        return _chat_of(tokenizer).chat.encode(turns, generation_prompt=True), cut

    def _kept(self, record: Record, tokenizer: ChatTokenizer) -> tuple[list[Turn], bool]:
        """The turns of a prompt that fit `data.query_tokens`, and whether they lost something."""
        limit, turns = self.data.query_tokens, _turns(record)

        def fits(some: list[Turn]) -> bool:
            try:
                return len(tokenizer.chat.encode(some, generation_prompt=True)) <= limit
            except RecordError as error:
                raise RecordError(f"{self.place(record)}: {error}") from None

        if fits(turns):
            return turns, False
        first = next((i for i, turn in enumerate(turns) if turn.role not in SYSTEM), len(turns))
        system, others = turns[:first], turns[first:]
        starts = [i for i, turn in enumerate(others) if turn.role == "user"]
        for start in starts[1:] if starts[:1] == [0] else starts:
            if fits(system + others[start:]):
                return system + others[start:], True
        last = others[starts[-1] if starts else 0 :]

        def shorter(start: int) -> list[Turn]:
            return [*system, Turn(last[0].role, last[0].content[start:].lstrip()), *last[1:]]

        length = len(last[0].content)
        start = bisect_left(range(length), True, key=lambda start: fits(shorter(start)))
        if start == length:
            raise RecordError(
                f"{self.place(record)}: without any text the prompt takes more than {limit} tokens "
                "(data.query_tokens)"
            )
        return shorter(start), True

    def encode_responses(
        self, texts: Sequence[str], tokenizer: Tokenizer, limit: int
    ) -> tuple[list[list[int]], int]:
        whole = [self._answer(text, _chat_of(tokenizer)) for text in texts]
        responses = [ids if len(ids) <= limit else [*ids[: limit - 1], tokenizer.eos_id] for ids in whole]
        return responses, sum(len(ids) > limit for ids in whole)

    def _answer(self, text: str, tokenizer: ChatTokenizer) -> list[int]:
        try:
            return tokenizer.chat.encode_answer(text)
        except RecordError as error:
            raise RecordError(f"the response {text[:40]!r}: {error}") from None


TASK = Chat


def parse_variables(text: str) -> dict[str, Any]:
    """The names and values in `enable_thinking=false,style=short`: of JSON, or else texts.

    Raises ConfigError where it is not so written.
    """
    found: dict[str, Any] = {}
    for part in filter(str.strip, text.split(",")):
        name, equals, value = (side.strip() for side in part.partition("="))
        if not equals or not name.isidentifier():
            raise ConfigError(f"data.template_variables: {part.strip()!r} should be a name and value, a=b")
        if name in found:
            raise ConfigError(f"data.template_variables: {name} stands twice in {text!r}")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _turns(record: Record) -> list[Turn]:
    prompt = record.prompt if isinstance(record, Example) else record.text
    return [Turn("user", prompt)] if isinstance(prompt, str) else list(prompt)


def _chat_of(tokenizer: Tokenizer) -> ChatTokenizer:
    """The tokenizer, which is what `load_tokenizer` gave."""
    return cast(ChatTokenizer, tokenizer)

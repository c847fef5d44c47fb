"""What a policy reads: texts and records in the frame of its task, and conversations in its chat template."""

from collections.abc import Sequence
from os import PathLike
from typing import Any, NamedTuple

from etils.epath import Path

from rlhf_jax.config import ConfigError
from rlhf_jax.data.chat import ASSISTANT, Chat, ChatTokenizer, load_chat
from rlhf_jax.data.record_json import record_of, turns_of
from rlhf_jax.data.records import Example, Record, RecordError, Turn
from rlhf_jax.data.tokenizer import SETTINGS_FILE, TEMPLATE_FILE
from rlhf_jax.data.visible import has_text
from rlhf_jax.files import read_object
from rlhf_jax.inference import Network

USER = "user"
MESSAGES = "messages"
TEXTS = ("article", MESSAGES, "post", "prompt")  # fields of a line, of which one has the text


class Prompt(NamedTuple):
    """Token ids, and whether text was left out so that they fit the task's longest query."""

    ids: list[int]
    is_cut: bool = False


def chat_of(network: Network, folder: str | PathLike[str]) -> Chat | None:
    """The chat of a policy whose task is one, or that of the template beside it; None where there is none."""
    own = network.tokenizer
    return own.chat if isinstance(own, ChatTokenizer) else chat_in(folder)


def chat_in(folder: str | PathLike[str]) -> Chat | None:
    """The chat template of a folder; None where it names none."""
    settings = read_object(Path(folder) / SETTINGS_FILE, ConfigError, missing={})
    if settings.get("chat_template") is None and not (Path(folder) / TEMPLATE_FILE).exists():
        return None
    return load_chat(folder)


class Prompts:
    """Makes the prompts of `network`, which is a chat model where there is a `chat`.

    All raise RecordError for what cannot be a prompt.
    """

    def __init__(self, network: Network, chat: Chat | None):
        self._tokenizer, self._task, self.chat = network.tokenizer, network.task, chat

    @property
    def ends(self) -> tuple[int, ...]:
        """The ids with which a response ends."""
        return self.chat.end_of_turn if self.chat else self._tokenizer.eos_ids

    def as_it_is(self, text: str) -> Prompt:
        """A text that the model goes on with, without any frame."""
        ids = [*self._tokenizer.prefix, *self._tokenizer.encode(text)]
        if not ids:
            raise RecordError("the prompt is empty, and the model has no token to begin with")
        return Prompt(ids)

    def of_text(self, text: str) -> Prompt:
        """What the task makes of a lone text; of a chat model, what a user says."""
        if not has_text(text):
            raise RecordError("the prompt has nothing that can be seen")
        if self.chat:
            return self.of_turns([Turn(USER, text)])
        return self.of_record(self._task.record_of(text))

    def of_record(self, record: Record) -> Prompt:
        (ids,), cut = self._task.encode_prompts([record], self._tokenizer)
        return Prompt(ids, bool(cut))

    def of_turns(self, turns: Sequence[Turn]) -> Prompt:
        """A conversation that the model is to answer; without a chat template, what one user says."""
        if self.chat:
            return Prompt(self.chat.encode(turns, generation_prompt=True))
        if [turn.role for turn in turns] != [USER]:
            raise RecordError(
                "this model has no chat template: it answers one message, of role user, which is put into "
                "the prompt of its task"
            )
        return self.of_text(turns[0].content)

    def of_fields(self, fields: dict[str, Any]) -> Prompt:
        """The prompt of a line of JSON: its `messages`, or a record of the task, or a lone `prompt`."""
        there = [name for name in TEXTS if fields.get(name) is not None]
        if len(there) != 1:
            of = f"both {' and '.join(there)}" if there else f"none of {', '.join(TEXTS)}"
            raise RecordError(f"the line has {of}: what is the prompt?")
        name, value = there[0], fields[there[0]]
        if isinstance(value, list) or name == MESSAGES:
            turns = messages_of(value, name)
            if turns[-1].role == ASSISTANT:
                raise RecordError(
                    f"field {name} ends with an answer, which the policy is to write: take it out"
                )
            return self.of_turns(turns)
        record = record_of({"id": ""} | fields)
        lone = isinstance(record, Example) and not isinstance(self._task.record_of(record.text), Example)
        if self.chat or lone:  # a text alone, where the task's records have more
            return self.of_text(record.text)
        return self.of_record(record)


def messages_of(value: Any, where: str) -> tuple[Turn, ...]:
    """The turns in a list of messages {role, content}; content may be the parts of one text.

    Raises RecordError naming the field, below `where`.
    """
    if not isinstance(value, list) or not value:
        raise RecordError(f"field {where} should be a list of messages, of one at least")
    return turns_of([_plain(one, f"{where}[{i}]") for i, one in enumerate(value)], f"field {where}")


def _plain(message: Any, where: str) -> Any:
    """A message whose content is one text."""
    if not isinstance(message, dict):
        return message
    for name, value in message.items():
        if name not in Turn._fields and value not in (None, [], {}):
            raise RecordError(f"field {where}.{name} is not supported: messages have role and content")
    content = message.get("content")
    if not isinstance(content, list):
        return message
    parts = (_part(part, f"{where}.content[{i}]") for i, part in enumerate(content))
    return message | {"content": "".join(parts)}


def _part(part: Any, where: str) -> str:
    if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        raise RecordError(f"field {where} should be {{type: text, text: …}}: there are no others")
    return part["text"]

"""Prompts and responses as they stand in tables of one's own (`data.files`), with nothing around them.

A prompt that is too long loses its beginning: what a policy answers stands at the end. Conversations are
the task chat's.
"""

from collections.abc import Sequence
from functools import cached_property

from rlhf_jax.config import ConfigError
from rlhf_jax.data import own_tables
from rlhf_jax.data.own_tables import Gathered
from rlhf_jax.data.records import Example, Record, RecordError
from rlhf_jax.data.task import SHOT_SEPARATOR, Splits, Task
from rlhf_jax.data.tokenizer import Tokenizer


class Plain(Task):
    """The texts of `data.files`."""

    unread = {
        "posts": "name tables in data.files",
        "queries": "prompts for PPO are tables of data.files, too, that hold nothing but prompts",
        "comparisons": "name their file in data.files, too",
        "filters": "leave those rows out of the tables of data.files",
        "template_variables": "--config.data.source=chat writes by a template",
    }
    shot_end = SHOT_SEPARATOR.strip()  # a response may have several lines

    @property
    def about(self) -> str:
        return f"Prompts and responses: {self.data.files}."

    @cached_property
    def gathered(self) -> Gathered:
        found = own_tables.gather(self.data)
        for records in found.records.values():
            self.check(records, found)
        return found

    def check(self, records: Sequence[Example], found: Gathered) -> None:
        """Raises RecordError where this task cannot write one of the prompts."""
        for record in records:
            if not isinstance(record.prompt, str):
                raise RecordError(
                    f"{found.places[record.id]}: the prompt is a conversation; --config.data.source=chat "
                    "writes it by the model's chat template"
                )

    def records(self) -> Splits:
        return self.gathered.records

    def queries(self) -> Sequence[Record]:
        return self.gathered.queries

    def response(self, text: str) -> str:
        return text

    def text(self, response: str) -> str:
        return response

    def place(self, record: Record) -> str:
        """Where the record stands, for messages."""
        found = self.gathered.places.get(record.id) if self.data.files else None
        return found or record.id or "the prompt"

    def _fitted(self, record: Record, tokenizer: Tokenizer) -> tuple[list[int], bool]:
        ids, room = tokenizer.encode(record.text), self.data.query_tokens - len(tokenizer.prefix)
        if room < 1:
            raise ConfigError(f"data.query_tokens: {self.data.query_tokens} leaves no room for a prompt")
        if not ids:
            raise RecordError(f"{self.place(record)}: the tokenizer has no token for anything in the prompt")
        return [*tokenizer.prefix, *ids[-room:]], len(ids) > room


TASK = Plain

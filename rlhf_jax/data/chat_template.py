"""Chat templates of Hugging Face's folders: conversations as text, written as transformers writes them.

A template is a program from elsewhere. It runs in Jinja's sandbox, sees nothing but strings, lists and
dictionaries of them, and each of its failures is told in one line.
"""

import functools
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from os import PathLike
from typing import Any, NoReturn

import jinja2
from etils.epath import Path
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rlhf_jax.config import ConfigError
from rlhf_jax.data.records import RecordError, Turn
from rlhf_jax.data.tokenizer import SETTINGS_FILE, TEMPLATE_FILE
from rlhf_jax.files import read_object

SPECIAL_TOKENS = [f"{name}_token" for name in "bos eos unk sep pad cls mask".split()]
GIVEN = ("messages", "tools", "documents", "add_generation_prompt")  # to a template, with each conversation


@dataclass(frozen=True)
class ChatTemplate:
    """A template, where it was read, and what it sees beside a conversation: special tokens, `variables`."""

    place: Path
    source: str
    special_tokens: Mapping[str, str]  # such as bos_token → <s>
    variables: Mapping[str, Any]
    compiled: jinja2.Template

    def render(self, turns: Sequence[Turn], generation_prompt: bool) -> str:
        """The text of a conversation, that of transformers' `apply_chat_template(tokenize=False)`.

        `generation_prompt` adds what the template puts before an answer, if it puts anything there.
        Raises RecordError for a conversation that the template refuses, in its own words.
        """
        if not turns:
            raise RecordError("a conversation should have a turn")
        for number, turn in enumerate(turns, 1):
            _check(turn, number)
        try:
            return self.compiled.render(
                messages=[{"role": turn.role, "content": turn.content} for turn in turns],
                tools=None,
                documents=None,
                add_generation_prompt=generation_prompt,
                **{**self.special_tokens, **self.variables},
            )
        except jinja2.TemplateError as error:
            raise RecordError(f"{self.place}: refuses this conversation: {_line(error)}") from None
        except Exception as error:  # an expression of a template can raise anything
            reason = f"{type(error).__name__}: {_line(error)}"
            raise RecordError(f"{self.place}: fails on this conversation ({reason})") from None


def _check(turn: Turn, number: int) -> None:
    if not isinstance(turn.role, str) or not turn.role.isidentifier():
        raise RecordError(f"turn {number}: role {turn.role!r} should be one word, such as user")
    if not isinstance(turn.content, str):
        raise RecordError(f"turn {number}: content should be a string, not {turn.content!r:.50}")
    try:
        turn.content.encode()
    except UnicodeEncodeError:
        raise RecordError(f"turn {number}: content holds half of a surrogate pair, not text") from None


def read_chat_template(folder: str | PathLike[str], variables: Mapping[str, Any]) -> ChatTemplate:
    """The template that a folder's chat_template.jinja holds, else its tokenizer_config.json.

    `variables` are more names for it to read, such as Qwen3's `enable_thinking`. Raises ConfigError for a
    template that is missing or does not compile, and for a variable that it does not read.
    """
    place, source = _source(Path(folder))
    for name in variables:
        if name in GIVEN or not re.search(rf"\b{name}\b", source):
            why = "comes from the conversation" if name in GIVEN else "is read nowhere in this template"
            raise ConfigError(f"data.template_variables: {place}: {name} {why}; leave it out")
    try:
        compiled = _environment().from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(
            f"{place}: this chat template does not compile: line {error.lineno}: {_line(error.message)}"
        ) from None
    except (jinja2.TemplateError, SyntaxError, RecursionError) as error:  # of what Jinja made of it
        raise ConfigError(f"{place}: this chat template does not compile: {_line(error)}") from None
    return ChatTemplate(place, source, _special_tokens(Path(folder)), variables, compiled)


def _source(folder: Path) -> tuple[Path, str]:
    """Where the template stands, and its text."""
    file, settings = folder / TEMPLATE_FILE, folder / SETTINGS_FILE
    try:
        return file, file.read_bytes().decode()
    except FileNotFoundError:
        found = read_object(settings, ConfigError, missing={}).get("chat_template")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: not UTF-8 text") from None
    if found is None:
        raise ConfigError(
            f"{folder}: no chat template, neither {TEMPLATE_FILE} nor chat_template in {SETTINGS_FILE}; "
            "take a model that was made for chat, or put a template there"
        )
    if isinstance(found, list):
        named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
        found = named.get("default")
    if not isinstance(found, str):
        raise ConfigError(
            f"{settings}: chat_template should be a template, or a list of named ones with one 'default'"
        )
    return settings, found


def _special_tokens(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in (SETTINGS_FILE, "special_tokens_map.json"):  # the first that names one decides
        fields = read_object(folder / name, ConfigError, missing={})
        for key in SPECIAL_TOKENS:
            token = fields.get(key)
            token = token.get("content") if isinstance(token, dict) else token  # a token with its settings
            if isinstance(token, str):
                found.setdefault(key, token)
    return found


# What templates may use ----------------------------------------------------------------------


class _Generation(Extension):
    """{% generation %}, with which some templates mark an assistant's words, writes what it encloses."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _raise, "strftime_now": _now}
    return environment


def _to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    """Jinja's own would escape the characters of HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _now(format: str) -> str:
    _tell_of_the_date()
    return datetime.now().strftime(format)


@functools.cache
def _tell_of_the_date() -> None:
    print(
        "chat template: it writes today's date, so that a run which resumes on another day reads other "
        "tokens; a variable of it may set the date (data.template_variables)",
        file=sys.stderr,
    )


def _line(error: object) -> str:
    return " ".join(str(error).split())

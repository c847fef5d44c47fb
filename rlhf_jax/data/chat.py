"""Conversations as token ids, whose special tokens come from the chat template and never from what was typed.

In the text that a template writes, its own <|im_end|> and one that somebody typed look alike. So it is run
a second time with a marker for each content, a random number that nobody could have typed. Where the
markers come out the contents stand, and special tokens are looked for between them alone. The tokenizer
reads the whole at once: where no content holds the text of a special token, the ids are those of
transformers' `apply_chat_template`.

Templates may change contents. A marker keeps the whitespace around its content, so that what is done to
that, as by `trim`, is done to the marker's too. A content that a template changes otherwise, or asks
about, as Qwen3's does about the reasoning in a turn, is left to it without a marker, and must then hold
no text of a special token.
"""

import re
import secrets
from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from os import PathLike
from typing import Any

import tokenizers
from etils.epath import Path
from tokenizers import AddedToken, processors

from rlhf_jax.config import ConfigError
from rlhf_jax.data.chat_template import ChatTemplate, read_chat_template
from rlhf_jax.data.records import RecordError, Turn
from rlhf_jax.data.tokenizer import (
    GENERATION_FILE,
    JSON_FILE,
    SETTINGS_FILE,
    TEMPLATE_FILE,
    HuggingFaceTokenizer,
    before,
    load_tokenizer,
)
from rlhf_jax.files import read_object, write_json, write_text

ASSISTANT = "assistant"


class Chat:
    """A chat template and the tokenizer beside it; made by `load_chat`.

    Control tokens are the special ones and the added ones that the template itself writes, such as <think>.
    The text of one is never the token where a user or system says it. Where an assistant does, it is
    text too if the token is special, and else the token: models think in them.

    Both `encode` raise RecordError for a conversation that the template refuses or of which it leaves out a
    turn, as many do with a role they do not know.
    """

    template: ChatTemplate
    end_of_turn: tuple[int, ...]  # the policy's EOS ids: it has answered when it writes one of them

    def __init__(
        self, template: ChatTemplate, tokenizer: tokenizers.Tokenizer, end_of_turn: tuple[int, ...], rows: int
    ):
        self.template = template
        self.end_of_turn = end_of_turn
        self._tokens = _ControlTokens(template, tokenizer, end_of_turn, rows)
        secret = secrets.randbits(128)  # its digits pass a template's filters unchanged
        self._marker, self._markers = f"{secret}-%d-", re.compile(rf"{secret}-(\d+)-")

    def encode(self, turns: Sequence[Turn], generation_prompt: bool) -> list[int]:
        """Token ids of a conversation, with all that its template puts before, between and after the turns.

        `generation_prompt` adds what the template puts before an answer, if it puts anything there.
        """
        return self._tokens.read(self._seamed(turns, generation_prompt)[0])[0]

    def encode_answer(self, text: str) -> list[int]:
        """Token ids of what a policy writes to say `text`, up to EOS and with it, as after one question.

        They are read apart from the prompt, behind which the policy begins with a token of its own. Raises
        RecordError where the template changes the text, ConfigError as `encode_with_mask`.
        """
        turns = [Turn("user", "?"), Turn(ASSISTANT, text)]
        whole, _ = self._seamed(turns, generation_prompt=False)
        ids = self._tokens.read_behind(whole[len(self._prompt(turns[:1], whole)) :])
        return ids[: self._end_of_answer(ids, range(len(ids)))]

    def encode_with_mask(
        self, turns: Sequence[Turn], generation_prompt: bool = False
    ) -> tuple[list[int], list[bool]]:
        """The ids of `encode`, and for each whether the assistant is to write it.

        It writes what follows the generation prompt, up to EOS and with it. Raises RecordError where an
        assistant's turn does not follow its generation prompt, as some templates leave out parts of that
        before later turns, and ConfigError where the template ends the turn without an EOS of the policy.
        """
        text, starts = self._seamed(turns, generation_prompt)
        ids, ends = self._tokens.read(text)
        mask = [False] * len(ids)
        for i, turn in enumerate(turns):
            if turn.role == ASSISTANT:
                # The first token that reaches over the end of the prompt, which the answer may share.
                start = bisect_right(ends, len(self._prompt(turns[:i], text)))
                stop = bisect_right(ends, starts.get(i + 1, len(text)))  # where the next turn speaks
                end = self._end_of_answer(ids, range(start, stop))
                mask[start:end] = [True] * (end - start)
        return ids, mask

    def _prompt(self, before: Sequence[Turn], text: str) -> str:
        """What of the conversation's text stands before an answer."""
        if not before:
            raise RecordError(f"turn 1 is the {ASSISTANT}'s; put before it what it answers")
        prompt, _ = self._seamed(before, generation_prompt=True)
        if not text.startswith(prompt):
            raise RecordError(
                f"{self.template.place}: before the {ASSISTANT}'s turn {len(before) + 1} this template puts "
                "something else when it asks for that turn; end the conversation with it"
            )
        return prompt

    def _end_of_answer(self, ids: list[int], places: range) -> int:
        for place in places:
            if ids[place] in self.end_of_turn:
                return place + 1
        names = ", ".join(map(self._tokens.name, self.end_of_turn))
        raise ConfigError(
            f"{self.template.place}: this template ends the {ASSISTANT}'s turn without an EOS of the policy "
            f"({names}); name the token with which it does as eos_token_id in {GENERATION_FILE}"
        )

    def _seamed(self, turns: Sequence[Turn], generation_prompt: bool) -> tuple[str, dict[int, int]]:
        """The conversation with a seam for each control token that is meant, and where turns begin in it."""
        between, *rest = self._markers.split(self._marked(turns, generation_prompt))
        text, starts = self._tokens.seamed(between), dict[int, int]()
        for i, between in zip(map(int, rest[::2]), rest[1::2], strict=True):
            starts.setdefault(i, len(text))
            said = turns[i].content.strip()
            text += self._tokens.seamed_answer(said) if turns[i].role == ASSISTANT else said
            text += self._tokens.seamed(between)
        return text, starts

    def _marked(self, turns: Sequence[Turn], generation_prompt: bool) -> str:
        """The conversation, with markers for all contents but those that the template changes."""
        plain = self.template.render(turns, generation_prompt)

        def marked(which: Collection[int]) -> str:
            hidden = {i: _with_body(turns[i], self._marker % i) for i in which}
            return self.template.render([hidden.get(i, t) for i, t in enumerate(turns)], generation_prompt)

        def is_plain(text: str) -> bool:
            return plain == self._markers.sub(lambda match: turns[int(match[1])].content.strip(), text)

        every = range(len(turns))
        text = marked(every)
        for i in sorted(set(every) - set(map(int, self._markers.findall(text)))):
            raise RecordError(
                f"{self.template.place}: leaves out turn {i + 1}; this template does not know the role "
                f"{turns[i].role!r}, or not in that place"
            )
        said = [i for i in every if turns[i].content.strip()]
        if len(said) < len(turns):  # a template may ask whether a turn says anything
            text = marked(said)
        if is_plain(text):
            return text
        own = self._tokens.special.findall(text)
        unchanged: set[int] = set()
        for i in said:
            turn = turns[i]
            if is_plain(marked(unchanged | {i})):
                unchanged.add(i)
                continue
            not_to_say = self._tokens.special if turn.role == ASSISTANT else self._tokens.control
            if typed := not_to_say.search(turn.content):
                raise RecordError(
                    f"{self.template.place}: changes what turn {i + 1} says, where the text {typed[0]!r} "
                    "would become the token of that name; take it out of there"
                )
        text = marked(unchanged)
        if self._tokens.special.findall(text) != own:
            raise RecordError(f"{self.template.place}: makes special tokens of what a turn says")
        return text


def _with_body(turn: Turn, body: str) -> Turn:
    """The turn with another text in the whitespace around its own."""
    without = turn.content.lstrip()
    before, after = turn.content.removesuffix(without), without.removeprefix(without.rstrip())
    return Turn(turn.role, before + body + after)


class _ControlTokens:
    """Control tokens and a tokenizer to which they are text wherever they stand.

    A seam stands for each that is meant: an added token that nobody can type, because it holds a random
    number, and that splits the text around it just as the token would.
    """

    special: re.Pattern  # but those without a row in the model, which are text everywhere
    control: re.Pattern  # these and others that the template writes

    def __init__(
        self, template: ChatTemplate, tokenizer: tokenizers.Tokenizer, eos_ids: Iterable[int], rows: int
    ):
        names = [template.special_tokens.get(key, "") for key in ("bos_token", "eos_token")]
        named = {i for name in names if (i := tokenizer.token_to_id(name)) is not None and i < rows}
        listed = tokenizer.get_added_tokens_decoder()
        added = {i: token for i, token in listed.items() if token.content.strip() and i < rows}
        special = named | {i for i, token in added.items() if token.special} | set(eos_ids)
        ordinary = {i for i, token in added.items() if token.content in template.source} - special
        tokens = {i: added.get(i) or AddedToken(str(tokenizer.id_to_token(i))) for i in special | ordinary}
        self.special = _any_of(tokens[i].content for i in special)
        self.control = _any_of(token.content for token in tokens.values())
        self._ordinary = _any_of(tokens[i].content for i in ordinary)

        secret = secrets.randbits(128)
        self._seams = {token.content: f"{secret}-token-{i}-" for i, token in tokens.items()}
        tokenizer.add_special_tokens([_like(token, token.content, True) for token in tokens.values()])
        tokenizer.add_tokens([_like(token, self._seams[token.content], False) for token in tokens.values()])
        tokenizer.encode_special_tokens = True  # as text, which seams are not
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)  # a token ends after its spaces
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab()
        self._meant = {vocabulary[self._seams[token.content]]: i for i, token in tokens.items()}
        self._check_kept_apart(template)

    def _check_kept_apart(self, template: ChatTemplate) -> None:
        unknown = template.special_tokens.get("unk_token")  # read by some wherever they know no piece
        for i in self._meant.values():
            name = self.name(i)
            if name != unknown and i in self.read(name)[0]:  # a piece, or a model that knows no special ones
                raise ConfigError(
                    f"{template.place}: a turn that says {name!r} would get the special token of that name; "
                    "use a tokenizer that keeps them apart, such as byte-level BPE"
                )

    def name(self, token_id: int) -> str:
        return str(self._tokenizer.id_to_token(token_id))

    def seamed(self, text: str) -> str:
        """What a template wrote, with a seam for each control token in it."""
        return self.control.sub(lambda match: self._seams[match[0]], text)

    def seamed_answer(self, text: str) -> str:
        """What an assistant said, with a seam for each control token that it may say."""
        return self._ordinary.sub(lambda match: self._seams[match[0]], text)

    def read(self, seamed: str) -> tuple[list[int], list[int]]:
        """Token ids, and where in the text each of them ends."""
        read = self._tokenizer.encode(seamed, add_special_tokens=False)
        return [self._meant.get(i, i) for i in read.ids], [end for _, end in read.offsets]

    def read_behind(self, seamed: str) -> list[int]:
        """Token ids of a text that follows a control token, before which no tokenizer puts a space."""
        return self.read(next(iter(self._seams.values())) + seamed)[0][1:]


def _any_of(texts: Iterable[str]) -> re.Pattern:
    """Matches each of the texts, of two that begin alike the longer one."""
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or r"(?!)")


def _like(token: AddedToken, content: str, special: bool) -> AddedToken:
    return AddedToken(content, lstrip=token.lstrip, rstrip=token.rstrip, normalized=False, special=special)


class ChatTokenizer:
    """The tokenizer of a policy that chats, as a `Tokenizer`; `chat` writes its conversations."""

    prefix: tuple[int, ...] = ()  # a template says what a conversation begins with

    def __init__(self, chat: Chat, tokenizer: HuggingFaceTokenizer):
        self.chat, self._tokenizer = chat, tokenizer
        self.vocab_size, self.pad_id = tokenizer.vocab_size, tokenizer.pad_id
        self.eos_ids: tuple[int, ...] = chat.end_of_turn
        self.eos_id = chat.encode_answer("?")[-1]

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        return self._tokenizer.decode(before(self.eos_ids, ids))

    def save(self, folder: str | PathLike[str]) -> None:
        self._tokenizer.save(folder)
        settings = Path(folder) / SETTINGS_FILE
        named = {name: token for name, token in self.chat.template.special_tokens.items() if token}
        write_json(settings, read_object(settings, ConfigError) | named)
        write_text(Path(folder) / TEMPLATE_FILE, self.chat.template.source)
        write_json(Path(folder) / GENERATION_FILE, {"eos_token_id": list(self.eos_ids)})


def load_chat(folder: str | PathLike[str], **variables: Any) -> Chat:
    """The chat template, tokenizer.json and EOS of a folder of Hugging Face.

    `variables` are more names that the template reads, such as Qwen3's `enable_thinking`. Raises ConfigError
    for a template that is missing or does not compile, EOS ids that are no tokens, and a tokenizer that reads
    special tokens in any text; TokenizerError for one that cannot be read or has no EOS.
    """
    template = read_chat_template(folder, variables)
    plain = _tokenizer_in(folder)
    # Read again, for this one gets seams beside its tokens.
    own = tokenizers.Tokenizer.from_buffer((Path(folder) / JSON_FILE).read_bytes())
    return Chat(template, own, _end_of_turn(Path(folder), own, plain.eos_id), plain.vocab_size)


def load_chat_tokenizer(folder: str | PathLike[str], **variables: Any) -> ChatTokenizer:
    """The tokenizer of a folder, with its chat. Raises as `load_chat`, and as its `encode_answer`."""
    return ChatTokenizer(load_chat(folder, **variables), _tokenizer_in(folder))


def _tokenizer_in(folder: str | PathLike[str]) -> HuggingFaceTokenizer:
    tokenizer = load_tokenizer(folder)
    if not isinstance(tokenizer, HuggingFaceTokenizer):
        raise ConfigError(f"{folder}: a chat template needs {JSON_FILE}, and there is none in this folder")
    return tokenizer


def _end_of_turn(folder: Path, tokenizer: tokenizers.Tokenizer, eos_id: int) -> tuple[int, ...]:
    """The EOS ids that generation_config.json names, one or several; else the tokenizer's."""
    named = read_object(folder / GENERATION_FILE, ConfigError, missing={}).get("eos_token_id")
    if named is None:
        return (eos_id,)
    ids, there = named if isinstance(named, list) else [named], tokenizer.get_vocab().values()
    if not ids or any(type(i) is not int or i not in there for i in ids):
        raise ConfigError(f"{folder / GENERATION_FILE}: eos_token_id {named!r} should be ids of its tokens")
    return tuple(ids)

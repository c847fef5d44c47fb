"""Talking with a policy in a terminal: what is typed is a prompt, and the response appears as it is written.

With a chat model it is a conversation, which /new begins again. Ctrl-C ends a response, Ctrl-D the talk.
"""

import sys

from rlhf_jax.data.records import RecordError, Turn
from rlhf_jax.data.visible import has_text
from rlhf_jax.writing.prompts import USER, Prompts
from rlhf_jax.writing.response import Response, row_seed
from rlhf_jax.writing.writer import Writer

ASSISTANT, NEW, MARK = "assistant", "/new", "> "


def talk(writer: Writer, prompts: Prompts, seed: int, **sampling) -> None:
    """Until Ctrl-D. `sampling` goes to `Writer.response`."""
    import readline  # noqa: F401 - gives input() its keys, and prints to a terminal when it is imported

    chat = f"; {NEW} begins another conversation" if prompts.chat else ""
    print(f"Type a prompt; Ctrl-C ends a response, Ctrl-D the talk{chat}.", file=sys.stderr)
    turns: list[Turn] = []
    said = 0
    while True:
        try:
            text = input(MARK)
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if text.strip() == NEW and prompts.chat:
            turns = []
        if not has_text(text) or text.strip() == NEW and prompts.chat:
            continue
        said += 1
        asked = [*turns, Turn(USER, text)]
        try:
            prompt = prompts.of_turns(asked)
            response = writer.response(prompt.ids, row_seed(seed, said), **sampling)
        except RecordError as error:
            print(f"{error}{chat if turns else ''}", file=sys.stderr)
            continue
        if prompt.is_cut:
            print("the prompt is too long, and its end is left out", file=sys.stderr)
        show(writer, response)
        if prompts.chat:
            turns = [*asked, Turn(ASSISTANT, response.text)]


def show(writer: Writer, response: Response) -> None:
    """Writes one response and prints it while it grows; Ctrl-C ends it where it is."""
    shown = ""
    try:
        for _ in writer.write([response]):
            print(response.text.removeprefix(shown), end="", flush=True)
            shown = response.text
    except KeyboardInterrupt:
        response.cancel()
    print()

"""Text as people see it: what is invisible says nothing, and blanks in a row are one."""

import functools

from rlhf_jax.data.visible import INVISIBLE, has_text


def clean(text: str) -> str:
    """Text as it is kept: lines end in a line feed, no control characters, no blanks around it.

    A text of which nothing can be seen is empty.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    kept = "".join(c for c in lines if c.isprintable() or c in "\n\t" or not c.isascii()).strip()
    return kept if has_text(kept) else ""


@functools.lru_cache(16)  # of a post, of which many words are looked for in turn
def seen(text: str) -> tuple[str, tuple[int, ...]]:
    """What a page shows of a text, and where in the text each character of it stands."""
    shown, places = "", []
    for place, c in enumerate(text):
        c = " " if c.isspace() and not INVISIBLE.match(c) else c
        if not INVISIBLE.match(c) and not (c == " " and shown.endswith(" ")):
            shown += c
            places.append(place)
    return shown, tuple(places)


def find(words: str, text: str) -> tuple[int, int] | None:
    """The characters [start, end) of `text` at which it first shows `words`; None where it does not."""
    needle = seen(words)[0].strip()
    shown, places = seen(text)
    start = shown.find(needle)
    if not needle or start < 0:
        return None
    return places[start], places[start + len(needle) - 1] + 1

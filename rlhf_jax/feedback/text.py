"""Text as people see it: what is invisible says nothing, and blanks in a row are one."""

import functools
import re

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


def places(words: str, text: str) -> list[tuple[int, int]]:
    """The characters [start, end) of `text` at which it shows `words`, in order."""
    needle = seen(words)[0].strip()
    shown, at = seen(text)
    starts = [match.start() for match in re.finditer(f"(?={re.escape(needle)})", shown)] if needle else []
    return [(at[start], at[start + len(needle) - 1] + 1) for start in starts]

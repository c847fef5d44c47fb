"""Text as people see it: what is invisible says nothing, and blanks in a row are one."""

import functools
import re

# Controls, what Unicode calls default-ignorable (soft hyphen, zero-width spaces, marks of direction,
# variation selectors, fillers, byte order mark, tags), and the blank of Braille.
INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def blank(text: str) -> bool:
    """Whether nothing of a text can be seen."""
    return not INVISIBLE.sub("", text).strip()


def clean(text: str) -> str:
    """Text as it is kept: lines end in a line feed, no control characters, no blanks around it.

    A text of which nothing can be seen is empty.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    kept = "".join(c for c in lines if c.isprintable() or c in "\n\t" or not c.isascii()).strip()
    return "" if blank(kept) else kept


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

"""Which characters of a text can be seen."""

import re

# Controls, what Unicode calls default-ignorable (soft hyphen, zero-width spaces, marks of direction,
# variation selectors, fillers, byte order mark, tags), and the blank of Braille.
INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def has_text(text: str) -> bool:
    """Whether anything of a text can be seen."""
    return bool(INVISIBLE.sub("", text).strip())

"""The form of a text of the miniature: what is left of it when what it says is taken out."""

import re

from rlhf_jax.data.mini import world
from rlhf_jax.data.mini.reading import NAMED, PRONOUNS

SYMBOLS = {
    word: symbol
    for symbol, words in {
        "PERSON": world.NAMES,
        "PRONOUN": PRONOUNS,
        "DEED": NAMED,
        "PLACE": world.PLACES,
        "DAY": world.DAYS,
        "EFFECT": world.EFFECTS,
        "ACTION": world.ACTIONS,
    }.items()
    for word in words
}


def form(text: str) -> str:
    """The text with a symbol for each person, deed, place, day, effect and action.

    Texts of one form are made alike, whatever they are about: "adam hit ben. should i sue adam?" and
    "iris saved kurt. should i trust kurt?" are.
    """
    words = " ".join(text.lower().split())
    return re.sub(r"\w+", lambda word: SYMBOLS.get(word[0], word[0]), words)

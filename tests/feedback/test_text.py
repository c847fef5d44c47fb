"""Text as people see it, against what Unicode says of each character."""

import unicodedata

import pytest

from rlhf_jax.data.visible import INVISIBLE, has_text
from rlhf_jax.feedback.text import clean, places

SOFT, ZERO, JOINER = "\u00ad", "\u200b", "\u200d"


def test_no_character_that_shows_is_invisible():
    """Letters, marks, numbers, signs; but for fillers, which Unicode counts as letters and marks."""
    fillers = "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0"
    hidden = [c for c in map(chr, range(0x110000)) if INVISIBLE.match(c) and c not in fillers]
    shown = [c for c in hidden if unicodedata.category(c)[0] in "LNPS"]
    marks = [c for c in hidden if unicodedata.category(c)[0] == "M"]
    assert shown == [] and all("VARIATION SELECTOR" in unicodedata.name(c) for c in marks)


@pytest.mark.parametrize(
    "text", ["", " \n\t", ZERO, SOFT, "\ufeff", f" {JOINER} \u00a0\u3000", "\u2800", "\x00\x1b"]
)
def test_a_text_of_which_nothing_shows_is_empty(text):
    assert not has_text(text) and clean(text) == ""


@pytest.mark.parametrize(
    "text", ["a", "0", ".", "é", "字", "❤\ufe0f", f"👩{JOINER}🚀", f"می{chr(0x200C)}روم"]
)
def test_what_shows_is_kept_with_what_joins_it(text):
    assert has_text(text) and clean(f" {text}\r\n") == text


@pytest.mark.parametrize(
    "words, start, end",
    [
        ("off. I walked", 14, 29),  # as a browser may give the two spaces
        ("off.  I walked", 14, 29),
        (f" off.{ZERO} I\twalked ", 14, 29),
        ("walked home", 22, 34),
        (f"wal{SOFT}ked", 22, 29),
        ("My chain", 0, 8),
        ("the rain.", 38, 47),
    ],
)
def test_words_are_found_as_a_page_shows_them(words, start, end):
    assert places(words, f"My chain fell off.  I wal{SOFT}ked\nhome in the\u00a0rain.") == [(start, end)]


@pytest.mark.parametrize("words", ["", " ", ZERO, "offI", "off . I", "Off.", "rain. x"])
def test_other_words_are_not_found(words):
    assert places(words, "My chain fell off.  I walked home in the rain.") == []


def test_words_are_found_at_each_of_their_places():
    assert places("aba", "aba  ababa") == [(0, 3), (5, 8), (7, 10)]


def test_kept_text_has_no_control_characters_and_one_kind_of_line_end():
    assert clean(" a\r\nb\rc\0\x1b[1m\td ü🙂 \n") == "a\nb\nc[1m\td ü🙂"

"""What is read from texts that no Writer wrote."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_jax.data.mini.reading import Claim, read
from rlhf_jax.data.mini.world import Fact, Question

ROBBED, HIT = Fact("leo", "robbed", "mia"), Fact("ben", "hit", "leo")


def clear(text):
    return [claim.fact for claim in read(text).claims if claim.clear]


@pytest.mark.parametrize(
    "text",
    [
        "leo robbed mia. ben hit leo.",
        "LEO  Mugged\nMia, and then leo was punched by ben!",
        "leo robbed mia and also he was hit by ben",
        "mia was robbed by leo.ben hit leo.",
    ],
)
def test_the_same_said_in_other_words(text):
    assert clear(text) == [ROBBED, HIT] and not read(text).foreign


@pytest.mark.parametrize(
    "text",
    [
        "he robbed mia.",  # nobody was named
        "him robbed mia.",
        "leo robbed mia?",
        "is this normal, leo robbed mia?",
        "leo robbed mia lol.",
        "leo robbed mia so ben hit leo.",  # as if it were the reason
        "leo robbed mia at work at home.",
        "mia fled because leo robbed mia so mia quit.",
        "leo robbed mia so mia fled so mia quit.",
        "leo robbed mia again.",
        "leo robbedmia.",
        "leorobbed mia.",
        "leo, robbed.",
    ],
)
def test_a_sentence_is_read_as_a_whole_or_not_at_all(text):
    assert clear(text) == [] and read(text).stray > 0


@pytest.mark.parametrize(
    ("text", "foreign"),
    [
        ("it is not true that leo robbed mia.", ("it", "is", "not", "true", "that")),
        ("leo robbed mia. just kidding.", ("just", "kidding")),
        ("leo robbed mia? no.", ("no",)),
        ("leo robbed mia never.", ("never",)),
        ("eve robbed mia.", ("eve",)),
        ('"leo robbed mia."', ('"', '"')),
        ("leo robbed mia's.", ("mia's",)),
        ("leo \u200brobbed mia", ("\u200b",)),
        ("leo robbed mia. this is so much", ("this", "is", "much")),
    ],
)
def test_words_that_the_language_does_not_have_there_are_foreign(text, foreign):
    assert read(text).foreign == foreign


@pytest.mark.parametrize(
    "text", ["leo robbed mia. this is long. so yeah.", "help with leo. people say leo", "leo at so."]
)
def test_fillers_titles_and_pieces_are_not_foreign(text):
    assert read(text).foreign == () and read(text).stray >= 3


def test_known_words_deny():
    assert read("i lied that leo robbed mia.").denies and read("leo robbed mia. it isn't so").denies
    assert not read("leo never robbed mia.").denies and not read("pizza. leo robbed mia.").denies


def test_hedges_make_facts_probable():
    assert [fact.sure for fact in read("maybe leo robbed mia. ben hit leo.").facts] == [False, True]
    assert [fact.sure for fact in read("leo robbed mia. ben hit leo. people say.").facts] == [False, False]


def test_questions_end_a_sentence_that_asks():
    reading = read("leo robbed mia and should i sue leo?")
    assert reading.claims == (Claim(ROBBED),) and reading.questions == (Question("sue", "leo"),)
    assert read("should i sue leo and leo robbed mia?").questions == ()
    assert read("should i sue him?").questions == ()


def test_words_and_idle_marks_are_counted():
    assert read("leo robbed mia, at work. 🙂").words == 6
    assert (read("leo robbed mia.").stray, read("leo robbed mia....").stray) == (0, 3)
    assert read("leo robbed mia. ").finished and not read("leo robbed mia").finished and not read("").finished


@settings(deadline=None)
@given(
    st.text()
    | st.lists(
        st.sampled_from("leo he her robbed was by never at work on so fled because . ? and maybe".split())
    )
)
def test_no_text_has_more_stray_words_and_marks_than_it_has(text):
    text = text if isinstance(text, str) else " ".join(text)
    reading = read(text)
    assert 0 <= reading.stray <= reading.words + sum(text.count(mark) for mark in ".?!")
    assert len(reading.foreign) <= reading.words

from rlhf_jax.data.mini import world
from rlhf_jax.data.mini.form import SYMBOLS, form


def test_what_is_said_is_taken_out_and_how_it_is_said_stays():
    text = "maybe iris fainted because she was never mocked by kurt at home on monday. is it ok to sue kurt?"
    assert form(text) == (
        "maybe PERSON EFFECT because PRONOUN was never DEED by PERSON at PLACE on DAY. "
        "is it ok to ACTION PERSON?"
    )


def test_texts_that_differ_in_what_they_say_alone_have_one_form():
    assert form("Adam hit ben.  should i sue adam?") == form("iris rescued kurt. should i trust kurt?")
    assert form("adam hit ben. should i sue adam?") != form("adam hit ben so ben cried. should i sue adam?")
    assert form("adam hit ben.") != form("ben was hit by adam.")


def test_every_word_for_a_person_deed_place_day_effect_or_action_is_taken_out():
    words = (*world.NAMES, *world.DEEDS, *world.DEEDS.values(), *world.PLACES, *world.DAYS)
    assert SYMBOLS.keys() == {*words, *world.EFFECTS, *world.ACTIONS, "he", "him", "she", "her"}

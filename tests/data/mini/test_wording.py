"""Writers say facts in many ways, and all of them are read back."""

import numpy as np
import pytest

from rlhf_jax.data.mini import world
from rlhf_jax.data.mini.reading import read
from rlhf_jax.data.mini.wording import Writer
from rlhf_jax.data.mini.world import Fact, Question

FACT = Fact("leo", "robbed", "mia", "work", "monday", "fled", "mia")


def plain(pronouns=0.0):
    return Writer(np.random.default_rng(0), pronouns=pronouns, variety=0.0)


def test_the_plainest_words():
    assert plain().fact(FACT) == "leo robbed mia at work on monday so mia fled"
    assert plain().fact(FACT, effect=False) == "leo robbed mia at work on monday"
    assert plain().fact(Fact("leo", "robbed", "mia", denied=True)) == "leo never robbed mia"
    assert plain().question(Question("sue", "leo")) == "should i sue leo?"


def test_a_pronoun_stands_for_the_man_or_woman_named_last():
    writer = plain(pronouns=1.0)
    assert writer.fact(FACT) == "leo robbed mia at work on monday so she fled"
    assert writer.fact(Fact("mia", "hit", "ben")) == "she hit ben"
    assert writer.fact(Fact("leo", "hit", "mia")) == "leo hit her"


def test_there_are_many_ways_to_say_a_fact():
    rng = np.random.default_rng(0)
    said = {Writer(rng).fact(FACT) for _ in range(2000)}
    assert len(said) > 60
    assert "mia fled because on monday mia was mugged by leo at work" in said
    assert {read(f"{one}.").facts for one in said} == {(FACT,)}


@pytest.mark.parametrize("pronouns", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("variety", [0.0, 1.0])
def test_all_that_is_said_is_read_back(pronouns, variety):
    for i in range(300):
        rng = np.random.default_rng(i)
        story = world.tell(rng, "train", {1: 1, 3: 1, 5: 1})
        writer = Writer(rng, pronouns, variety)
        said = [*writer.sentences(story.facts, joined=0.5, linked=0.5), writer.question(story.question)]
        reading = read(" ".join(said))
        assert reading.facts == story.facts and reading.questions == (story.question,), said
        assert reading.stray == 0 and not reading.foreign and all(claim.clear for claim in reading.claims)


def test_what_is_told_a_second_time_is_told_without_its_effect():
    assert plain().sentences([FACT, FACT], joined=0.0) == [
        "leo robbed mia at work on monday so mia fled.",
        "leo robbed mia at work on monday.",
    ]

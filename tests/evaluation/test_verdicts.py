"""What a judge's words are read as, and that nothing is guessed."""

import re

import pytest

from rlhf_jax.evaluation.verdicts import letter, verdict

# One a line or between bars; a slash is the end of a line.
FOR_A = """A|**A**|a|(A)|"A"|- A|# A|[[A]]|$\\boxed{A}$|A.|`A`|Answer: A|Final answer: **A**|My verdict: a
Better summary: A|Summary A|The better summary is A.|The winner is A!|I think that A is better|A wins|A > B
Summary A is better than summary B.|**Summary A** is better.|A is clearly the better summary.|A is my choice
A is better, as it doesn't invent.|Summary A captures the main points better than Summary B.|I prefer A.
Summary B is worse than summary A.|I'd choose summary A over summary B.|I would go with A because it is short
It is longer. A|B is longer. Summary A is better. It covers more.|B reads well./A|B is long./ /  **A**  /"""
TIES = """Tie|It's a tie.|The verdict is: a tie|Neither.|Both|They are equally good.|Both summaries are equal
Summary A and summary B are equally good.|Neither summary is better.|A/The two summaries are the same."""
NONE = """A or B|A and B|A good summary is short.|A good summary is better.|I cannot decide between A and B.
A few|As an AI, I cannot.|A is not better than B.|A isn't better|A is no better than B|A is long.|A is worse.
A is better in style, but B is true.|I would choose a better one|If brevity matters A is better.|Maybe
A would be better if it were true|A is better or B is|Both are fine|They are not equal|A/I am not sure"""


def replies(text: str) -> list[str]:
    return [reply.replace("/", "\n") for line in text.splitlines() for reply in line.split("|")]


def exchanged(reply: str) -> str:
    return re.sub(r"\b[ABab]\b", lambda found: {"A": "B", "B": "A", "a": "b"}[found[0]], reply)


@pytest.mark.parametrize("reply", replies(FOR_A))
def test_a_verdict_is_read_in_many_words(reply):
    assert verdict(reply) == 1


@pytest.mark.parametrize("reply", replies(FOR_A))
def test_the_same_words_about_the_other_are_the_other_verdict(reply):
    assert verdict(exchanged(reply)) == 0


@pytest.mark.parametrize("reply", replies(TIES))
def test_a_tie_is_one_half(reply):
    assert verdict(reply) == 0.5


@pytest.mark.parametrize("reply", [*replies(NONE), "", " \n"])
def test_other_words_are_no_verdict(reply):
    assert verdict(reply) is None


@pytest.mark.parametrize(
    "reply, says", [("x\nA", 1), ("**b**", 0), ("Summary A", None), ("tie", None), ("", None)]
)
def test_the_letter_alone_is_one_even_of_a_reply_that_was_cut_off(reply, says):
    assert letter(reply) == says

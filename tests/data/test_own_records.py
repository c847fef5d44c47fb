"""Rows of tables as prompts and responses to learn: which prompts are one, which responses are learned."""

import pytest

from rlhf_jax.data.own_records import id_of, preferred
from rlhf_jax.data.preferences import Preference, PromptOnly
from rlhf_jax.data.records import Comparison, Example, Summary, Turn


def turns(*contents: str) -> tuple[Turn, ...]:
    return tuple(Turn(("user", "assistant")[i % 2], content) for i, content in enumerate(contents))


@pytest.mark.parametrize(
    "one, other",
    [
        ("q", " q\n"),
        ("q", turns("q")),
        (turns("q"), turns("q ")),
        (turns("a", "b", "q"), turns("a ", "b", "\nq")),
    ],
)
def test_prompts_that_differ_in_blanks_around_them_are_one(one, other):
    assert id_of(PromptOnly(one)) == id_of(PromptOnly(other))


@pytest.mark.parametrize("one, other", [("a b", "a  b"), (turns("a", "b", "q"), turns("ab", "", "q"))])
def test_others_are_two(one, other):
    assert id_of(PromptOnly(one)) != id_of(PromptOnly(other))


@pytest.mark.parametrize(
    "pairs, learned",
    [
        (["ab"], "a"),
        (["ab", "ba", "ba"], "b"),
        (["ab", "ba"], "ab"),  # nobody agrees
        (["ab", "cd"], "ac"),
        (["ba", "bc", "ca", "db"], "bdc"),
    ],
)
def test_what_is_not_rejected_more_often_than_preferred_is_learned(pairs, learned):
    rows = [Preference("q", chosen, rejected) for chosen, rejected in pairs]
    assert "".join(record.reference for record in preferred(rows)) == learned


def test_a_choice_in_openais_form_counts_as_a_preference_does():
    info, texts = Example("q1", "q"), (Summary("a", "x"), Summary("b", "y"))
    rows = [Comparison(info, texts, choice, "", "", "train") for choice in (1, 0, 1)]
    assert list(preferred(rows)) == [Example("q1", "q", "b")]

"""Columns by other names, and several as one text."""

import pytest

from rlhf_jax.config import ConfigError
from rlhf_jax.data.columns import Joined, parse_columns, renamed, with_texts
from rlhf_jax.data.records import RecordError

TURN = {"role": "user", "content": "q"}


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", {}),
        ("question:prompt", {"question": "prompt"}),
        (" question : prompt , answer:completion,", {"question": "prompt", "answer": "completion"}),
        ("instruction:prompt,input:prompt", {"instruction": "prompt", "input": "prompt"}),
        ("chosen:rejected,rejected:chosen", {"chosen": "rejected", "rejected": "chosen"}),
    ],
)
def test_a_mapping_of_columns_is_parsed(text, expected):
    assert parse_columns(text) == expected


@pytest.mark.parametrize("text", ["question", "a:", ":b", "a:b:c", "a:b,a:c", "a=b"])
def test_a_wrong_mapping_says_so(text):
    with pytest.raises(ConfigError, match="data.columns: "):
        parse_columns(text)


PASSAGES = [["Robin", "A bird."], ["Hedge", "", None, "A row of shrubs."], []]


@pytest.mark.parametrize(
    "columns, text",
    [
        ("instruction:prompt,input:prompt", "Shorten.\n\nIt is late."),
        ("input:prompt,instruction:prompt", "It is late.\n\nShorten."),
        ("empty:prompt,input:prompt,blank:prompt", "It is late."),
        ("empty:prompt,blank:prompt", ""),
        ("gone:prompt,input:prompt", "It is late."),
        ("lines:prompt,input:prompt", "One.\nTwo.\n\nIt is late."),
        ("passages:prompt,input:prompt", "Robin\nA bird.\n\nHedge\nA row of shrubs.\n\nIt is late."),
    ],
)
def test_several_columns_are_one_text_in_the_order_of_the_mapping(columns, text):
    row = {
        "input": "It is late.",
        "instruction": "Shorten.",
        "empty": "",
        "blank": " \n",
        "lines": ["One.", "Two."],
    }
    found = with_texts(renamed(row | {"passages": PASSAGES}, parse_columns(columns)))
    assert found["prompt"] == text


def test_votes_of_several_columns_stay_apart():
    found = with_texts(renamed({"b": 2, "a": 1, "c": 0}, parse_columns("a:votes,b:votes,gone:votes")))
    assert found == {"votes": Joined(a=1, b=2), "c": 0} and list(found["votes"]) == ["a", "b"]


@pytest.mark.parametrize(
    "value, words",
    [
        ([TURN], r"column chat\[0\] holds an object; only texts and lists of them can be joined"),
        ([["a"], [TURN]], r"column chat\[1\]\[0\] holds an object"),
        (7, "column chat holds a number"),
        ({"a": "b"}, "column chat holds an object"),
    ],
)
def test_nothing_but_texts_is_joined(value, words):
    joined = renamed({"question": "q", "chat": value}, parse_columns("chat:prompt,question:prompt"))
    with pytest.raises(RecordError, match=words):
        with_texts(joined)


def test_a_column_that_keeps_a_name_is_not_joined_unless_it_is_said():
    row = {"input": "i", "prompt": "p"}
    with pytest.raises(
        RecordError, match="two columns would be prompt; .* join them: input:prompt,prompt:prompt"
    ):
        renamed(row, {"input": "prompt"})
    assert renamed(row, {"input": "prompt", "prompt": "prompt"}) == {"prompt": {"input": "i", "prompt": "p"}}
    assert renamed(row, {"input": "prompt", "prompt": "old"}) == {"prompt": "i", "old": "p"}

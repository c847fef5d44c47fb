"""The example rewards of configs/rewards/, on responses whose reward is known by hand."""

import runpy
from pathlib import Path

import pytest

REWARDS = Path(__file__).parents[2] / "configs" / "rewards"


def given(name, responses, *rows):
    function = runpy.run_path(REWARDS / f"{name}.py")[name]
    return function([""] * len(responses), responses, rows or [{"reference": ""}] * len(responses))


def test_each_is_twenty_lines_and_named_as_its_file():
    for file in REWARDS.glob("*.py"):
        source = file.read_text(encoding="utf-8")
        assert len(source.splitlines()) <= 26 and f"THIS_FILE:{file.stem}" in source


def test_an_exact_answer_is_the_last_line_or_stands_behind_the_word():
    responses = ["Let me see. 6 × 7 = 42\nAnswer: 42.", "so it is\n1,000", "41", "Paris"]
    rows = [
        {"answer": 42, "reference": ""},
        {"reference": "1000"},
        {"reference": "42"},
        {"reference": " paris"},
    ]
    assert given("exact_answer", responses, *rows) == [1, 1, 0, 1]


def test_a_regular_expression_is_of_the_whole_response():
    assert given("regular_expression", ["A cat sat.", "A cat. It sat.", "a cat", ""]) == [1, 0, 0, 0]


def test_a_length_band_falls_by_a_tenth_a_word():
    responses = [" ".join(["word"] * count) for count in (12, 16, 11, 18, 0, 60)]
    assert given("length_band", responses) == pytest.approx([0, 0, -0.1, -0.2, -1, -1])


def test_json_of_another_form_is_worth_a_half():
    pytest.importorskip("jsonschema")
    responses = ['{"summary": "a cat"}', '{"summary": 3}', "[]", "a cat", "[" * 100_000]
    assert given("json_schema", responses) == [1, 0.5, 0.5, 0, 0]
    assert given("json_schema", ["[]"], {"schema": {"type": "array"}}) == [1]

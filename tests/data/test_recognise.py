"""A table is told by its columns, and a line says what was found in it."""

import pytest

from rlhf_jax.data.recognise import read, recognise
from rlhf_jax.data.records import RecordError
from rlhf_jax.data.tables import Row


def table(*values: dict):
    return read(Row(one, f"a.jsonl, line {number}") for number, one in enumerate(values, 1))


def user(content: str, **beside) -> dict:
    return {"role": "user", "content": content} | beside


ANSWER = {"role": "assistant", "content": "a", "weight": 0}
VOTED = {"prompt": "q", "response1": "4", "response2": "5", "votes": [1, 0]}
SEVERAL = {"prompt": "q", "responses": ["4", "5"], "comparisons": [{"first": 0, "second": 1, "preferred": 0}]}
POST = {"id": "t3_a", "post": "A story.", "title": "A title", "subreddit": "tifu", "summary": "Short."}
COMPARISON = {
    "info": POST,
    "summaries": [{"text": " one", "policy": "ref"}, {"text": " two", "policy": "sup4"}],
    "choice": 1,
    "worker": "w1",
    "batch": "batch9",
    "split": "train",
}


@pytest.mark.parametrize(
    "values, told",
    [
        ({"prompt": "q", "completion": "a"}, "4,558 rows: prompt, completion"),
        ({"prompt": [user("q")]}, "4,558 rows: prompt (conversations)"),
        ({"prompt": "q", "response": "a"}, "4,558 rows: prompt; not read: response"),
        ({"chosen": "q 4", "rejected": "q 5", "margin": 1}, "4,558 rows: chosen, rejected; not read: margin"),
        (
            VOTED,
            "4,558 rows: prompt, response1, response2, votes; 4,558 comparisons; left out: 4,558 ties",
        ),
        (
            SEVERAL | {"completion": "a", "id": "1"},
            "4,558 rows: prompt, responses, comparisons; 4,558 comparisons, 4,558 demonstrations; "
            "not read: id",
        ),
        (
            {"prompt": [user("q", name="Ana", tool_calls=None)], "completion": [ANSWER]},
            "4,558 rows: prompt, completion (conversations); not read: name of turns, weight of turns",
        ),
        (COMPARISON, "4,558 rows: info, summaries, choice"),
        (POST, "4,558 rows: subreddit, post"),
        ({"id": "1", "prompt": "q", "reference": ""}, "4,558 rows: id, prompt, reference"),
    ],
)
def test_a_line_tells_what_was_found(values, told):
    assert str(table(*[values] * 4558)) == told


def test_columns_of_later_rows_and_keys_of_objects_are_told_too():
    found = table({"prompt": "q"}, {"prompt": "q", "note": "n"})
    assert str(found) == "2 rows: prompt; not read: note"
    sure = SEVERAL | {"comparisons": [SEVERAL["comparisons"][0] | {"confidence": 9}]}
    assert str(table(sure)).endswith("comparisons; not read: confidence of comparisons")
    ranked = [{"rank": i, "completion": str(i), "model": "m"} for i in range(2)]
    assert str(table({"context": "q", "completions": ranked})).endswith("not read: model of completions")


def test_no_rows_are_no_table():
    with pytest.raises(RecordError, match="without rows"):
        table()


def test_the_first_kind_whose_columns_are_there_is_taken():
    assert str(recognise(["label", "completion", "prompt", "id"])) == "prompt, completion, label"
    assert str(recognise(["messages", "chosen", "rejected", "prompt"])) == "prompt, chosen, rejected"
    assert str(recognise(["votes", "prompt", "response1", "input"])) == "prompt, response1, response2, votes"
    assert str(recognise(["prompt", "completion", "responses", "comparisons"])).endswith("comparisons")


def test_rows_that_give_nothing_are_counted():
    found = table(VOTED, VOTED | {"votes": []}, VOTED | {"votes": [0]})
    assert str(found).endswith("; 1 comparisons; left out: 2 ties; 2 rows give nothing")


@pytest.mark.parametrize(
    "values, words",
    [
        (
            VOTED | {"votes": [0]},
            "line 2: this and the rows before have nothing to learn from, left",
        ),
        (VOTED | {"votes": []}, "line 2: this and the rows before have no judgments"),
        (
            SEVERAL | {"comparisons": [{"first": 0, "second": 1, "winner": 0}]},
            "line 2: .* left out: 2 ties; not read: winner of comparisons",
        ),
    ],
)
def test_a_table_that_teaches_nothing_is_told(values, words):
    with pytest.raises(RecordError, match=words):
        table(values, values)

import datetime
import json
from dataclasses import replace

import pyarrow.parquet
import pytest

from rlhf_jax.data.columns import Joined
from rlhf_jax.data.preferences import Demonstration, Preference, PromptOnly, UnpairedPreference
from rlhf_jax.data.recognise import read
from rlhf_jax.data.record_json import from_json
from rlhf_jax.data.records import Article, AxisRating, Comparison, Example, Post, RecordError, Turn
from rlhf_jax.data.tables import Row, rows


def user(content: str) -> dict:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict:
    return {"role": "assistant", "content": content}


SYSTEM = {"role": "system", "content": ""}
ASKED = (Turn("user", "2 + 2?"),)
HH = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: 2 + 2?\n\nAssistant:"
INFO = {"id": "t3_a", "post": "A story.", "title": "A title", "subreddit": "tifu"}
POST = INFO | {"summary": "Short."}
ARTICLE = {"id": "n1", "site": "cnn", "title": "News", "article": "It happened."}
COMPARISON = {
    "info": INFO,
    "summaries": [{"text": " one", "policy": "ref"}, {"text": " two", "policy": "sup4"}],
    "choice": 1,
    "worker": "w1",
    "batch": "batch9",
    "split": "train",
}
RATING = {
    "info": ARTICLE,
    "summary": {"text": " one", "policy": "ref", "axes": {"overall": 3}},
    "worker": "w1",
    "batch": "cnndm1",
    "split": "test",
}


def table(*values: dict):
    return read(Row(one, f"a.jsonl, line {number}") for number, one in enumerate(values, 1))


def compared(first, second, preferred) -> dict:
    """A row whose comparison is wrong."""
    return SEVERAL | {"comparisons": [{"first": first, "second": second, "preferred": preferred}]}


def placed(example, place: str):
    """The example as of another place; records of OpenAI's formats have none."""
    ours = (PromptOnly, Demonstration, Preference, UnpairedPreference)
    return replace(example, place=place) if isinstance(example, ours) else example


CLEANRL = {"query": "…", "reference_response": " Short."}
READ = {
    "prompts": ({"prompt": "2 + 2?"}, PromptOnly("2 + 2?")),
    "prompts, conversations": ({"prompt": [user("2 + 2?")]}, PromptOnly(ASKED)),
    "demonstrations": ({"prompt": "2 + 2?", "completion": " 4"}, Demonstration("2 + 2?", " 4")),
    "demonstrations, conversations": (
        {"prompt": [user("2 + 2?")], "completion": [assistant("4")]},
        Demonstration(ASKED, "4"),
    ),
    "messages": (
        {"messages": [SYSTEM, user("Hi"), assistant("Hello."), user("2 + 2?"), assistant("4")]},
        Demonstration(
            (Turn("system", ""), Turn("user", "Hi"), Turn("assistant", "Hello."), Turn("user", "2 + 2?")), "4"
        ),
    ),
    "messages beside a prompt, as ultrachat has them": (
        {"prompt": "2 + 2?", "messages": [user("2 + 2?"), assistant("4")]},
        Demonstration(ASKED, "4", {"prompt": "2 + 2?"}),
    ),
    "preferences": ({"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}, Preference("2 + 2?", "4", "5")),
    "preferences of someone": (
        {"prompt": "2 + 2?", "chosen": "4", "rejected": "5", "worker": 7},
        Preference("2 + 2?", "4", "5", worker="7"),
    ),
    "prompts that are lists of texts": (
        {"prompt": ["Add.", "2 + 2?"], "chosen": "4", "rejected": "5"},
        Preference("Add.\n2 + 2?", "4", "5"),
    ),
    "preferences, conversations": (
        {"prompt": [user("2 + 2?")], "chosen": [assistant("4")], "rejected": [assistant("5")]},
        Preference(ASKED, "4", "5"),
    ),
    "preferences with the prompt as text and again as a turn, as ultrafeedback_binarized has them": (
        {
            "prompt": "2 + 2?",
            "chosen": [user("2 + 2?"), assistant("4")],
            "rejected": [user("2 + 2?"), assistant("5")],
            "score_chosen": 8.5,
            "score_rejected": 6,
        },
        Preference(ASKED, "4", "5", extra={"score_chosen": 8.5, "score_rejected": 6}),
    ),
    "preferences with a system turn before the prompt": (
        {
            "prompt": "2 + 2?",
            "chosen": [SYSTEM, user("2 + 2?"), assistant("4")],
            "rejected": [SYSTEM, user("2 + 2?"), assistant("5")],
        },
        Preference((Turn("system", ""), *ASKED), "4", "5"),
    ),
    "preferences with a text before answers that are turns": (
        {"prompt": "2 + 2?", "chosen": [assistant("4")], "rejected": [assistant("5")]},
        Preference(ASKED, "4", "5"),
    ),
    "implicit prompts": (
        {"chosen": HH + " It is 4.", "rejected": HH + " It is 5."},
        Preference(HH, " It is 4.", " It is 5."),
    ),
    "implicit prompts, conversations": (
        {"chosen": [user("2 + 2?"), assistant("4")], "rejected": [user("2 + 2?"), assistant("4!")]},
        Preference(ASKED, "4", "4!"),
    ),
    "NeMo-RL's ranks": (
        {
            "context": [user("2 + 2?")],
            "completions": [
                {"rank": 1, "completion": [assistant("5")]},
                {"rank": 0, "completion": [assistant("4")]},
            ],
            "task_name": "sums",
        },
        Preference(ASKED, "4", "5", extra={"task_name": "sums"}),
    ),
    "a vote": (
        {"prompt": "2 + 2?", "response1": "5", "response2": "4", "votes": 2, "id": 7},
        Preference("2 + 2?", "4", "5", "1", {"id": 7}),
    ),
    "a vote, as `rlhf-jax answers` writes it": (
        {"prompt": "2 + 2?", "response1": "5", "response2": "4", "votes": 2, "worker": "ana"},
        Preference("2 + 2?", "4", "5", "ana"),
    ),
    "votes beside a worker, who gave none of them": (
        {"prompt": "2 + 2?", "response1": "5", "response2": "4", "votes": [2], "worker": "ana"},
        Preference("2 + 2?", "4", "5", "1", {"worker": "ana"}),
    ),
    "a vote, conversations": (
        {
            "prompt": [user("2 + 2?")],
            "response1": [assistant("4")],
            "response2": [assistant("5")],
            "votes": "1",
        },
        Preference(ASKED, "4", "5", "1"),
    ),
    "a comparison of several": (
        {
            "prompt": "2 + 2?",
            "responses": ["5", "3", "4"],
            "comparisons": [{"first": 0, "second": 2, "preferred": 2, "worker": "ana"}],
        },
        Preference("2 + 2?", "4", "5", "ana"),
    ),
    "a comparison of conversations": (
        {
            "prompt": [user("2 + 2?")],
            "responses": [[assistant("4")], [assistant("5")]],
            "comparisons": [{"first": 1, "second": 0, "preferred": 0}],
        },
        Preference(ASKED, "4", "5"),
    ),
    "unpaired": (
        {"prompt": "2 + 2?", "completion": "5", "label": False, "id": 7},
        UnpairedPreference("2 + 2?", "5", False, {"id": 7}),
    ),
    "unpaired, of a CSV": (
        {"prompt": "2 + 2?", "completion": "4", "label": "True"},
        UnpairedPreference("2 + 2?", "4", True),
    ),
    "unpaired, of pandas": (
        {"prompt": "2 + 2?", "completion": "5", "label": 0.0},
        UnpairedPreference("2 + 2?", "5", False),
    ),
    "comparisons": (COMPARISON, from_json(Comparison, COMPARISON)),
    "ratings": (RATING, from_json(AxisRating, RATING)),
    "posts": (POST, from_json(Post, POST)),
    "posts with their queries, as cleanrl has them": (
        POST | {"query": "…", "reference_response": " Short."},
        Post(
            "t3_a", "tifu", "A title", "A story.", "Short.", {"query": "…", "reference_response": " Short."}
        ),
    ),
    "articles": (ARTICLE, from_json(Article, ARTICLE)),
    "examples": ({"id": "q", "prompt": "2 + 2?", "reference": "4"}, Example("q", "2 + 2?", "4")),
}


@pytest.mark.parametrize("what", READ)
def test_a_table_is_told_by_its_columns(what):
    values, expected = READ[what]
    (found,) = table(values).examples
    assert found == placed(expected, "a.jsonl, line 1")


@pytest.mark.parametrize("what", READ)
def test_a_table_is_the_same_in_parquet(tmp_path, what):
    values, _ = READ[what]
    # A row about news beside one about a post: in Parquet, each has the other's fields as nulls.
    other = {"info": {"article": "x", "id": "n2", "site": "s", "title": "t"}} if "info" in values else {}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([values, values | other]), tmp_path / "a.parquet")
    found = read(rows(tmp_path / "a.parquet")).examples[0]
    expected = table(values).examples[0]
    assert placed(found, "") == placed(expected, "")


@pytest.mark.parametrize(
    "chosen, rejected, prompt",
    [
        ("2 + 2 = 4", "2 + 2 = 5", "2 + 2 ="),
        ("The answer is sky", "The answer is sea", "The answer is"),  # no word is cut in two
        ("Q: yes", "Q: yes indeed", "Q:"),
        ("Q: one\ntwo", "Q: one three", "Q: one"),
        ("A post.\n\nTL;DR:\nBob", "A post.\n\nTL;DR:\nAnn", "A post.\n\nTL;DR:\n"),
        (HH + " The a", HH + " The b", HH),
        ("[INST] a [/INST] The b", "[INST] a [/INST] The c", "[INST] a [/INST]"),
        (
            "<|user|>\nq\n<|assistant|>\nSo 4",
            "<|user|>\nq\n<|assistant|>\nSo 5",
            "<|user|>\nq\n<|assistant|>\n",
        ),
    ],
)
def test_an_implicit_prompt_ends_where_the_answer_begins(chosen, rejected, prompt):
    (found,) = table({"chosen": chosen, "rejected": rejected}).examples
    assert found.prompt == prompt
    assert (found.prompt + found.chosen, found.prompt + found.rejected) == (chosen, rejected)


PAIR = {"prompt": "q", "chosen": "4", "rejected": "5"}
CHAT = {"prompt": [user("q")], "chosen": [assistant("4")], "rejected": [assistant("5")]}
VOTED = {"prompt": "q", "response1": "4", "response2": "5", "votes": [1, 1]}
SEVERAL = {"prompt": "q", "responses": ["4", "5"], "comparisons": [{"first": 0, "second": 1, "preferred": 0}]}
RANKED = READ["NeMo-RL's ranks"][0]
BAD = [
    ([{}], "line 1: columns (all are empty) are none of"),
    ([{"question": "q", "answer": "a"}], "line 1: columns question, answer are none of info, summaries"),
    ([PAIR, {"prompt": "q", "completion": "a"}], "line 2: column chosen is missing"),
    ([{"prompt": "q"}, PAIR], "line 2: columns prompt, chosen, rejected, where the rows before have prompt"),
    ([PAIR, CHAT], "line 2: column prompt is a list, in the rows before a text"),
    ([PAIR, PAIR | {"rejected": " \n"}], "line 2: column rejected is empty"),
    ([PAIR | {"prompt": ""}], "line 1: column prompt is empty"),
    ([PAIR | {"rejected": "4 "}], "line 1: columns chosen and rejected are equal"),
    ([PAIR | {"chosen": 4}], "line 1: column chosen should be a text or a list of turns, not a number"),
    ([PAIR | {"chosen": [assistant("4")]}], "column rejected is a text, where column chosen is a con"),
    ([PAIR | {"prompt": [user("q")]}], "column chosen is a text, where column prompt is a conv"),
    ([PAIR | {"chosen": str([assistant("4")])}], "column chosen is a conversation written as text"),
    ([PAIR | {"chosen": json.dumps([assistant("4")])}], "column chosen is a conversation written as text"),
    ([{"chosen": "same", "rejected": "same"}], "columns chosen and rejected are equal"),
    ([{"chosen": "one", "rejected": "two"}], "do not begin alike"),
    ([CHAT | {"chosen": CHAT["rejected"]}], "columns chosen and rejected are equal"),
    ([CHAT | {"chosen": []}], "column chosen should end with a turn of the assistant"),
    ([CHAT | {"chosen": [assistant("")]}], "column chosen is empty"),
    (
        [CHAT | {"chosen": [{"content": "4"}]}],
        "column chosen[0].role is missing; there is content",
    ),
    ([CHAT | {"chosen": [{"role": "assistant"}]}], "column chosen[0].content is missing; there is role"),
    ([CHAT | {"chosen": [{"from": "gpt", "value": "4"}]}], "column chosen[0].role is missing"),
    ([CHAT | {"prompt": [{"role": "human", "content": "q"}]}], 'prompt[0].role is "human", none of system'),
    ([CHAT | {"prompt": [user(["q"])]}], "column prompt[0].content should be a text, not a list"),
    ([CHAT | {"prompt": [user(" ")]}], "column prompt is empty"),
    (
        [{"messages": [user("q"), assistant("a") | {"tool_calls": [{}]}]}],
        "column messages[1].tool_calls would be lost; write it into content, or leave the row out",
    ),
    ([{"prompt": b"q"}], "column prompt should be a text or a list of turns, not bytes"),
    ([{"id": "1", "prompt": [assistant("a")], "reference": "r"}], "column prompt has no turn of a user"),
    ([CHAT | {"prompt": [user("q"), "q"]}], "column prompt[1] should be an object of role and content, not"),
    ([PAIR | {"prompt": ["q", 3]}], "column prompt[1] holds a number; only texts and lists of them can be"),
    ([PAIR | {"prompt": ["", []]}], "column prompt is empty"),
    ([PAIR, PAIR | {"prompt": []}], "line 2: column prompt is empty"),
    ([PAIR | {"chosen": ["4"]}], "column chosen[0] should be an object of role and content, not a string"),
    ([CHAT | {"prompt": [assistant("q")]}], "column prompt has no turn of a user"),
    (
        [CHAT | {"chosen": [user("?"), assistant("4")], "rejected": [user("?"), assistant("5")]}],
        "begins with",
    ),
    (
        [{"chosen": [user("q"), assistant("4")], "rejected": [user("p"), assistant("4")]}],
        "columns chosen and rejected differ before their last turn",
    ),
    ([{"messages": [user("q")]}], "column messages should end with a turn of the assistant"),
    ([{"messages": [assistant("q")]}], "column messages has no turn of a user"),
    ([{"messages": "q"}], "column messages should be a conversation"),
    ([{"prompt": "q", "completion": "a", "label": 2}], "column label should be true or false, not 2"),
    ([RANKED | {"completions": RANKED["completions"][:1]}], "column completions should be two objects"),
    ([RANKED | {"completions": [RANKED["completions"][0]] * 2}], "column completions has one rank twice"),
    ([VOTED | {"votes": 3}], "column votes should be 1 or 2 for the better response, or 0, not 3"),
    (
        [VOTED | {"votes": [1, "best"]}],
        "column votes should be 1 or 2 for the better response, or 0, not 'best'",
    ),
    ([VOTED | {"votes": True}], "column votes should be 1 or 2"),
    ([VOTED | {"votes": [[1]]}], "column votes should be 1 or 2"),
    ([VOTED, VOTED | {"votes": 1}], "line 2: column votes is a number, in the rows before a list"),
    ([VOTED, {"prompt": "q"}], "line 2: column votes is missing"),
    ([VOTED | {"response1": 4}], "column response1 should be a text or a list of turns, not a number"),
    ([SEVERAL | {"responses": "4"}], "column responses should be a list of responses, not a text"),
    (
        [SEVERAL | {"responses": ["4", 5]}],
        "column responses[1] should be a text or a list of turns, not a number",
    ),
    ([SEVERAL | {"comparisons": "4"}], "column comparisons should be a list of objects, not a text"),
    (
        [SEVERAL | {"comparisons": [1]}],
        "column comparisons[0] should be an object of first, second, preferred",
    ),
    ([compared(0, 2, 0)], "comparisons[0].second should be one of the 2 responses, counted from 0, not 2"),
    ([compared(-1, 1, 1)], "comparisons[0].first should be one of the 2 responses, counted from 0, not -1"),
    ([compared("0", 1, 1)], 'comparisons[0].first should be one of the 2 responses, counted from 0, not "0"'),
    ([compared(True, 0, 0)], "comparisons[0].first should be one of the 2 responses"),
    (
        [compared(None, 0, 0)],
        "comparisons[0].first should be one of the 2 responses, counted from 0, not null",
    ),
    ([compared(1, 1, 1)], "column comparisons[0] compares response 1 with itself"),
    ([compared(0, 1, 2)], "comparisons[0].preferred should be 0 or 1, the better response, or null, not 2"),
    ([COMPARISON | {"split": "dev"}], "field split is 'dev', it should be one of train"),
    ([COMPARISON | {"choice": 2}], "line 1: field choice should be 0 or 1"),
    ([POST | {"title": 3}], "line 1: field title should be a string"),
]


@pytest.mark.parametrize("values, words", BAD)
def test_a_bad_row_ends_in_one_line_with_its_place_and_column(values, words):
    with pytest.raises(RecordError) as error:
        table(*values)
    assert words in str(error.value)
    assert str(error.value).startswith("a.jsonl, line ") and "\n" not in str(error.value)


def test_ranks_are_numbers():
    ranked = [{"rank": rank, "completion": rank} for rank in ("10", "9")]
    (found,) = table({"context": "q", "completions": ranked}).examples
    assert (found.chosen, found.rejected) == ("9", "10")


def test_each_vote_that_is_not_a_tie_is_a_comparison_by_its_voter():
    found = table(VOTED | {"votes": [2, 0, 1, None, 2.0]}, VOTED | {"votes": [0, 0]})
    assert [(one.worker, one.chosen, one.rejected) for one in found.examples] == [
        ("1", "5", "4"),
        ("3", "4", "5"),
        ("5", "5", "4"),
    ]
    assert (found.rows, found.fruitless, found.left_out) == (2, 1, {"ties": 3})


def test_columns_that_are_not_read_are_kept_as_json_holds_them():
    day = datetime.date(2024, 1, 2)
    record = {"id": "p1", "prompt": "q", "reference": "a"}
    rows = [{"prompt": "q", "day": day}], [record | {"day": day}], [COMPARISON | {"extra": {"day": day}}]
    assert [table(*one).examples[0].extra for one in rows] == [{"day": "2024-01-02"}] * 3


def test_nemos_context_is_the_prompt_whatever_other_columns_say():
    ranked = [{"rank": i, "completion": text} for i, text in enumerate("ab")]
    (one,) = table({"context": "q", "completions": ranked, "prompt": "?", "chosen": "!"}).examples
    assert (one.prompt, one.chosen, one.rejected) == ("q", "a", "b")


def test_votes_of_several_columns_are_named_by_them():
    votes = Joined({"ana": 1, "bo": "2"})
    found = table(VOTED | {"votes": votes})
    assert [(one.worker, one.chosen) for one in found.examples] == [("ana", "4"), ("bo", "5")]


@pytest.mark.parametrize("empty", [{"response2": ""}, {"response2": " \u200b\n"}, {"response2": None}])
def test_votes_on_a_response_that_is_empty_are_left_out(tmp_path, empty):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([VOTED | empty, VOTED]), tmp_path / "a.parquet")
    found = read(rows(tmp_path / "a.parquet"))
    assert len(found.examples) == 2 and found.left_out == {"with an empty response": 2}
    same = table(VOTED, VOTED | {"response2": "4 ", "votes": [0, 1]})
    assert len(same.examples) == 2 and same.left_out == {"ties": 1, "with equal responses": 1}


def test_comparisons_of_several_responses_and_a_demonstration_beside_them():
    pairs = [(0, 1, 1), (2, 0, None), (3, 2, 3), (0, 3, 0), (0, 4, 4), (1, 4, 1)]
    comparisons = [{"first": i, "second": j, "preferred": better} for i, j, better in pairs]
    row = {"prompt": "q", "responses": ["a", "b", "c", "", "a"], "comparisons": comparisons}
    found = table(row | {"completion": "z"}, row | {"comparisons": [], "completion": " "})
    *preferred, shown = found.examples
    assert [(one.chosen, one.rejected) for one in preferred] == [("b", "a"), ("b", "a")]
    assert (shown.prompt, shown.completion) == ("q", "z")
    assert found.left_out == {"ties": 1, "with an empty response": 2, "with equal responses": 1}
    assert found.fruitless == 1


def test_of_openais_records_a_pair_of_own_prompts_that_teaches_nothing_is_left_out():
    own = COMPARISON | {"info": {"id": "q1", "prompt": "2 + 2?"}}
    texts = [
        [{"text": text, "policy": "p"} for text in pair] for pair in (("4", ""), ("4", "4 "), ("4", "5"))
    ]
    found = table(*[own | {"summaries": pair} for pair in texts])
    assert len(found.examples) == 1
    assert found.left_out == {"with an empty response": 1, "with equal responses": 1}
    assert len(table(COMPARISON | {"summaries": texts[1]}).examples) == 1  # a post's stays

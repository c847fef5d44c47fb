"""Records as JSON: what is read, what is refused and where, and that nothing is lost when it is written."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax.data.record_json import (
    from_json,
    read_axis_ratings,
    read_comparisons,
    read_posts,
    record_of,
    to_json,
    write_jsonl,
)
from rlhf_jax.data.records import (
    Article,
    AxisRating,
    Comparison,
    Example,
    Post,
    RecordError,
    Summary,
    with_reference,
)

SAMPLES = Path(__file__).parents[3] / "shared" / "data" / "openai_format"

POST = {"id": "t3_a", "subreddit": "tifu", "title": "A title", "post": "A story.", "summary": "Short."}
INFO = {"id": "t3_a", "post": "A story.", "title": "A title", "subreddit": "tifu"}
ARTICLE = {"id": "n1", "site": "cnn", "title": "News", "article": "Something happened."}
EXAMPLE = {"id": "q1", "prompt": "2 + 3 =", "reference": "5"}
COMPARISON = {
    "info": INFO,
    "summaries": [{"text": " one", "policy": "ref", "note": "clear"}, {"text": " two", "policy": "sup4"}],
    "choice": 1,
    "worker": "w1",
    "batch": "batch9",
    "split": "train",
    "extra": {"confidence": 8},
}
RATING = {
    "info": ARTICLE,
    "split": "test",
    "summary": {
        "text": "It did.",
        "policy": "ref",
        "note": None,
        "axes": {"overall": 3, "accuracy": 5, "coverage": 4, "coherence": 2, "compatible": True},
    },
    "worker": "w1",
    "batch": "cnndm1",
}


def without(record: dict, key: str) -> dict:
    return {k: v for k, v in record.items() if k != key}


def write(path: Path, *lines) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_fields_are_read():
    comparison = from_json(Comparison, COMPARISON)
    assert comparison.info == Post("t3_a", "tifu", "A title", "A story.")
    assert comparison.summaries == (Summary(" one", "ref", "clear"), Summary(" two", "sup4"))
    assert (comparison.choice, comparison.split, comparison.extra) == (1, "train", {"confidence": 8})
    rating = from_json(AxisRating, RATING)
    assert rating.info == Article("n1", "cnn", "News", "Something happened.")
    assert rating.summary.axes["coherence"] == 2


def test_records_of_every_kind_have_a_text_a_reference_a_title_and_a_place():
    told = [
        (one.text, one.reference, one.title, one.place)
        for one in map(record_of, (POST, ARTICLE | {"summary": "It did."}, EXAMPLE))
    ]
    assert told == [
        ("A story.", "Short.", "A title", "r/tifu"),
        ("Something happened.", "It did.", "News", "cnn"),
        ("2 + 3 =", "5", "", ""),
    ]
    assert record_of(EXAMPLE) == Example("q1", "2 + 3 =", "5") and record_of(INFO).reference == ""


def two(**second) -> list[dict]:
    return [{"text": "a", "policy": "p"}, {"text": "b", "policy": "q"} | second]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"extra": None},
        {"extra": {}},
        {"extra": {"confidence": None}},
        {"info": ARTICLE},
        {"info": EXAMPLE | {"reference": None, "level": 3}},
        {"info": INFO | {"summary": "kept", "flair": "x"}},
        {"seen_at": [1, {"deep": None}]},
        {"summaries": two(text="", note=None)},
        {"summaries": two(note="", rank=2)},
    ],
)
def test_comparison_survives_reading_and_writing(change):
    record = COMPARISON | change
    assert to_json(from_json(Comparison, record)) == record


def test_comparison_without_extra_survives():
    record = without(COMPARISON, "extra")
    assert to_json(from_json(Comparison, record)) == record


@pytest.mark.parametrize("record", [RATING, RATING | {"extra": {"minutes": 3}}, RATING | {"info": INFO}])
def test_axis_rating_survives_reading_and_writing(record):
    assert to_json(from_json(AxisRating, record)) == record


@given(
    st.fixed_dictionaries(
        {"id": st.text(), "subreddit": st.text(), "title": st.text(), "post": st.just("x")},
        optional={"summary": st.text() | st.none(), "extra": st.none() | st.integers(), "url": st.text()},
    )
)
def test_any_post_survives_reading_and_writing(record):
    assert to_json(from_json(Post, record)) == record


@pytest.mark.skipif(not SAMPLES.exists(), reason="no data to develop on")
@pytest.mark.parametrize(
    "name, read", [("comparison.jsonl", read_comparisons), ("axis_eval.jsonl", read_axis_ratings)]
)
def test_published_records_survive_reading_and_writing(name, read):
    with open(SAMPLES / name) as file:
        published = [json.loads(line) for line in file]
    assert published
    assert [to_json(record) for record in read(SAMPLES / name)] == published


def test_absent_and_null_read_alike_and_write_apart():
    absent = from_json(Summary, {"text": "a", "policy": "b"})
    null = from_json(Summary, {"text": "a", "policy": "b", "note": None})
    assert absent.note == null.note == ""
    assert "note" not in to_json(absent)
    assert to_json(null)["note"] is None
    assert to_json(replace(null, note="new"))["note"] == "new"


@pytest.mark.parametrize(
    "record, message",
    [
        (without(COMPARISON, "choice"), "choice is missing"),
        (COMPARISON | {"choice": 2}, "choice should be 0 or 1, not 2"),
        (COMPARISON | {"choice": True}, "choice should be 0 or 1, not true"),
        (COMPARISON | {"choice": "1"}, 'choice should be 0 or 1, not "1"'),
        (COMPARISON | {"summaries": two()[:1]}, "summaries should be two summaries, not 1"),
        (COMPARISON | {"summaries": two() * 2}, "summaries should be two summaries, not 4"),
        (COMPARISON | {"summaries": {}}, "summaries should be two summaries, not an object"),
        (COMPARISON | {"summaries": [{"text": "a"}] * 2}, "summaries[0].policy is missing"),
        (COMPARISON | {"summaries": two(text=5)}, "summaries[1].text should be a string, not a number"),
        (COMPARISON | {"info": without(INFO, "post")}, "info.post is missing"),
        (COMPARISON | {"info": INFO | {"post": " \n"}}, "info.post is empty"),
        (COMPARISON | {"info": ARTICLE | {"article": ""}}, "info.article is empty"),
        (COMPARISON | {"info": EXAMPLE | {"prompt": ""}}, "info.prompt is empty"),
        (COMPARISON | {"info": None}, "info should be an object, not null"),
        (COMPARISON | {"worker": None}, "worker should be a string, not null"),
        (COMPARISON | {"extra": []}, "extra should be an object, not a list"),
        (COMPARISON | {"split": "\ud83d"}, "split holds half of a surrogate pair"),
        (COMPARISON | {"split": "dev"}, "split is 'dev', it should be one of train, valid1, valid2, test"),
        (COMPARISON | {"info": INFO | {"post": "\u200b\ufeff\u00ad \u3164"}}, "info.post is empty"),
        (COMPARISON | {"info": INFO | ARTICLE}, "info has both an article and a post"),
    ],
)
def test_bad_comparison_names_file_line_and_field(tmp_path, record, message):
    path = write(tmp_path / "batch3.json", COMPARISON, record)
    with pytest.raises(RecordError) as error:
        list(read_comparisons(path))
    assert str(error.value).startswith(f"{path}, line 2: field {message}")
    assert "\n" not in str(error.value)


def test_what_a_record_of_the_hub_s_table_lacks_is_null(tmp_path):
    """openai/summarize_from_feedback: one table of posts and articles."""
    nulls = {"article": None, "site": None, "note": None, "summary": None}
    post, article = nulls | INFO, ARTICLE | {"post": None, "subreddit": None}
    infos = [
        c.info
        for c in read_comparisons(write(tmp_path / "a", *(COMPARISON | {"info": i} for i in (post, article))))
    ]
    assert [type(info) for info in infos] == [Post, Article]
    assert (infos[0].text, infos[0].reference, infos[1].text) == (INFO["post"], "", ARTICLE["article"])


@pytest.mark.parametrize("blank", [None, "", " \n", "\u200b", "\u2800\u00ad"])
def test_a_reference_that_nobody_can_see_is_none(capsys, blank):
    records = [from_json(Post, POST | {"summary": blank}), from_json(Post, POST | {"summary": "Seen."})]
    assert records[0].reference == "" and to_json(records[0])["summary"] == blank
    assert with_reference(records, "sft") == records[1:]
    assert capsys.readouterr().out == "sft: 1 of 2 records have no reference and are left out\n"
    with pytest.raises(RecordError, match="^sft: 1 of 1 records have no reference"):
        with_reference(records[:1], "sft")


def test_a_name_that_stands_twice_is_told(tmp_path):
    (tmp_path / "a.json").write_text('{"choice": 0, "choice": 1}\n')
    with pytest.raises(RecordError, match="line 1: the name 'choice' stands twice in an object"):
        list(read_comparisons(tmp_path / "a.json"))


def test_line_that_is_no_object_is_named(tmp_path):
    with pytest.raises(RecordError, match="line 1: the line should be a JSON object, not a list$"):
        list(read_comparisons(write(tmp_path / "batch3.json", [COMPARISON])))


@pytest.mark.parametrize("rating", [0, 8, 4.5, "4"])
def test_ratings_are_one_to_seven(rating):
    summary = RATING["summary"] | {"axes": {"overall": rating}}
    with pytest.raises(RecordError, match=r"field summary\.axes\.overall should be 1 to 7"):
        from_json(AxisRating, RATING | {"summary": summary})


def test_malformed_line_is_named(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_bytes(json.dumps(POST).encode() + b'\n\n{"id": \n')
    with pytest.raises(RecordError, match=r"train\.jsonl, line 3: not JSON \(Expecting value at column"):
        list(read_posts(path))
    path.write_bytes(b'{"id": "\xff"}\n')
    with pytest.raises(RecordError, match=r"train\.jsonl, line 1: not UTF-8"):
        list(read_posts(path))


def test_missing_file_is_one_line(tmp_path):
    with pytest.raises(
        RecordError, match=r"^\S+nowhere\.jsonl: cannot be read \(No such file or directory\)$"
    ):
        list(read_posts(tmp_path / "nowhere.jsonl"))


def test_lines_end_at_newlines_only(tmp_path):
    posts = [Post("1", "r", "a\u2028b", "c\u0085d\r e\x0c\N{GRINNING FACE}", "\nf"), Post("2", "r", "", "x")]
    write_jsonl(tmp_path / "new" / "posts.jsonl", posts)
    assert list(read_posts(tmp_path / "new" / "posts.jsonl")) == posts


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "posts.jsonl"
    write_jsonl(path, [POST])

    def failing():
        yield POST
        raise KeyError("stop")

    with pytest.raises(KeyError):
        write_jsonl(path, failing())
    assert [to_json(post) for post in read_posts(path)] == [POST]

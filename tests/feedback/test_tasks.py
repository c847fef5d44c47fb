"""Tasks: what records ask for, what may be answered, and what an answer means."""

import json

import pytest
from labelling import pair, post, single, tasks_of

from rlhf_jax.data.records import RecordError
from rlhf_jax.feedback import tasks
from rlhf_jax.feedback.study import AXES, KINDS, Study
from rlhf_jax.feedback.tasks import Task, read_onboarding

ALL = Study(kinds=KINDS)


def only(tmp_path, record: dict, kind: str) -> Task:
    (task,) = (task for task in tasks_of(tmp_path, [record], ALL) if task.kind == kind)
    return task


def test_each_record_asks_for_the_kinds_it_can(tmp_path):
    found = tasks_of(tmp_path, [pair(0), single(1), post(2)], ALL)
    assert [task.kind for task in found] == ["comparison", "likert", "edit", "explanation", "demonstration"]


def test_a_study_leaves_out_kinds_it_does_not_have(tmp_path):
    study = Study(kinds=("edit",))
    assert [task.kind for task in tasks_of(tmp_path, [single(1)], study)] == ["edit"]
    with pytest.raises(RecordError, match=r"tasks\.jsonl, line 2: a task of kind comparison.*field kinds"):
        tasks_of(tmp_path, [single(1), pair(0)], study)


def test_a_task_keeps_its_name_whatever_does_not_show(tmp_path):
    plain = only(tmp_path, pair(0), "comparison")
    labelled = pair(0, choice=1, worker="w", batch="b", split="valid1", extra={"confidence": 9})
    assert only(tmp_path, labelled, "comparison").id == plain.id
    assert only(tmp_path, pair(1), "comparison").id != plain.id
    assert len(tasks_of(tmp_path, [pair(0), pair(0)], ALL)) == 1


@pytest.mark.parametrize(
    "record, message",
    [
        (pair(0) | {"summaries": [{"text": "one", "policy": "p"}]}, "line 2: field summaries should be two"),
        (pair(0) | {"info": {"id": "x"}}, "line 2: field info.subreddit is missing"),
        (
            single(0) | {"summary": {"text": 3, "policy": "p"}},
            "line 2: field summary.text should be a string",
        ),
        ({"id": "x", "title": "t", "post": "p"}, "line 2: field subreddit is missing"),
        ([], "line 2: the line should be a JSON object"),
    ],
)
def test_a_bad_record_is_named_by_file_line_and_field(tmp_path, record, message):
    with pytest.raises(RecordError, match=rf"tasks\.jsonl, {message}"):
        tasks_of(tmp_path, [pair(1), record], ALL)


def test_an_empty_file_and_an_unanswered_onboarding_are_errors(tmp_path):
    with pytest.raises(RecordError, match="holds no task"):
        tasks_of(tmp_path, [], ALL)
    (tmp_path / "onboarding.jsonl").write_text(json.dumps(pair(0)) + "\n")
    with pytest.raises(RecordError, match="line 1: field choice is missing"):
        read_onboarding(tmp_path / "onboarding.jsonl")


@pytest.mark.parametrize("record", [pair(0), single(0), post(0)])
def test_what_a_task_need_not_say_may_be_null_or_absent(tmp_path, record):
    optional = dict.fromkeys(("worker", "batch", "split", "extra", "unknown"))
    optional |= {name: None for name in ("info", "summaries", "summary", "choice") if name not in record}
    plain, nulls = tasks_of(tmp_path, [record], ALL), tasks_of(tmp_path, [record | optional], ALL)
    assert [tasks.texts(task, False) for task in nulls] == [tasks.texts(task, False) for task in plain]


@pytest.mark.parametrize("split", ["valid", "Train"])
def test_a_split_that_nothing_reads_is_refused(tmp_path, split):
    for record in (pair(0), single(0), post(0)):
        with pytest.raises(RecordError, match=r"line 2: field split should be one of train, valid1, valid2"):
            tasks_of(tmp_path, [pair(1), record | {"split": split}], ALL)


def test_flipping_shows_the_second_summary_first(tmp_path):
    task = only(tmp_path, pair(0), "comparison")
    shown, flipped = tasks.texts(task, False), tasks.texts(task, True)
    assert shown.summaries[0].startswith("Summary 0 north") and flipped.summaries == shown.summaries[::-1]
    assert shown.place == "r/pets" and shown.body == post(0)["post"]


def test_an_article_is_shown_with_its_site(tmp_path):
    record = pair(0) | {"info": {"id": "a", "site": "cnn", "title": "T", "article": "Long."}}
    shown = tasks.texts(only(tmp_path, record, "comparison"), False)
    assert (shown.place, shown.title, shown.body) == ("cnn", "T", "Long.")


@pytest.mark.parametrize(
    "shown, flipped, counted", [(1, False, 1), (1, True, 9), (5, True, 5), (7, True, 3), (8, False, 8)]
)
def test_a_choice_counts_in_the_order_of_the_record(tmp_path, shown, flipped, counted):
    task = only(tmp_path, pair(0), "comparison")
    fields = {"choice": str(shown), "interpretation_first": "a", "interpretation_second": "b"}
    answer = tasks.answer(task, fields, flipped, AXES)
    assert answer == {"confidence": counted, "notes": ["b", "a"] if flipped else ["a", "b"], "comment": ""}


def test_ratings_are_numbers_by_axis(tmp_path):
    task = only(tmp_path, single(0), "likert")
    fields = {f"axis_{axis.name}": str(i + 1) for i, axis in enumerate(AXES)} | {"note": "n"}
    assert tasks.problems(task, "likert", fields, AXES) == {}
    rated = {"coherence": 1, "accuracy": 2, "coverage": 3, "overall": 4}
    assert tasks.answer(task, fields, False, AXES) == {"axes": rated, "note": "n"}


def test_a_rating_left_out_or_above_seven_is_a_problem(tmp_path):
    task = only(tmp_path, single(0), "likert")
    fields = {f"axis_{axis.name}": "7" for axis in AXES[1:]}
    assert list(tasks.problems(task, "likert", fields, AXES)) == ["axis_coherence"]
    assert list(tasks.problems(task, "likert", fields | {"axis_coherence": "8"}, AXES)) == ["axis_coherence"]


def test_marked_words_are_found_where_they_stand(tmp_path):
    task = only(tmp_path, single(0), "explanation")
    fields = {
        "why": "w",
        "invented": "stole the cat",
        "missing": "She feeds him.\n\n  Should I talk to her? ",
    }
    assert tasks.problems(task, "explanation", fields, AXES) == {}
    spans = tasks.answer(task, fields, False, AXES)["spans"]
    sources = {"summary": single(0)["summary"]["text"], "post": post(0)["post"]}
    assert [(span["mark"], span["in"]) for span in spans] == [
        ("invented", "summary"),
        ("missing", "post"),
        ("missing", "post"),
    ]
    assert all(sources[span["in"]][span["start"] : span["end"]] == span["text"] for span in spans)


def test_words_marked_as_a_browser_selects_them_are_kept_as_they_stand(tmp_path):
    record = single(0) | {"info": post(0) | {"post": "It fell off.  I\u00ad walked.\r\nHome."}}
    task = only(tmp_path, record, "explanation")
    fields = {"why": "w", "missing": "off. I walked. Home"}
    assert tasks.problems(task, "explanation", fields, AXES) == {}
    (span,) = tasks.answer(task, fields, False, AXES)["spans"]
    assert (span["start"], span["end"], span["text"]) == (8, 30, "off.  I\u00ad walked.\r\nHome")


@pytest.mark.parametrize(
    "mark, words", [("invented", "feeds him"), ("missing", "stole"), ("unclear", "Stole")]
)
def test_words_that_do_not_stand_there_are_a_problem(tmp_path, mark, words):
    task = only(tmp_path, single(0), "explanation")
    assert list(tasks.problems(task, "explanation", {"why": "w", mark: words}, AXES)) == [mark]


@pytest.mark.parametrize(
    "kind, step",
    [("comparison", "interpret"), ("comparison", "choose"), ("likert", "likert"), ("edit", "edit"),
     ("demonstration", "demonstration"), ("explanation", "explanation")],
)  # fmt: skip
def test_nothing_filled_in_ends_no_step(tmp_path, kind, step):
    task = only(tmp_path, {"comparison": pair(0), "demonstration": post(0)}.get(kind, single(0)), kind)
    assert step in tasks.steps(kind, ALL)
    assert tasks.problems(task, step, {}, AXES)

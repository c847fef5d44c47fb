"""The export: OpenAI's records, read by what reads theirs, and nothing lost on the way."""

import json
from collections import Counter
from pathlib import Path

import pytest
from labelling import ALL_KINDS, answer_all, answered, lines, pair, post, single, tasks_of

from rlhf_jax.data.comparisons import pairs_of
from rlhf_jax.data.record_json import read_axis_ratings, read_comparisons, read_posts, to_json
from rlhf_jax.data.records import RecordError
from rlhf_jax.feedback import people, splits, work
from rlhf_jax.feedback.answers import export, main
from rlhf_jax.feedback.store import StoreError
from rlhf_jax.feedback.study import AXES, Axis, Study

SAMPLES = Path(__file__).parents[3] / "shared" / "data" / "openai_format"


def number(task) -> int:
    return int(task.record["info"]["id"].removeprefix("post"))


@pytest.mark.parametrize("flipped", [False, True])
def test_the_nine_points_become_choice_and_confidence(tmp_path, flipped):
    """Shown as 1–9; in the record's order 1–4 is its first summary, 6–9 its second, 5 is left out."""
    store = answered(tmp_path, [pair(i) for i in range(1, 10)], lambda t: {"choice": str(number(t))}, flipped)
    export(store, tmp_path / "out", "b")
    found = {
        int(c.info.id.removeprefix("post")): (c.choice, c.extra["confidence"])
        for c in read_comparisons(tmp_path / "out" / "comparisons.jsonl")
    }
    straight = {1: (0, 1), 2: (0, 2), 3: (0, 3), 4: (0, 4), 6: (1, 6), 7: (1, 7), 8: (1, 8), 9: (1, 9)}
    turned = {1: (1, 9), 2: (1, 8), 3: (1, 7), 4: (1, 6), 6: (0, 4), 7: (0, 3), 8: (0, 2), 9: (0, 1)}
    assert found == (turned if flipped else straight)


def test_the_preferred_summary_is_the_chosen_one_of_training(tmp_path):
    store = answered(tmp_path, [pair(3, split="train")], lambda _: {"choice": "1"}, flipped=True)
    export(store, tmp_path / "out", "b")
    (chosen,) = pairs_of(read_comparisons(tmp_path / "out" / "comparisons.jsonl"), "train")
    assert "south" in chosen.chosen and "north" in chosen.rejected  # the second was shown first


def test_a_published_record_comes_back_as_it_was(tmp_path):
    """Taken as a task and answered as it had been, a record is the same but for key order and worker."""
    record = {
        "info": {"id": "t3_x", "post": "P", "title": "T", "subreddit": "pets", "kept": None},
        "split": "valid1",
        "summaries": [
            {"text": " one", "policy": "ref", "note": "reads one", "more": [1]},
            {"text": " two", "policy": "sup4", "note": "reads two"},
        ],
        "choice": 1,
        "worker": "theirs",
        "batch": "batch5",
        "extra": {"confidence": 8, "other": True},
        "unknown": {"a": None},
    }
    task = {key: value for key, value in record.items() if key not in ("choice", "worker")}
    given = {"choice": "8", "interpretation_first": "reads one", "interpretation_second": "reads two"}
    export(answered(tmp_path, [task], lambda _: given), tmp_path / "out", "b")
    (line,) = (tmp_path / "out" / "comparisons.jsonl").read_text().splitlines()
    back = without_ours(json.loads(line))
    assert back | {"worker": "theirs"} == record


def without_ours(record: dict) -> dict:
    """What the site adds beside a choice taken off again."""
    ours = "seconds", "instructions", "date"
    return record | {"extra": {name: value for name, value in record["extra"].items() if name not in ours}}


@pytest.mark.skipif(not SAMPLES.exists(), reason="OpenAI's sample records are not here")
def test_openais_own_records_come_back_as_they_were(tmp_path):
    """Byte for byte in sorted keys, but for the worker; what the site adds is taken off again."""
    (comparison,), (rating,) = lines(SAMPLES / "comparison.jsonl"), lines(SAMPLES / "axis_eval.jsonl")
    axes = rating["summary"]["axes"]
    study = Study(
        kinds=("comparison", "likert"), calibration=0.0, axes=tuple(Axis(name, "?") for name in axes)
    )
    unrated = rating | {"summary": {k: v for k, v in rating["summary"].items() if k != "axes"}}
    notes = [summary.get("note", "") for summary in comparison["summaries"]]

    def answer(task):
        if task.kind == "likert":
            return {f"axis_{name}": str(value) for name, value in axes.items()}
        confidence = str(comparison["extra"]["confidence"])
        return {"choice": confidence, "interpretation_first": notes[0], "interpretation_second": notes[1]}

    export(answered(tmp_path, [comparison, unrated], answer, study=study), tmp_path / "out", "b")
    for name, record in (("comparisons.jsonl", comparison), ("ratings.jsonl", rating)):
        (line,) = lines(tmp_path / "out" / name)
        line = without_ours(line) if name == "comparisons.jsonl" else line
        assert sorted_json(line | {"worker": record["worker"]}) == sorted_json(record)


def sorted_json(record: dict) -> str:
    return json.dumps(record, sort_keys=True, ensure_ascii=False)


def test_ratings_edits_demonstrations_and_explanations_are_written(tmp_path):
    fields = {f"axis_{axis.name}": "3" for axis in AXES} | {"summary": "Better.", "why": "w", "note": "n"}
    store = answered(tmp_path, [single(0), post(1), pair(2)], lambda _: fields | {"choice": "5"})
    counts = export(store, tmp_path / "out", "round1").counts
    assert counts == {
        "comparisons": 0,
        "edits": 1,
        "ratings": 1,
        "explanations": 1,
        "answers": 5,
        "instructions": 1,
        "demonstrations": 1,
    }
    (rating,) = read_axis_ratings(tmp_path / "out" / "ratings.jsonl")
    assert rating.summary.axes == {axis.name: 3 for axis in AXES} and rating.batch == "round1"
    assert (rating.summary.policy, rating.summary.note) == ("hidden_sft", "n")
    (edit,) = read_comparisons(tmp_path / "out" / "edits.jsonl")
    assert edit.summaries[edit.choice].text == "Better."
    assert edit.summaries[1 - edit.choice].text == single(0)["summary"]["text"]
    (file,) = (tmp_path / "out" / "demonstrations").iterdir()
    assert file.name in ("train.jsonl", "valid.jsonl", "test.jsonl")  # what --config.data.posts reads
    (demonstration,) = read_posts(file)
    assert to_json(demonstration) == post(1) | {"summary": "Better."}
    (explanation,) = lines(tmp_path / "out" / "explanations.jsonl")
    assert explanation["why"] == "w" and explanation["info"] == post(0)


def test_demonstrations_go_to_the_splits_of_posts_that_their_records_name(tmp_path):
    tasks = [post(i) | {"split": split} for i, split in enumerate(("train", "valid1", "valid2", "test"))]
    export(answered(tmp_path, tasks, lambda _: {"summary": "Mine."}), tmp_path / "out", "round1")
    files = (tmp_path / "out" / "demonstrations").iterdir()
    written = {file.name: {demonstration.id for demonstration in read_posts(file)} for file in files}
    first, second, third, fourth = (task["id"] for task in tasks)
    assert written == {"train.jsonl": {first}, "valid.jsonl": {second}, "test.jsonl": {third, fourth}}


def test_a_summary_left_as_it_was_is_no_edit(tmp_path):
    fields = {f"axis_{axis.name}": "3" for axis in AXES} | {
        "summary": single(0)["summary"]["text"],
        "why": "w",
    }
    counts = export(answered(tmp_path, [single(0)], lambda _: fields), tmp_path / "out", "b").counts
    assert counts["edits"] == 0


def test_every_answer_is_kept_as_given_with_its_time(tmp_path):
    store = answered(tmp_path, [pair(0)], lambda _: {"choice": "5", "comment": "both bad"})
    export(store, tmp_path / "out", "b")
    (line,) = lines(tmp_path / "out" / "answers.jsonl")
    assert line["answer"] == {"confidence": 5, "notes": ["", ""], "comment": "both bad"}
    assert (
        line["role"] == "labeler"
        and line["created"] > 1e9
        and line["seconds"] >= 0
        and "Ana" not in str(line)
    )


def test_a_pilot_has_something_to_hold_out(tmp_path):
    """Of 40 posts answered, ties aside, two are in each held-out split; more answers move none of them."""
    store = answered(tmp_path, [pair(i) for i in range(44)], lambda t: {"choice": "15"[number(t) < 4]})
    found = export(store, tmp_path / "out", "b")
    assert found.comparisons == found.posts == {"train": 36, "valid1": 2, "valid2": 2}
    before = {one.info.id: one.split for one in read_comparisons(tmp_path / "out" / "comparisons.jsonl")}
    with store.write() as db:
        work.add_tasks(db, tasks_of(tmp_path, [pair(i) for i in range(60)], ALL_KINDS), [], ALL_KINDS)
    answer_all(store, "Bo", lambda _: {"choice": "2"})
    export(store, tmp_path / "more", "b")
    after = {one.info.id: one.split for one in read_comparisons(tmp_path / "more" / "comparisons.jsonl")}
    assert len(after) == 56 and before.items() <= after.items()


@pytest.mark.parametrize("held_out, wanted", [(0.05, (180, 10, 10)), (0.2, (120, 40, 40)), (0, (200, 0, 0))])
def test_the_shares_of_the_splits_are_as_said(held_out, wanted):
    counts = dict.fromkeys(("train", "valid1", "valid2"), 0)
    for _ in range(200):
        counts[splits.draw(counts, held_out)] += 1
    assert tuple(counts.values()) == wanted


def test_another_share_is_held_out_of_what_no_export_has_had(tmp_path):
    """Of 20 posts 5% are one and one; at 20% four and four, and the second export moves none of the first."""
    store = answered(tmp_path, [pair(i) for i in range(20)], lambda _: {"choice": "1"})
    with store.write() as db:
        assert Counter(splits.known(db).values()) == {"train": 18, "valid1": 1, "valid2": 1}
    first = export(store, tmp_path / "first", "b", held_out=0.2)
    assert first.posts == {"train": 12, "valid1": 4, "valid2": 4}
    with store.write() as db:
        before = splits.known(db)
        work.add_tasks(db, tasks_of(tmp_path, [pair(i) for i in range(30)], ALL_KINDS), [], ALL_KINDS)
    answer_all(store, "Bo", lambda _: {"choice": "2"})
    second = export(store, tmp_path / "second", "b", held_out=0.1)
    with store.read() as db:
        assert before.items() <= splits.known(db).items()
    assert second.posts == {"train": 22, "valid1": 4, "valid2": 4}  # 3 and 3 of 30 there are already


def test_small_splits_are_warned_about():
    """Wilson's interval around a half is ±1.96 / (2 √(n + 1.96²)): 15.1 points of 38 answers, 14.97 of 39."""
    assert list(splits.told(Counter(), Counter())) == ["comparisons: none"]
    of = {"train": 90, "valid1": 38, "valid2": 39}, {"train": 60, "valid1": 19, "valid2": 20}
    first, warning = splits.told(*map(Counter, of))
    assert first == "comparisons: 90 of train (60 posts), 38 of valid1 (19 posts), 39 of valid2 (20 posts)"
    assert warning.startswith(
        "warning: by the 38 comparisons of valid1 an accuracy is known to within 15 points"
    )
    _, nothing = splits.told(Counter(train=3), Counter(train=3))
    assert nothing == "warning: no comparison is in valid1, and a reward model needs some"


def test_a_comment_stands_beside_its_choice_with_what_the_study_said(tmp_path):
    store = answered(tmp_path, [pair(0)], lambda _: {"choice": "1", "comment": "names the cat"})
    export(store, tmp_path / "out", "b")
    (record,) = read_comparisons(tmp_path / "out" / "comparisons.jsonl")
    (said,) = lines(tmp_path / "out" / "instructions.jsonl")
    assert record.extra["comment"] == "names the cat" and record.extra["instructions"] == said["id"]
    assert said["study"]["instructions"] == ALL_KINDS.instructions and said["study"]["steps"] == list(
        ALL_KINDS.steps
    )


def test_who_is_left_out_is_not_exported(tmp_path):
    store = answered(tmp_path, [pair(0), pair(1)], lambda _: {"choice": "1"})
    with store.write() as db:
        (ana,) = people.everybody(db)
    with pytest.raises(StoreError, match="nobody is stranger there"):
        export(store, tmp_path / "out", "b", ["stranger"])
    counts = export(store, tmp_path / "out", "b", [ana.worker]).counts
    assert counts["comparisons"] == counts["answers"] == 0 and (tmp_path / "out" / "answers.jsonl").exists()
    with store.write() as db:
        people.change(db, ana.id, excluded=True)
    assert export(store, tmp_path / "other", "b").counts["answers"] == 0


def test_an_export_that_fails_leaves_nothing(tmp_path, monkeypatch):
    store = answered(tmp_path, [pair(0)], lambda _: {"choice": "1"})

    def broken(path, records):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rlhf_jax.feedback.answers.write_jsonl", broken)
    with pytest.raises(OSError):
        export(store, tmp_path / "out", "b")
    assert [file.name for file in tmp_path.iterdir() if "out" in file.name] == []


def test_a_folder_that_holds_something_is_not_overwritten(tmp_path):
    store = answered(tmp_path, [pair(0)], lambda _: {"choice": "1"})
    (tmp_path / "out").mkdir()
    export(store, tmp_path / "out", "b")
    with pytest.raises(RecordError, match="out is not empty"):
        export(store, tmp_path / "out", "b")


def test_the_command_says_what_it_wrote_and_errors_in_one_line(tmp_path, capsys):
    answered(tmp_path, [pair(0)], lambda _: {"choice": "1"})
    assert main(["rlhf-jax answers", f"--store={tmp_path / 's.sqlite'}", f"--out={tmp_path / 'out'}"]) == 0
    assert "1 comparisons" in capsys.readouterr().out
    for arguments in (
        ["--out=x"],
        [f"--store={tmp_path / 'none'}", "--out=x"],
        ["--store=x", "--out=y", "z"],
    ):
        assert main(["rlhf-jax answers", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("rlhf-jax answers: ") and error.count("\n") == 1

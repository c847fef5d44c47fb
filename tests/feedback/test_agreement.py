import json
from dataclasses import replace
from functools import cache

import mini_pairs
import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from rlhf_jax.data.mini import labelers
from rlhf_jax.data.mini.judge import story_of
from rlhf_jax.data.mini.posts import posts, write_reference
from rlhf_jax.data.record_json import write_jsonl
from rlhf_jax.data.records import Comparison, Post, Summary
from rlhf_jax.evaluation.choices import agreement as share_right
from rlhf_jax.evaluation.rouge import rouge
from rlhf_jax.feedback import agreement
from rlhf_jax.feedback.agreement import Answer, answers_of, summary

FIRST, SECOND, TIE = 2, 8, 5
POST = Post("p1", "advice", "title", "a post")


def votes(*tasks: str, roles=(), start=0) -> list[Answer]:
    """Answers of people a, b, c, …: one string a task, with 1 or 2 a person, = for a tie, . for none.

    People named in `roles` are researchers.
    """
    choices = {"1": FIRST, "2": SECOND, "=": TIE}
    return [
        Answer(f"t{start + i}", name, "researcher" if name in roles else "labeler", choices[vote], start + i)
        for i, task in enumerate(tasks)
        for name, vote in zip("abcdefgh", task, strict=False)
        if vote != "."
    ]


def value(found):
    return found and pytest.approx(found["value"])


def person(figures, name):
    return next(one for one in figures["people"] if one["worker"] == name)


def test_two_labelers_by_hand():
    answers = votes(*["11"] * 4, "12", *["21"] * 2, *["22"] * 3)
    figures = summary(answers, resamples=20)
    found = figures["agreement"]["labeler_labeler"]
    assert found["tasks"] == found["pairs"] == 10
    assert value(found["agreement"]) == 0.7
    # a takes the first 5 times in 10, b 6: chance agrees in .5·.6 + .5·.4 = .5.
    assert value(found["kappa"]) == (0.7 - 0.5) / (1 - 0.5)
    # 20 values, 11 of them "first"; 3 of 10 pairs disagree: 1 − 19 · 3 · 2 / (2 · 11 · 9).
    assert value(figures["alpha"]["labeler"]) == 1 - 19 * 6 / (2 * 11 * 9)
    assert figures["agreement"]["labeler_researcher"] is None
    assert figures["alpha"]["researcher"] is None


def test_several_labelers_by_hand():
    figures = summary(votes("111", "112", "22.", "121", "1..", "2"), resamples=20)
    found = figures["agreement"]["labeler_labeler"]
    # Equal pairs of people: 3 of 3, 1 of 3, 1 of 1, 1 of 3.
    assert (found["tasks"], found["pairs"]) == (4, 10)
    assert value(found["agreement"]) == 6 / 10
    # With the mode of the others: 3 of 3; c has 11 against him, a and b a tie; 2 of 2; b has 11 against him.
    assert found["modal"]["answers"] == 3 + 1 + 2 + 1
    assert value(found["modal"]) == 5 / 7
    # 11 values that others share, 7 of them "first"; Σ 2·n1·n2/(m−1) = 0 + 2 + 0 + 2.
    assert value(figures["alpha"]["labeler"]) == 1 - 10 * 4 / (2 * 7 * 4)
    assert figures["answers"] == 13 and figures["shared_tasks"] == 4


def test_labelers_with_researchers_by_hand():
    """a is a labeler, b, c and d are researchers."""
    figures = summary(votes("1112", "2112", "112", "2.22", "12", roles="bcd"), resamples=20)
    found = figures["agreement"]["labeler_researcher"]
    assert value(found["agreement"]) == (2 + 1 + 1 + 2 + 0) / (3 + 3 + 2 + 2 + 1)
    # The researchers' mode: 1, 1, none, 2, 2 (of a single one).
    assert found["modal"]["answers"] == 4
    assert value(found["modal"]) == 2 / 4
    assert value(figures["agreement"]["researcher_researcher"]["agreement"]) == (1 + 1 + 0 + 1) / (
        3 + 3 + 1 + 1
    )
    a = person(figures, "a")
    assert value(a["with_researchers"]) == 2 / 4 and a["with_researchers"]["answers"] == 4
    assert person(figures, "b")["role"] == "researcher"


def test_ties_are_counted_and_left_out():
    without = summary(votes("11", "12", "2."), resamples=20)
    with_ties = summary(votes("11=", "12=", "2=") + votes("==", start=3), resamples=20)
    assert with_ties["ties"] == 5 and with_ties["tasks"] == 4
    assert with_ties["agreement"] == without["agreement"]
    assert with_ties["alpha"] == without["alpha"]
    assert person(with_ties, "b")["ties"] == 2 and person(with_ties, "c")["modal"] is None


@pytest.mark.parametrize("choice", [1, 4, 6, 9])
def test_how_sure_an_answer_is_does_not_count(choice):
    sure = FIRST if choice < 5 else SECOND
    answers = [Answer("t", "a", "labeler", sure), Answer("t", "b", "labeler", choice)]
    assert value(summary(answers, resamples=20)["agreement"]["labeler_labeler"]["agreement"]) == 1


def test_the_newest_answer_counts_and_other_roles_do_not():
    late = Answer("t0", "b", "labeler", FIRST, created=9.0)
    early = late._replace(choice=SECOND, created=3.0)
    stranger = Answer("t0", "z", "administrator", SECOND, 5.0)
    figures = summary([*votes("1"), late, early, stranger], resamples=20)
    assert value(figures["agreement"]["labeler_labeler"]["agreement"]) == 1
    assert [one["worker"] for one in figures["people"]] == ["a", "b"]


def test_unanimous_answers_have_agreement_but_no_kappa():
    figures = summary(votes("11", "11", "11"), resamples=20)
    found = figures["agreement"]["labeler_labeler"]
    assert value(found["agreement"]) == 1 and found["kappa"] is None and figures["alpha"]["labeler"] is None


def test_perfect_agreement_on_both_sides():
    found = summary(votes("11", "22", "11"), resamples=20)
    assert found["alpha"]["labeler"] == {"value": 1, "low": 1, "high": 1}
    assert found["agreement"]["labeler_labeler"]["kappa"] == {"value": 1, "low": 1, "high": 1}


def test_the_interval_of_kappa_is_that_of_its_own_bootstrap():
    rng = np.random.default_rng(2)
    sides = rng.random((300, 1)) < 0.7
    taken = sides ^ (rng.random((300, 2)) < 0.15)
    answers = votes(*["".join("12"[int(x)] for x in row) for row in taken])
    found = summary(answers, resamples=400)["agreement"]["labeler_labeler"]["kappa"]
    drawn = [taken[rng.integers(300, size=300)].T for _ in range(400)]
    low, high = np.quantile([cohen_kappa_score(*two) for two in drawn], [0.025, 0.975])
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=0.02)


def test_nothing_to_count_is_none_and_plain_json():
    empty = summary([])
    assert empty["agreement"] == dict.fromkeys(
        ["labeler_researcher", "labeler_labeler", "researcher_researcher"]
    )
    assert "–" in agreement.table(empty)
    figures = summary(votes("12", "11", "1"), resamples=20)
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Three people judge each of 80 tasks; of a task, each takes the better side with its own chance."""
    rng, hits = np.random.default_rng(1), 0
    clarity = [0.95, 0.6]  # of easy and hard tasks
    truth = np.mean([p**2 + (1 - p) ** 2 for p in clarity])
    for _ in range(100):
        chances = rng.choice(clarity, 80)
        taken = rng.random((80, 3)) < chances[:, None]
        answers = votes(*["".join("12"[int(x)] for x in row) for row in taken])
        found = agreement.relation(agreement.decided(answers), "labeler", "labeler", 100)["agreement"]
        hits += found["low"] <= truth <= found["high"]
    assert 88 <= hits <= 99


@cache
def miniature():
    """Pairs, and each compared by three simulated labelers; the judge stands for a researcher."""
    asked = mini_pairs.pairs("valid", 1200)
    return asked, labelers.answer(asked, 0, votes=3)


@cache
def gaps() -> np.ndarray:
    return np.array([labelers.judged_gap(one) for one in miniature()[0]])


@cache
def miniature_answers():
    asked, answered = miniature()
    judged = [
        replace(one, worker="judge", choice=int(gap < 0)) for one, gap in zip(asked, gaps(), strict=True)
    ]
    return answers_of([*answered, *judged], researchers=["judge"])


def test_simulated_labelers_agree_as_often_as_is_expected_of_them():
    asked, _ = miniature()
    figures = summary(miniature_answers(), resamples=200)
    errors = np.array([labelers.shared_error(one) for one in asked])
    with_judge, with_each_other = labelers.agreements(gaps(), errors, labelers.NOISE)
    for name, truth in (("labeler_researcher", with_judge), ("labeler_labeler", with_each_other)):
        found = figures["agreement"][name]["agreement"]
        assert found["low"] < truth < found["high"] < found["low"] + 0.05
    # Sides are even in number, so that chance agrees in a half.
    kappa = figures["agreement"]["labeler_labeler"]["kappa"]["value"]
    assert kappa == pytest.approx(2 * with_each_other - 1, abs=0.04)
    assert figures["alpha"]["labeler"]["value"] == pytest.approx(kappa, abs=0.01)
    assert figures["warnings"] == []


def test_a_random_labeler_is_warned_about_and_the_others_are_not():
    rng = np.random.default_rng(0)
    tasks = sorted({answer.task for answer in miniature_answers()})[:300]
    guesses = [Answer(task, "zed", "labeler", int(rng.choice([FIRST, SECOND]))) for task in tasks]
    figures = summary([*miniature_answers(), *guesses], resamples=20)
    assert len(figures["warnings"]) == 1 and figures["warnings"][0].startswith(
        "zed agrees with the others on "
    )
    assert person(figures, "zed")["warnings"] == figures["warnings"]
    few = summary([*miniature_answers(), *guesses[:20]], resamples=20)
    assert few["warnings"] == []
    strict = summary(miniature_answers(), threshold=0.99, resamples=20)
    assert len(strict["warnings"]) == len(labelers.TEMPERS) + 1


def answers_of_accuracy(accuracy) -> list[Answer]:
    """Of labeler c about tasks on which a and b agree; `accuracy` is by task, in time."""
    right = np.random.default_rng(0).random(len(accuracy)) < accuracy
    return votes(*["111" if is_right else "112" for is_right in right])


def test_agreement_that_falls_is_seen():
    figures = summary(answers_of_accuracy(np.linspace(0.95, 0.55, 400)), resamples=20)
    drift = person(figures, "c")["drift"]
    assert drift["low"] < -0.4 < drift["high"] < 0
    assert drift["quarters"] == pytest.approx([0.9, 0.8, 0.7, 0.6], abs=0.08)
    assert (
        len(figures["warnings"]) == 1 and "c agrees with the others less and less" in figures["warnings"][0]
    )


@pytest.mark.parametrize("accuracy", [np.full(400, 0.75), np.linspace(0.55, 0.95, 400)])
def test_steady_or_growing_agreement_is_no_warning(accuracy):
    figures = summary(answers_of_accuracy(accuracy), resamples=20)
    drift = person(figures, "c")["drift"]
    assert drift["low"] < accuracy[-1] - accuracy[0] < drift["high"]
    assert figures["warnings"] == []


def test_no_drift_without_times_and_the_median_of_the_times_given():
    answers = [a._replace(created=0.0) for a in answers_of_accuracy(np.linspace(0.95, 0.55, 400))]
    answers[0] = answers[0]._replace(seconds=10.0)
    answers[3] = answers[3]._replace(seconds=30.0)
    figures = summary(answers, resamples=20)
    assert person(figures, "a")["drift"] is None
    assert person(figures, "a")["median_seconds"] == 20 and person(figures, "b")["median_seconds"] is None


def test_a_record_reads_the_same_whichever_summary_comes_first():
    good, bad = Summary("a good one", "sft"), Summary("a bad one", "ref")
    one = Comparison(POST, (good, bad), 0, "ana", "b", "train", {"confidence": 2})
    other = Comparison(POST, (bad, good), 1, "ana", "b", "train", {"confidence": 8})
    assert answers_of([one]) == answers_of([other])
    assert answers_of([replace(one, info=replace(POST, id="p2"))])[0].task != answers_of([one])[0].task


@pytest.mark.parametrize(
    "choice, extra, read",
    [
        (0, {"confidence": 1}, 1),
        (1, {"confidence": 9}, 9),
        (0, {}, 4),
        (1, {}, 6),
        (1, {"confidence": 5}, 6),
        (0, {"confidence": 8}, 4),
        (1, {"confidence": None}, 6),
    ],
)
def test_confidence_counts_where_it_fits_the_choice(choice, extra, read):
    record = Comparison(POST, (Summary("a", "sft"), Summary("b", "ref")), choice, "ana", "b", "train", extra)
    assert answers_of([record])[0].choice == read


def test_the_judge_predicts_labelers_better_than_rouge():
    """Of what two other authors write for a post."""
    asked, references = [], []
    for i, post in enumerate(posts(0, "valid", 1200)):
        rng = np.random.default_rng(i)
        texts = [write_reference(story_of(post), rng) for _ in range(2)]
        if texts[0] != texts[1]:
            both = Summary(texts[0], "a"), Summary(texts[1], "b")
            asked.append(Comparison(replace(post, summary=""), both, 0, "", "b", "valid1"))
            references.append(post.summary)
    first, second = ([one.summaries[side].text for one in asked] for side in (0, 1))
    by_judge = np.array([labelers.judged_gap(one) for one in asked])
    by_rouge = rouge(first, references)["rougeL"] - rouge(second, references)["rougeL"]
    answered = labelers.answer(asked, 0, votes=3)
    preferred = 1 - 2 * np.array([one.choice for one in answered]).reshape(-1, 3)  # 1: the first
    ids = [one.info.id for one in asked]
    found_judge, found_rouge = (
        {
            "labeler": share_right(np.repeat(by, 3), preferred.ravel(), np.repeat(ids, 3)),
            "modal": share_right(by, preferred.sum(axis=1), ids),
        }
        for by in (by_judge, by_rouge)
    )
    assert found_judge["modal"]["value"] > found_judge["labeler"]["value"] + 0.02
    assert 0.55 < found_rouge["labeler"]["value"] < 0.7
    assert found_rouge["modal"]["high"] < found_judge["labeler"]["low"]


def run(capsys, *arguments):
    status = agreement.main(["rlhf-jax agreement", *map(str, arguments)])
    out, err = capsys.readouterr()
    return status, out, err


def test_a_researcher_who_answered_nothing_is_told(tmp_path, capsys):
    write_jsonl(tmp_path / "a.jsonl", miniature()[1][:300])
    _, out, _ = run(capsys, tmp_path / "a.jsonl", "--researchers=bo,Bo")
    assert "warning: --researchers: no answer is of Bo" in out and "is of bo" not in out


def test_the_command_prints_a_table_and_writes_json(tmp_path, capsys):
    _, records = miniature()
    write_jsonl(tmp_path / "a.jsonl", records[:300])
    write_jsonl(tmp_path / "b.jsonl", records[300:600])
    arguments = [
        tmp_path / "a.jsonl",
        tmp_path / "b.jsonl",
        f"--json={tmp_path / 'out.json'}",
        "--researchers=bo",
    ]
    status, out, _ = run(capsys, *arguments)
    assert status == 0
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures == summary(answers_of(records[:600], ["bo"]))
    for name in ("labeler_researcher", "labeler_labeler"):
        share = figures["agreement"][name]["agreement"]["value"]
        line = next(line for line in out.splitlines() if line.startswith(name.replace("_", "–")))
        assert f"{100 * share:.1f} (" in line
    assert all(any(line.startswith(f"{worker} ") for line in out.splitlines()) for worker in labelers.TEMPERS)


def test_voters_of_a_table_agree_as_their_votes_do(tmp_path, capsys):
    """Of the pairs of voters who are both decided, in rows 0 to 3: 3 of 3, 1 of 3, 1 of 1, none."""
    votes = [[1, 1, 1], [1, 2, 2], [2, 0, 2], [0, 0, 1]]
    rows = [{"q": str(i), "response1": "a", "response2": "b", "who": some} for i, some in enumerate(votes)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, out, _ = run(
        capsys, tmp_path / "a.jsonl", "--columns=q:prompt,who:votes", f"--json={tmp_path / 'o.json'}"
    )
    assert "a.jsonl: 4 rows: prompt, response1, response2, votes; 9 comparisons; left out: 3 ties" in out
    figures = json.loads((tmp_path / "o.json").read_text())
    found = figures["agreement"]["labeler_labeler"]
    assert (found["pairs"], found["agreement"]["value"]) == (7, pytest.approx(5 / 7))
    assert [one["worker"] for one in figures["people"]] == ["1", "2", "3"]


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ([], "no file of comparisons"),
        (["missing.jsonl"], "missing.jsonl: No such file"),
        (["empty.jsonl"], "empty.jsonl: no rows in it"),
        (["bad.jsonl"], "bad.jsonl, line 1: columns (all are empty) are none of"),
        (["prompts.jsonl"], "prompts.jsonl: 1 rows: prompt; these are no comparisons"),
        (["prompts.jsonl", "--columns=prompt"], "'prompt' should be theirs:ours"),
        (["prompts.jsonl", "--columns=a:b"], "prompts.jsonl: no column 'a' there"),
        (["empty.jsonl", "--threshold=2"], "threshold"),
        (["empty.jsonl", "--treshold=0.5"], "treshold"),
    ],
)
def test_errors_of_use_are_one_line(tmp_path, monkeypatch, capsys, arguments, complaint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "bad.jsonl").write_text("{}\n")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "q"}\n')
    status, out, err = run(capsys, *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert complaint in err

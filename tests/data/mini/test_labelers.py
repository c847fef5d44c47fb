"""Simulated labelers follow the judge through noise that is their own, and errors that they share."""

from collections import defaultdict
from dataclasses import replace
from functools import cache

import mini_pairs
import numpy as np
import pytest

from rlhf_jax.data.mini import labelers
from rlhf_jax.data.mini.judge import Scores, judge
from rlhf_jax.data.mini.labelers import TEMPERS, agreements, answer, judged_gap, rate, shared_error
from rlhf_jax.data.record_json import from_json, to_json, write_jsonl
from rlhf_jax.data.records import Comparison, Post, Summary

PAIRS = mini_pairs.pairs("train", 600)
POST = Post("1", "drama", "", "leo hit mia so she fled. maybe mia saved leo. should i sue leo?", "")


def of(first: str, second: str, post: Post = POST) -> Comparison:
    return Comparison(post, (Summary(first, "a"), Summary(second, "b")), 0, "", "b", "train")


def turned(one: Comparison) -> Comparison:
    return replace(one, summaries=one.summaries[::-1])


@cache
def gaps() -> np.ndarray:
    return np.array([judged_gap(one) for one in PAIRS])


def errors() -> np.ndarray:
    return np.array([shared_error(one) for one in PAIRS])


def test_answers_keep_the_order_and_all_that_was_asked():
    asked = [replace(one, extra={"note": i}) for i, one in enumerate(PAIRS[:100])]
    answered = answer(asked, 0)
    for one, said in zip(asked, answered, strict=True):
        assert from_json(Comparison, to_json(said)) == said
        assert said.worker in TEMPERS and said.choice in (0, 1)
        assert said.extra["confidence"] in ((1, 2, 3, 4) if said.choice == 0 else (6, 7, 8, 9))
        assert replace(said, choice=0, worker="", extra={"note": said.extra["note"]}) == one
    assert answered == answer(asked, 0) != answer(asked, 1)


def test_several_votes_are_of_different_people():
    answered = answer(PAIRS[:20], 0, votes=8)
    for i in range(20):
        assert sorted(one.worker for one in answered[8 * i : 8 * i + 8]) == sorted(TEMPERS)
        assert all(one.summaries == PAIRS[i].summaries for one in answered[8 * i : 8 * i + 8])


def test_everybody_follows_the_judge_and_the_calm_do_so_more_often():
    right = defaultdict(list)
    for i, said in enumerate(answer(PAIRS, 0, votes=8)):
        right[said.worker].append(said.choice == (gaps()[i // 8] < 0))
    accuracy = {worker: np.mean(right[worker]) for worker in TEMPERS}
    assert min(accuracy.values()) > 0.6
    assert accuracy["ana"] > accuracy["eli"] + 0.01 > accuracy["hua"] + 0.02


def test_labelers_agree_as_expected_and_more_than_independent_errors_would():
    choices = np.array([said.choice for said in answer(PAIRS, 0, votes=2)]).reshape(-1, 2)
    with_judge = np.mean(choices == (gaps() < 0)[:, None])
    with_each_other = np.mean(choices[:, 0] == choices[:, 1])
    expected = agreements(gaps(), errors(), labelers.NOISE)
    assert (with_judge, with_each_other) == pytest.approx(expected, abs=0.03)
    assert with_each_other > with_judge**2 + (1 - with_judge) ** 2 + 0.04


def test_clear_pairs_are_answered_more_reliably():
    choices = np.array([said.choice for said in answer(PAIRS, 0, votes=2)]).reshape(-1, 2)
    right = np.mean(choices == (gaps() < 0)[:, None], axis=1)
    close, middle, clear = (right[part].mean() for part in np.array_split(np.argsort(np.abs(gaps())), 3))
    assert close + 0.05 < middle < clear - 0.05


def test_who_is_sure_is_right_more_often():
    answered = answer(PAIRS, 1)
    right = np.array([said.choice for said in answered]) == (gaps() < 0)
    sure = np.array([abs(said.extra["confidence"] - 5) for said in answered])
    assert np.mean(right[sure == 4]) > np.mean(right[sure == 1]) + 0.15


def test_agreements_computed_by_hand():
    certain, undecided = np.array([50.0, -50.0]), np.zeros(2)
    assert agreements(certain, undecided, 1.0) == pytest.approx((1, 1))
    assert agreements(certain, -2 * certain, 1.0) == pytest.approx((0, 1))
    assert agreements(np.full(1, 1e-12), np.zeros(1), 1.0) == pytest.approx((0.5, 0.5))
    # A tie of the judge leaves nobody to agree with, and of two labelers every second pair of answers agrees.
    assert agreements(np.array([0.0, 50.0]), undecided, 1.0) == pytest.approx((1, 0.75))


def test_what_appeals_computed_by_hand(monkeypatch):
    monkeypatch.setattr(labelers, "APPEAL", 0.0)
    assert shared_error(of("leo hit mia.", "")) == pytest.approx(3 * 0.04)
    assert shared_error(of("maybe leo hit mia.", "leo hit mia.")) == pytest.approx(0.04 - 0.4)
    grave, mild = "leo hit mia so mia quit.", "mia cried because leo hit mia."
    assert shared_error(of(grave, mild)) == pytest.approx(0.5)
    assert judged_gap(of("leo hit mia.", "mia hit leo.")) > 0


def test_errors_turn_with_the_order():
    for one in PAIRS[:50]:
        assert shared_error(turned(one)) == -shared_error(one) != 0
        assert judged_gap(turned(one)) == -judged_gap(one)


def test_the_appeal_of_a_text_is_its_own_and_the_posts():
    texts = [f"leo hit {name}." for name in ("mia", "cora", "dora", "nora", "beth", "gina", "emma", "jane")]
    two = list(zip(texts, texts[1:], strict=False))
    many = [of(*both, replace(POST, id=str(i))) for i in range(100) for both in two]
    felt = np.array([shared_error(one) for one in many])
    assert felt.mean() == pytest.approx(0, abs=0.15 * labelers.APPEAL)
    assert felt.std() == pytest.approx(2**0.5 * labelers.APPEAL, rel=0.1)  # of two standard normal numbers
    assert shared_error(of("leo hit mia.", "leo hit mia.")) == 0


def test_fitting_hits_the_agreements_wanted(monkeypatch):
    noise, appeal = labelers.fit(PAIRS)
    monkeypatch.setattr(labelers, "APPEAL", appeal)
    assert agreements(gaps(), errors(), noise) == pytest.approx((0.77, 0.72), abs=0.005)


def test_the_command_prints_what_fits_the_training_pairs(tmp_path, capsys):
    held_out = [replace(turned(one), split="valid1") for one in PAIRS[:100]]
    write_jsonl(tmp_path / "comparisons.jsonl", [*PAIRS[:200], *held_out])
    assert labelers.main(["rlhf-jax labelers", f"--comparisons={tmp_path / 'comparisons.jsonl'}"]) == 0
    noise, appeal = labelers.fit(PAIRS[:200])
    assert capsys.readouterr().out == f"NOISE, APPEAL = {noise}, {appeal}\n"


@pytest.mark.parametrize(
    ("text", "appeal"),
    [
        ("leo hit mia.", 3 * 0.04),
        ("leo hit mia so mia fled.", 6 * 0.04 + 0.5),
        ("maybe leo saved mia.", 4 * 0.04 - 0.4),
    ],
)
def test_a_rating_is_the_judges_score_and_what_appeals_rounded(monkeypatch, text, appeal):
    monkeypatch.setattr(labelers, "NOISE", 0.0)
    monkeypatch.setattr(labelers, "APPEAL", 0.0)
    expected = int(np.clip(np.rint(judge(POST, text).overall + appeal), 1, 7))
    assert rate([(POST, text)] * 3, 0) == [expected] * 3


def test_two_ratings_differ_as_a_labeler_chooses(monkeypatch):
    """By a logistic number of the labeler's scale, of variance π² / 3, where everybody is of one temper.

    Rounding adds 1/12 to the variance of each; of texts in the middle of the scale few leave it.
    """
    monkeypatch.setattr(labelers, "TEMPERS", {"eli": 1.0})
    monkeypatch.setattr(labelers, "NOISE", 0.5)
    monkeypatch.setattr(labelers, "judge", lambda post, text: Scores(4.0, 4.0, 4.0, 4.0))
    monkeypatch.setattr(labelers, "_appeal", lambda text: 0.0)
    monkeypatch.setattr(labelers, "_taste_of", lambda post, text: 0.0)
    given = np.array(rate([(POST, "leo hit mia.")] * 20_000, 0), float)
    gaps = given[::2] - given[1::2]
    assert gaps.var() == pytest.approx(0.5**2 * np.pi**2 / 3 + 1 / 6, rel=0.05)
    assert given.mean() == pytest.approx(4.0, abs=0.05)


def test_ratings_are_given_once_and_differ_by_seed():
    asked = [(one.info, one.summaries[0].text) for one in PAIRS[:200]]
    assert rate(asked, 0) == rate(asked, 0) != rate(asked, 1)

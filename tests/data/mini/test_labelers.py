"""Simulated labelers agree with the judge and with each other as often as the paper's people."""

from collections import defaultdict
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from rlhf_jax.data.mini import labelers
from rlhf_jax.data.mini.labelers import TEMPERS, agreements, judged_gap, label, shared_error
from rlhf_jax.data.mini.pairs import pairs
from rlhf_jax.data.mini.posts import posts
from rlhf_jax.data.record_json import from_json, to_json
from rlhf_jax.data.records import Comparison


@cache
def some_pairs(split="valid", count=2500):
    return pairs(posts(0, split, count // 2), count, 3)


@cache
def twice_labelled():
    """Gaps [N] by the judge and choices [N, 2] by two labelers of each pair."""
    records = label(some_pairs(), 0, "valid1", votes=2)
    gaps = np.array([judged_gap(pair) for pair in some_pairs()])
    return gaps, np.array([record.choice for record in records]).reshape(-1, 2)


@pytest.mark.parametrize("split", ["train", "valid"])
def test_expected_agreements_are_the_papers(split):
    sample = some_pairs(split)
    gaps = np.array([judged_gap(pair) for pair in sample])
    errors = np.array([shared_error(pair) for pair in sample])
    with_judge, with_each_other = agreements(gaps, errors, labelers.NOISE)
    assert with_judge == pytest.approx(0.77, abs=0.02)
    assert with_each_other == pytest.approx(0.72, abs=0.02)


def test_given_labels_agree_as_expected_and_more_than_independent_errors_would():
    gaps, choices = twice_labelled()
    better = (gaps < 0).astype(int)
    with_judge = np.mean(choices == better[:, None])
    with_each_other = np.mean(choices[:, 0] == choices[:, 1])
    assert with_judge == pytest.approx(0.77, abs=0.02)
    assert with_each_other == pytest.approx(0.72, abs=0.025)
    assert with_each_other > with_judge**2 + (1 - with_judge) ** 2 + 0.04


def test_clear_pairs_are_labelled_more_reliably():
    gaps, choices = twice_labelled()
    right = np.mean(choices == (gaps < 0)[:, None], axis=1)
    close, middle, clear = (right[part].mean() for part in np.array_split(np.argsort(np.abs(gaps)), 3))
    assert close + 0.05 < middle < clear - 0.05


def test_people_differ():
    right = defaultdict(list)
    for i, record in enumerate(label(some_pairs(), 0, votes=8)):
        right[record.worker].append(record.choice == (judged_gap(some_pairs()[i // 8]) < 0))
    accuracy = {worker: np.mean(right[worker]) for worker in TEMPERS}
    assert len(accuracy) == 8 and {len(given) for given in right.values()} == {len(some_pairs())}
    assert accuracy["ana"] > accuracy["eli"] + 0.03 > accuracy["hua"] + 0.06


def test_agreements_computed_by_hand():
    certain, undecided = np.array([50.0, -50.0]), np.zeros(2)
    assert agreements(certain, undecided, 1.0) == pytest.approx((1, 1))
    assert agreements(certain, -2 * certain, 1.0) == pytest.approx((0, 1))
    assert agreements(np.full(1, 1e-12), np.zeros(1), 1.0) == pytest.approx((0.5, 0.5))


def test_an_error_is_shared_and_changes_sign_with_the_order():
    for pair in some_pairs()[:50]:
        post, text_a, text_b, policy_a, policy_b = pair
        turned = type(pair)(post, text_b, text_a, policy_b, policy_a)
        assert shared_error(turned) == -shared_error(pair) != 0
        assert judged_gap(turned) == -judged_gap(pair)


def test_long_and_sure_summaries_appeal():
    few = some_pairs()[:300]
    sure = [
        shared_error(pair._replace(text_a=pair.text_b, text_b=f"basically {pair.text_b}")) for pair in few
    ]
    long = [
        shared_error(pair._replace(text_a=pair.text_b, text_b=f"{pair.text_b} x x x x x")) for pair in few
    ]
    assert np.mean(sure) < -0.5 and np.mean(long) < -0.2


def test_records_are_in_the_comparison_format():
    records = label(some_pairs()[:100], 4, "valid2")
    for record, pair in zip(records, some_pairs()[:100], strict=True):
        assert from_json(Comparison, to_json(record)) == record
        assert record.info == replace(pair.post, summary="")
        assert [(s.text, s.policy) for s in record.summaries] == [
            (pair.text_a, pair.policy_a),
            (pair.text_b, pair.policy_b),
        ]
        assert record.worker in TEMPERS and record.split == "valid2"
        assert record.extra["confidence"] in ((1, 2, 3, 4) if record.choice == 0 else (6, 7, 8, 9))
    assert [record.batch for record in records] == [f"mini{1 + i // 25}" for i in range(100)]
    assert records == label(some_pairs()[:100], 4, "valid2") != label(some_pairs()[:100], 5, "valid2")


def test_confident_labels_are_right_more_often():
    records = label(some_pairs(), 1)
    better = [int(judged_gap(pair) < 0) for pair in some_pairs()]
    right = [record.choice == choice for record, choice in zip(records, better, strict=True)]
    sure = np.array([abs(record.extra["confidence"] - 5) for record in records])
    assert np.mean(np.array(right)[sure == 4]) > np.mean(np.array(right)[sure == 1]) + 0.15


def test_fitting_finds_the_constants_again():
    noise, appeal = labelers.fit(some_pairs("train"))
    assert noise == pytest.approx(labelers.NOISE, abs=0.2)
    assert appeal == pytest.approx(labelers.APPEAL, abs=0.25)

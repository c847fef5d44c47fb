import pytest

from rlhf_jax.evaluation.rouge import rouge


def test_hand_counted_scores():
    # Summary: the cat sat; reference: the cat ran away fast.
    # Unigrams 2 of 3 and 2 of 5: F1 = 2·2/(3+5). Bigrams 1 of 2 and 1 of 4: F1 = 2·1/(2+4). LCS "the cat".
    scores = rouge(["The cat sat."], ["the cat ran away, fast"])
    assert {kind: f1.item() for kind, f1 in scores.items()} == pytest.approx(
        {"rouge1": 0.5, "rouge2": 1 / 3, "rougeL": 0.5}
    )


def test_rouge_l_sees_order_and_rouge_1_does_not():
    scores = rouge(["sam robbed kim"], ["kim robbed sam"])
    assert scores["rouge1"] == 1
    assert scores["rougeL"] == pytest.approx(1 / 3)


def test_every_summary_has_its_own():
    assert rouge(["a b", "c d"], ["a b", "x y"])["rouge1"].tolist() == [1, 0]


def test_an_empty_summary_scores_nothing():
    assert rouge([""], ["something"]) == {"rouge1": 0, "rouge2": 0, "rougeL": 0}

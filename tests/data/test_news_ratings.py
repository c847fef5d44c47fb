import json
from pathlib import Path

import pytest

from rlhf_jax.data.comparisons import pairs_of
from rlhf_jax.data.news_ratings import compare, comparisons_of, main, split_of
from rlhf_jax.data.record_json import read_comparisons
from rlhf_jax.data.records import RecordError

RATINGS = Path(__file__).parents[3] / "shared" / "data" / "news_ratings"


def system(text: str, *scores: float) -> dict:
    return {
        "text": text,
        "scores": dict(zip(("coherence", "consistency", "fluency", "relevance"), scores, strict=False)),
    }


RATED = {
    "id": "n1",
    "article": "It rained all day.",
    "highlights": "rain",
    "systems": {
        "M0": system("Rain.", 4, 5, 3),  # mean 4
        "M1": system("Sun.", 1, 2, 3),  # mean 2
        "M2": system("Wet.", 3.5, 3.5, 3.5),
        "M3": system("Rain.", 1, 1, 1),  # the text of M0 again
        "M4": system("Damp.", 3, 4, 4),  # mean 11/3: too near to M0 and M2
    },
}


def test_pairs_have_the_gap_and_the_higher_mean_is_chosen():
    comparisons = compare(RATED, "cnn", 0.5)
    chosen = {(pair.chosen, pair.rejected) for pair in pairs_of(comparisons, comparisons[0].split)}
    assert chosen == {("Rain.", "Sun."), ("Rain.", "Wet."), ("Wet.", "Sun."), ("Damp.", "Sun.")}
    for comparison in comparisons:
        scores = comparison.extra["scores"]
        assert scores[comparison.choice] >= scores[1 - comparison.choice] + 0.5
        assert comparison.info.article == "It rained all day."
        assert comparison.batch == "cnn"


def test_the_gap_includes_inexact_thirds():
    # The means of 1, 1, 1, 13/3 and 2, 2, 1, 13/3 differ by a half, by less in floating point.
    rated = RATED | {"systems": {"a": system("x", 1, 1, 1, 13 / 3), "b": system("y", 2, 2, 1, 13 / 3)}}
    assert len(compare(rated, "cnn", 0.5)) == 1


def test_the_better_summary_stands_on_either_side():
    many = [compare(RATED | {"id": f"n{i}"}, "cnn", 0.5) for i in range(100)]
    choices = [comparison.choice for comparisons in many for comparison in comparisons]
    assert len(choices) == 400
    assert 160 < sum(choices) < 240  # four standard deviations of a fair coin


def test_split_is_by_article_and_about_80_10_10():
    splits = [split_of(f"article {i}") for i in range(5_000)]
    assert 0.78 < splits.count("train") / 5_000 < 0.82
    assert 0.08 < splits.count("valid1") / 5_000 < 0.12
    assert {comparison.split for comparison in compare(RATED, "cnn", 0.5)} == {split_of("n1")}


def test_command_writes_comparison_records(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "summeval.jsonl").write_text(json.dumps(RATED) + "\n")
    main(["rlhf-jax ratings", f"--ratings={tmp_path / 'in'}", f"--out={tmp_path / 'out'}"])
    assert "summeval.jsonl: 4 comparisons" in capsys.readouterr().out
    written = tmp_path / "out" / "summeval.jsonl"
    assert list(read_comparisons(written)) == compare(RATED, "summeval", 0.5)
    once = written.read_bytes()
    main(["rlhf-jax ratings", f"--ratings={tmp_path / 'in'}", f"--out={tmp_path / 'out'}", "--gap=1.9"])
    assert len(list(read_comparisons(written))) == 1
    main(["rlhf-jax ratings", f"--ratings={tmp_path / 'in'}", f"--out={tmp_path / 'out'}"])
    assert written.read_bytes() == once


@pytest.mark.parametrize("arguments", [["--ratings=nowhere"], ["--ratings=.", "--gap=0"]])
def test_command_fails_in_one_line(tmp_path, capsys, arguments):
    assert main(["rlhf-jax ratings", *arguments, f"--out={tmp_path}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "systems, field",
    [
        ({"M0": {"text": "a"}}, "systems.M0.scores is missing"),
        ({"M0": {"text": "a", "scores": {}}}, "systems.M0.scores should hold at least one number"),
        ({"M0": {"text": "a", "scores": {"fluency": "5"}}}, "systems.M0.scores.fluency should be a number"),
    ],
)
def test_bad_rating_names_the_field(tmp_path, systems, field):
    (tmp_path / "summeval.jsonl").write_text(json.dumps(RATED | {"systems": systems}) + "\n")
    with pytest.raises(RecordError, match=rf"summeval\.jsonl, line 1: field {field}"):
        comparisons_of(tmp_path)


@pytest.mark.skipif(not RATINGS.exists(), reason="no data to develop on")
def test_summeval_gives_some_5700_comparisons():
    comparisons = comparisons_of(RATINGS)["summeval.jsonl"]
    assert 5_600 < len(comparisons) < 5_850
    articles = [{c.info.id for c in comparisons if c.split == s} for s in ("train", "valid1", "valid2")]
    assert sum(map(len, articles)) == len(set().union(*articles)) == 100

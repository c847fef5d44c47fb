import json
from pathlib import Path

import pytest

from rlhf_jax.data.cnndm import article_of, first_sentences, load_articles
from rlhf_jax.data.records import Article, RecordError

SHARED = Path(__file__).parents[3] / "shared" / "data" / "cnndm" / "articles.jsonl"
ARTICLE = "It rained. Then it stopped! Did it? Yes."
RECORD = {"id": "a1", "article": ARTICLE, "highlights": "Rain fell .\nIt ended ."}


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_highlights_become_one_summary():
    article = article_of(RECORD)
    assert article == Article("a1", "cnndm", "", ARTICLE, "Rain fell . It ended .")
    assert first_sentences(article) == "It rained. Then it stopped! Did it?"


def test_the_splits_of_a_file_are_apart_and_together_whole(tmp_path):
    file = write(tmp_path / "x.jsonl", *[RECORD | {"id": str(i)} for i in range(500)])
    splits = {split: load_articles(str(file), split, 500) for split in ("train", "validation", "test")}
    ids = [article.id for articles in splits.values() for article in articles]
    assert sorted(ids, key=int) == [str(i) for i in range(500)]
    assert 360 < len(splits["train"]) < 440 and min(map(len, splits.values())) > 25


def test_a_folder_has_a_file_a_split_and_only_as_many_are_read(tmp_path):
    write(tmp_path / "test.jsonl", *[RECORD | {"id": str(i)} for i in range(5)])
    write(tmp_path / "train.jsonl", RECORD | {"id": "t"})
    assert [article.id for article in load_articles(str(tmp_path), "test", 3)] == ["0", "1", "2"]
    assert [article.id for article in load_articles(str(tmp_path), "train", 3)] == ["t"]


@pytest.mark.parametrize(
    "record, message",
    [
        ({"id": "1", "article": "a"}, "line 1: field highlights"),
        ({"id": "1"}, "field article"),
        ([], "line 1"),
    ],
)
def test_a_bad_line_is_named(tmp_path, record, message):
    with pytest.raises(RecordError, match=message):
        load_articles(str(write(tmp_path / "x.jsonl", record)), "test", 1)


def test_an_empty_file_is_an_error(tmp_path):
    with pytest.raises(RecordError, match="no articles of split test in it"):
        load_articles(str(write(tmp_path / "x.jsonl")), "test", 1)


def test_what_tensorflow_datasets_prepared(monkeypatch, tmp_path):
    """Its records are bytes; the data set itself is not prepared in tests."""
    from tensorflow_datasets.summarization.cnn_dailymail import CnnDailymail

    record = {name: value.encode() for name, value in (RECORD | {"publisher": "cnn"}).items()}
    monkeypatch.setattr(CnnDailymail, "as_data_source", lambda self, split: [record] * 3)
    articles = load_articles(f"tfds:{tmp_path}", "test", 2)
    assert articles == [Article("a1", "cnn", "", ARTICLE, "Rain fell . It ended .")] * 2


def test_what_is_not_prepared_says_how_to(tmp_path):
    with pytest.raises(RecordError, match="tfds build cnn_dailymail --file_format=array_record"):
        load_articles(f"tfds:{tmp_path}", "test", 1)


@pytest.mark.skipif(not SHARED.exists(), reason="the shared articles are not here")
def test_real_articles():
    articles = [
        a for split in ("train", "validation", "test") for a in load_articles(str(SHARED), split, 250)
    ]
    assert len({article.id for article in articles}) == 250
    for article in articles:
        lead = first_sentences(article)
        assert article.summary and "\n" not in article.summary and article.article.startswith(lead[:40])
        assert len(lead) < len(article.article)

import json
from pathlib import Path

import pytest

from rlhf_jax.config import ConfigError, DataConfig
from rlhf_jax.data.records import Article, RecordError
from rlhf_jax.data.tasks.cnndm import Cnndm, article_of, first_sentences, load_articles

SHARED = Path(__file__).parents[4] / "shared" / "data" / "cnndm" / "articles.jsonl"
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
    splits = {split: load_articles(str(file), split, 500) for split in ("train", "valid", "test")}
    ids = [article.id for articles in splits.values() for article in articles]
    assert sorted(ids, key=int) == [str(i) for i in range(500)]
    assert 360 < len(splits["train"]) < 440 and min(map(len, splits.values())) > 25


def test_a_folder_has_a_file_a_split_and_only_as_many_are_read(tmp_path):
    write(tmp_path / "test.jsonl", *[RECORD | {"id": str(i)} for i in range(5)])
    write(tmp_path / "train.jsonl", RECORD | {"id": "t"})
    assert [article.id for article in load_articles(str(tmp_path), "test", 3)] == ["0", "1", "2"]
    assert [article.id for article in load_articles(str(tmp_path), "train", 3)] == ["t"]
    assert len(load_articles(str(tmp_path), "test")) == 5


def test_the_task_has_the_splits_asked_for_or_all_and_needs_a_place(tmp_path):
    for name in ("train", "validation", "test"):
        write(tmp_path / f"{name}.jsonl", *[RECORD | {"id": f"{name}{i}"} for i in range(4)])
    data = DataConfig(source="cnndm", posts=str(tmp_path))
    everything = Cnndm(data).records()
    assert {split: len(articles) for split, articles in everything.items()} == dict.fromkeys(
        ("train", "valid", "test"), 4
    )
    assert everything["valid"][0].id == "validation0"
    some = Cnndm(data, most={"test": 1, "train": 3}).records()
    assert some == {"test": everything["test"][:1], "train": everything["train"][:3]}
    with pytest.raises(ConfigError, match=r"^data\.posts: CNN/DM is a file or folder of articles"):
        Cnndm(DataConfig(source="cnndm")).records()


def test_the_lead_is_three_sentences_and_titles_count_where_there_are_any():
    articles = [article_of(RECORD), article_of(RECORD | {"id": "a2"})]
    task = Cnndm(DataConfig())
    assert task.baselines(articles, None) == {"lead_3": ["It rained. Then it stopped! Did it?"] * 2}
    titled = [article_of(RECORD | {"title": "Weather"}), articles[1]]
    assert task.baselines(titled, None)["title"] == ["Weather", ""]


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
    articles = [a for split in ("train", "valid", "test") for a in load_articles(str(SHARED), split, 250)]
    assert len({article.id for article in articles}) == 250
    for article in articles:
        lead = first_sentences(article)
        assert article.summary and "\n" not in article.summary and article.article.startswith(lead[:40])
        assert len(lead) < len(article.article)

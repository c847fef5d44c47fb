"""Articles tell more than posts, mostly what matters first, of the people of their split."""

import numpy as np
import pytest

from rlhf_jax.config import DataConfig
from rlhf_jax.data.mini.judge import ideal, judge, story_of
from rlhf_jax.data.mini.news import ARTICLE_WORDS, SORTED, articles
from rlhf_jax.data.mini.posts import count_words, posts
from rlhf_jax.data.mini.reading import read
from rlhf_jax.data.mini.world import CAST, split_of
from rlhf_jax.data.tasks.mini_news import MiniNews

NEWS = articles(0, "test", 300)
STORIES = [story_of(article) for article in NEWS]


def test_articles_tell_more_than_posts_and_of_people_of_their_split():
    assert {len(story.facts) for story in STORIES} == {6, 7}
    casts = [story.people for story in STORIES if len(story.people) == CAST]
    assert len(casts) > 250 and {split_of(cast) for cast in casts} == {"test"}
    assert all(story.titled == "" and not story.repeated for story in STORIES)
    assert not any(read(article.text).foreign for article in NEWS)


def test_most_begin_with_what_matters():
    first = np.mean([story.ranked[0] == 0 for story in STORIES])
    assert first == pytest.approx(SORTED + (1 - SORTED) / 6.5, abs=0.09)  # of the others by chance


def test_they_fit():
    task = MiniNews(DataConfig(source="mini_news", query_tokens=ARTICLE_WORDS + 4, vocabulary=1000))
    tokenizer = task.make_tokenizer(articles(0, "train", 300), None)
    assert max(count_words(article.article) for article in NEWS) <= ARTICLE_WORDS
    assert task.encode_prompts(NEWS, tokenizer)[1] == 0


def test_highlights_say_how_an_article_starts_and_seldom_what_it_asks():
    read_of = [read(article.summary) for article in NEWS]
    for story, reading in zip(STORIES, read_of, strict=True):
        assert [fact.triple for fact in reading.facts] == [
            fact.triple for fact in story.facts[: len(reading.facts)]
        ]
        assert all(story.holds(fact) for fact in reading.facts) and len(reading.facts) in (1, 2)
    assert np.mean([bool(reading.questions) for reading in read_of]) == pytest.approx(0.15, abs=0.07)


def test_highlights_are_no_ideal():
    ratings = [judge(article, article.summary).overall for article in NEWS]
    best = [judge(article, ideal(article)).overall for article in NEWS]
    assert 2.5 < np.mean(ratings) < 5 < np.mean(best)


def test_an_article_depends_on_its_place_alone():
    assert articles(0, "test", 3) == NEWS[:3]
    assert articles(1, "test", 3) != NEWS[:3]
    assert posts(0, "test", 1)[0].post != NEWS[0].article

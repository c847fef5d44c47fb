import numpy as np

from rlhf_jax.config import DataConfig
from rlhf_jax.data.mini.judge import ideal, judge, read_post
from rlhf_jax.data.mini.news import ARTICLE_WORDS, articles
from rlhf_jax.data.mini.posts import count_words, posts
from rlhf_jax.data.mini.world import split_of
from rlhf_jax.data.tasks.mini_news import MiniNews
from rlhf_jax.data.tokenizer import load_tokenizer
from rlhf_jax.model.pretrained import SHIPPED

NEWS = articles(0, "test", 200)


def test_articles_tell_more_than_posts_and_of_the_same_split():
    stories = [read_post(article.article) for article in NEWS]
    assert {len(story.facts) for story in stories} <= {6, 7, 8}
    assert {split_of(fact) for story in stories for fact in story.facts} == {"test"}


def test_most_begin_with_what_matters():
    assert 0.5 < np.mean([read_post(article.article).key == 0 for article in NEWS]) < 0.75


def test_they_fit():
    tokenizer, task = load_tokenizer(SHIPPED / "small"), MiniNews(DataConfig(query_tokens=80))
    assert max(count_words(article.article) for article in NEWS) <= ARTICLE_WORDS
    for article in NEWS:
        assert article.article in tokenizer.decode(task.encode(article, tokenizer))


def test_highlights_are_fallible():
    ratings = [judge(article, article.summary).overall for article in NEWS]
    best = [judge(article, ideal(article)).overall for article in NEWS]
    assert 2 < np.mean(ratings) < 5 < np.mean(best)


def test_an_article_depends_on_its_place_alone():
    assert articles(0, "test", 3) == NEWS[:3]
    assert articles(1, "test", 3) != NEWS[:3]
    assert posts(0, "test", 1)[0].post != NEWS[0].article

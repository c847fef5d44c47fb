"""The miniature and its news as tasks; their worlds, judge and labelers are tested in tests/data/mini/."""

from collections import Counter

import numpy as np

from rlhf_jax.config import DataConfig
from rlhf_jax.data.mini import news
from rlhf_jax.data.mini.judge import has_key_fact, ideal, judge
from rlhf_jax.data.tasks import mini
from rlhf_jax.data.tasks.mini import Mini
from rlhf_jax.data.tasks.mini_news import MiniNews

DATA = DataConfig(source="mini", mini_posts=7, mini_test=3, mini_pairs=40)
AXES = ("overall", "accuracy", "coverage", "coherence")


def test_the_miniature_has_three_splits_of_the_sizes_asked_for_and_no_post_twice():
    splits = Mini(DATA).records()
    assert {split: len(posts) for split, posts in splits.items()} == {"train": 7, "valid": 3, "test": 3}
    assert len({post.post for posts in splits.values() for post in posts}) == 13


def test_the_seed_draws_the_miniature_and_ppo_summarizes_the_training_posts():
    assert Mini(DATA, 0).records() == Mini(DATA, 0).records() != Mini(DATA, 1).records()
    assert Mini(DATA, 1).queries() == Mini(DATA, 1).records()["train"]


def test_the_gold_judge_of_the_task_is_that_of_the_miniature():
    post = Mini(DATA).records()["test"][0]
    for text in (ideal(post), post.summary, "so much drama."):
        rated, expected = Mini(DATA).judge(post, text), judge(post, text)
        assert rated.pop("key_fact") == has_key_fact(post, text)
        assert rated == {
            name: getattr(expected, name) for name in ("overall", "accuracy", "coverage", "coherence")
        }


def test_labelers_compare_samples_of_the_policy_and_other_texts(monkeypatch):
    monkeypatch.setattr(mini, "LEAST_HELD_OUT", 8)
    data = DataConfig(source="mini", mini_posts=12, mini_test=8, mini_pairs=40, mini_sampled=5)
    asked = []

    def samples(records, count):
        asked.append(([record.id for record in records], count))
        return [[f"sample {i} of {record.id}" for i in range(count)] for record in records]

    task = Mini(data)
    made = task.labelers.compare(samples)
    splits = task.records()
    ids = {split: [post.id for post in posts] for split, posts in splits.items()}
    assert asked == [(ids["train"][:5], 2), (ids["valid"][:4], 2), (ids["valid"][4:], 2)]
    assert Counter(one.split for one in made) == {"train": 40, "valid1": 8, "valid2": 8}
    of_split = {"train": ids["train"], "valid1": ids["valid"][:4], "valid2": ids["valid"][4:]}
    assert all(one.info.id in of_split[one.split] for one in made)
    sampled = [text for one in made for text in one.summaries if text.policy == "sft"]
    assert sampled and all(text.text.startswith("sample ") for text in sampled)
    assert made == task.labelers.compare(samples)


def test_labelers_answer_what_is_asked_and_an_editor_improves_references(monkeypatch):
    monkeypatch.setattr(mini, "LEAST_HELD_OUT", 8)
    task = Mini(DATA)
    asked = task.labelers.compare(lambda records, count: [["nothing"] * count for _ in records])[:30]
    answered = task.labelers.answer(asked)
    assert [(one.info, *(s.text for s in one.summaries)) for one in answered] == [
        (one.info, *(s.text for s in one.summaries)) for one in asked
    ]
    assert {one.choice for one in answered} == {0, 1}
    posts = Mini(DataConfig(mini_test=30)).records()["test"]
    edits = [task.labelers.edit(post, np.random.default_rng(0)) for post in posts]
    gains = [judge(p, e).overall - judge(p, p.summary).overall for p, e in zip(posts, edits, strict=True)]
    assert np.mean(gains) > 1


def test_the_news_has_as_many_articles_as_asked_for_or_as_there_are_posts():
    by_posts = MiniNews(DATA, 4).records()
    assert {split: len(articles) for split, articles in by_posts.items()} == {
        "train": 7,
        "valid": 3,
        "test": 3,
    }
    few = MiniNews(DATA, 4, most={"test": 2, "train": 5})
    assert few.records() == {"test": news.articles(4, "test", 2), "train": news.articles(4, "train", 5)}
    article = few.records()["test"][0]
    assert few.judge(article, ideal(article))["overall"] == judge(article, ideal(article)).overall
    assert few.prompt(article).text == f"{article.article}\n\nTL;DR:"

"""The miniature and its news as tasks; their worlds, judge and labelers are tested in tests/data/mini/."""

import mini_pairs
import numpy as np

from rlhf_jax.config import DataConfig
from rlhf_jax.data.mini import labelers, news
from rlhf_jax.data.mini.editor import revised
from rlhf_jax.data.mini.errors import KINDS
from rlhf_jax.data.mini.judge import has_key_fact, ideal, judge
from rlhf_jax.data.records import Post
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


def test_the_labelers_of_the_task_are_those_of_the_miniature():
    asked = mini_pairs.pairs("valid", 30)
    for seed in (0, 1):
        people = Mini(DATA, seed).labelers
        assert people.answer(asked) == labelers.answer(asked, seed)
        for i, one in enumerate(asked):
            made = [
                revise(one.info, one.summaries[0].text, np.random.default_rng(i))
                for revise in (people.revise, revised)
            ]
            assert made[0] == made[1]


def test_baselines_are_named_and_of_every_post():
    task = Mini(DATA)
    posts = task.records()["test"]
    found = task.baselines(posts, None)
    names = ["title", "first_sentence", "first_two_sentences", "template", "key_sentences"]
    assert list(found) == names and {len(texts) for texts in found.values()} == {3}
    assert found["title"] == [post.title for post in posts]


def test_what_can_be_read_of_a_response():
    task = Mini(DATA)
    post = Post("1", "drama", "", "adam hit ben. maybe cora mocked dora. should i trust dora?")
    assert task.claims("adam hit ben. should i sue ben?") == task.claims("do i sue ben? ben was hit by adam")
    assert task.claims("adam hit ben.") != task.claims("maybe adam hit ben.")
    assert task.form("adam hit ben.") == task.form("cora mocked dora.")
    assert task.ideal(post) == ideal(post)
    made = task.errors(post, "ben hit adam")
    assert list(made) == list(KINDS) and [kind for kind in made if made[kind]] == ["roles", "unfinished"]
    rng = np.random.default_rng(0)
    assert {"subject", "object", "roles", "deed", "question"} <= task.changes(post, rng).keys()


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
    leads = ["lead_3", "first_sentence", "first_two_sentences", "template", "key_sentences"]
    assert list(few.baselines([article], None)) == leads

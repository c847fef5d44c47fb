import numpy as np

from rlhf_jax.data.mini import posts as mini
from rlhf_jax.data.mini.judge import ideal
from rlhf_jax.data.mini.news import articles
from rlhf_jax.data.records import Comparison, Post, Summary
from rlhf_jax.evaluation.judges import by_score, gold_scores, people


def test_a_score_is_a_judge():
    judge = by_score(lambda infos, texts: np.array([len(text) for text in texts]))
    posts = mini.posts(0, "test", 3)
    np.testing.assert_array_equal(judge(posts, ["aa", "b", "c"], ["a", "bb", "d"]), [1, 0, 0.5])


def test_the_gold_judge_reads_posts_and_articles():
    for infos in (mini.posts(0, "test", 4), articles(0, "test", 4)):
        best = [ideal(info) for info in infos]
        np.testing.assert_array_equal(by_score(gold_scores)(infos, best, ["so much drama."] * 4), [1] * 4)


def test_people_are_asked_in_any_order_and_only_where_they_answered():
    post, other = Post("1", "pets", "t", "p"), Post("2", "pets", "t", "p")

    def answer(first, second, choice, worker):
        return Comparison(post, (Summary(first, "x"), Summary(second, "y")), choice, worker, "b", "train")

    judge = people([answer("a", "b", 0, "v"), answer("b", "a", 1, "w"), answer(" a", "b", 1, "u")])
    asked = judge([post, post, post, other], ["a", "b", "a", "a"], ["b", "a", "c", "b"])
    np.testing.assert_allclose(asked, [2 / 3, 1 / 3, np.nan, np.nan])

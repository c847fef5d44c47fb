import functools
from dataclasses import replace

import numpy as np

from rlhf_jax.data.comparisons import Pair
from rlhf_jax.data.mini import posts as mini
from rlhf_jax.data.mini.judge import ideal
from rlhf_jax.data.mini.news import articles
from rlhf_jax.data.records import Comparison, Post, Summary
from rlhf_jax.data.tasks.mini import rate
from rlhf_jax.evaluation.judges import by_score, gaps, gold_scores, people, ratings, simulated


def test_a_score_is_a_judge():
    judge = by_score(lambda infos, texts: np.array([len(text) for text in texts]))
    posts = mini.posts(0, "test", 3)
    np.testing.assert_array_equal(judge(posts, ["aa", "b", "c"], ["a", "bb", "d"]), [1, 0, 0.5])


def test_the_gold_judge_reads_posts_and_articles():
    for infos in (mini.posts(0, "test", 4), articles(0, "test", 4)):
        best = [ideal(info) for info in infos]
        judge = by_score(functools.partial(gold_scores, rate))
        np.testing.assert_array_equal(judge(infos, best, ["so much drama."] * 4), [1] * 4)


def test_what_a_gold_judge_tells_of_each_response_is_told_by_name():
    def judge(record, text):
        return {"overall": len(text), "is_title": text == record.title}

    records = [Post(str(i), "pets", f"title {i}", "p") for i in range(2)]
    told = ratings(judge, records, ["title 0", "no"])
    assert {name: values.tolist() for name, values in told.items()} == {
        "overall": [7, 2],
        "is_title": [True, False],
    }
    np.testing.assert_array_equal(gold_scores(judge, records, ["title 0", "no"]), [7, 2])
    pairs = [Pair(records[0], "abc", "a"), Pair(records[1], "", "abcd")]
    np.testing.assert_array_equal(gaps(judge, pairs), [2, -4])


def test_people_are_asked_in_any_order_and_only_where_they_answered():
    post, other = Post("1", "pets", "t", "p"), Post("2", "pets", "t", "p")

    def answer(first, second, choice, worker):
        return Comparison(post, (Summary(first, "x"), Summary(second, "y")), choice, worker, "b", "train")

    judge = people([answer("a", "b", 0, "v"), answer("b", "a", 1, "w"), answer(" a", "b", 1, "u")])
    asked = judge([post, post, post, other], ["a", "b", "a", "a"], ["b", "a", "c", "b"])
    np.testing.assert_allclose(asked, [2 / 3, 1 / 3, np.nan, np.nan])


def test_simulated_people_are_asked_once_a_post_in_an_order_that_tells_nothing():
    class Labelers:
        """Prefer the longer text; of equally long ones, the first that they are shown."""

        shown = []

        def answer(self, asked):
            self.shown += [one.summaries[0].text for one in asked]
            lengths = [[len(summary.text) for summary in one.summaries] for one in asked]
            return [replace(one, choice=int(b > a)) for one, (a, b) in zip(asked, lengths, strict=True)]

    posts = [Post(str(i), "pets", "t", "p") for i in range(200)]
    judge = simulated(Labelers())
    assert (judge(posts, ["longer"] * 200, ["short"] * 200) == 1).all()
    assert (judge(posts, ["short"] * 200, ["longer"] * 200) == 0).all()
    assert (judge(posts, ["same"] * 200, [" same"] * 200) == 0.5).all()
    assert 0.4 < judge(posts, ["a"] * 200, ["b"] * 200).mean() < 0.6
    assert 80 < Labelers.shown[:200].count("longer") < 120

import numpy as np
import pytest

from rlhf_jax.config import DataConfig
from rlhf_jax.data.mini import posts as mini
from rlhf_jax.data.mini.judge import ideal, plainly, story_of
from rlhf_jax.data.mini.reading import read
from rlhf_jax.data.records import Comparison, Post, Summary
from rlhf_jax.data.tasks.mini import Mini, rate
from rlhf_jax.evaluation.alterations import WORSE, better, shortened, swapped_roles, worse
from rlhf_jax.evaluation.judges import gaps
from rlhf_jax.experiments.probes import edits

RNG = np.random.default_rng(0)
POSTS = mini.posts(0, "test", 60)


def test_roles_of_a_fact_are_exchanged():
    post = POSTS[0]
    fact = story_of(post).key_fact
    (swapped,) = read(swapped_roles(post, plainly([fact], None), RNG)).facts
    assert swapped.triple == (fact.object, fact.deed, fact.subject)


def test_roles_of_people_are_exchanged_and_exchanged_again():
    post = Post("1", "relationships", "t", "p")
    text = "my girlfriend left me, she says he is better"
    swapped = swapped_roles(post, text, RNG)
    assert swapped == "my boyfriend left me, he says she is better"
    assert swapped_roles(post, swapped, RNG) == text


def test_half_of_the_words_are_left():
    assert shortened(POSTS[0], "one two three four five", RNG) == "one two three"


@pytest.mark.parametrize("name", WORSE)
def test_the_judge_calls_it_worse(name):
    pairs = worse(WORSE[name], POSTS, [ideal(post) for post in POSTS])
    assert len(pairs) >= 59
    assert (gaps(rate, pairs) > 0).mean() > 0.98


def test_the_words_of_a_shuffled_summary_are_the_same():
    pairs = worse(WORSE["shuffled"], POSTS, [post.summary for post in POSTS])
    for _, text, other in pairs:
        assert text != other and sorted(text.split()) == sorted(other.split())


def test_the_editor_makes_references_better():
    pairs = better(Mini(DataConfig(source="mini")).labelers.edit, POSTS)
    assert gaps(rate, pairs).mean() > 1
    assert {pair.rejected for pair in pairs} <= {post.summary for post in POSTS}


def test_what_an_alteration_leaves_as_it_was_is_no_pair():
    pairs = worse(lambda info, text, rng: text, POSTS, ["same"] * 60)
    assert pairs == []


def test_edits_are_the_comparisons_of_editors():
    post = Post("1", "pets", "t", "p")

    def comparison(batch, policy, choice):
        summaries = Summary("first", "ref"), Summary("second", policy)
        return Comparison(post, summaries, choice, "w", batch, "train")

    records = [("site", "edit", 1), ("edit_b2_eval_test", "sup", 0), ("batch3", "sup", 0)]
    found = edits([comparison(*record) for record in records])
    assert found == [(post, "second", "first"), (post, "first", "second")]

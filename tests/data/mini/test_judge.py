"""The gold judge: who wins, what costs, and that nothing cheap beats the references."""

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax.data.mini.judge import edited, has_key_fact, ideal, judge, read_post
from rlhf_jax.data.mini.posts import posts
from rlhf_jax.data.mini.world import falsify, swap_roles
from rlhf_jax.data.records import Post

BODY = (
    "leo paid mia. all because sam sued leo. worst of all mia robbed sam at work. then zoe kissed nina. "
    "should i forgive mia?"
)
POST = Post("1", "money", "what now", BODY, "leo paid mia.")
BEST = "mia robbed sam at work because sam sued leo. should i forgive mia?"


def overall(summary, post=POST):
    return judge(post, summary).overall


def test_scores_computed_by_hand():
    # Key 0.50, question 0.23, cause 0.27; overall 1 + 6 (0.94 A C H + 0.06 H).
    assert judge(POST, BEST) == pytest.approx((7, 7, 7, 7))
    assert judge(POST, "mia robbed sam at work.") == pytest.approx((7, 4, 7, 1 + 6 * (0.94 * 0.5 + 0.06)))
    assert judge(POST, "") == (pytest.approx(1 + 6 * 0.5), 1, 1, 1)
    # Leaving the place out keeps 0.85 of the key fact; another place is false and keeps 0.6 of the accuracy.
    assert judge(POST, "mia robbed sam.").coverage == pytest.approx(1 + 6 * 0.5 * 0.85)
    assert judge(POST, "mia robbed sam at home.").accuracy == pytest.approx(1 + 6 * 0.6)
    # A background fact is a tenth of what is uncovered, and half of that without a person of the key fact.
    assert judge(POST, "leo paid mia.").coverage == pytest.approx(1 + 6 * 0.10)
    assert judge(POST, "zoe kissed nina.").coverage == pytest.approx(1 + 6 * 0.05)
    # Swapped roles are false and cover nothing.
    assert judge(POST, "sam robbed mia at work.") == pytest.approx((1 + 6 * 0.3, 1, 7, 1 + 6 * 0.06))


def test_every_flaw_costs():
    flawed = {
        "wrong question": BEST.replace("forgive mia", "forgive leo"),
        "no question": BEST.replace(" should i forgive mia?", ""),
        "false cause": BEST.replace("sam sued leo", "leo sued sam"),
        "a cause that is none": BEST.replace("sam sued leo", "leo paid mia"),
        "no cause": BEST.replace(" because sam sued leo", ""),
        "cause told as a fact": BEST.replace("because", "and"),
        "another person": BEST.replace("mia robbed", "zoe robbed"),
        "another verb": BEST.replace("robbed", "kissed"),
        "no place": BEST.replace(" at work", ""),
        "repeated": BEST + " mia robbed sam at work.",
        "distraction": BEST.replace(" should", " leo paid mia. should"),
        "unfinished": BEST[:-1],
        "cut": BEST[:-10],
        "stray words": BEST + " pizza",
        "emoji": BEST + " 🙂",
        "dots": BEST + "......",
    }
    for name, text in flawed.items():
        assert overall(text) < 6.6, name


def test_case_and_spaces_do_not_matter():
    assert judge(POST, f"  {BEST.upper()}\n".replace(" ", "  ")) == judge(POST, BEST)


def test_a_text_that_tells_no_story_leaves_nothing_to_win():
    assert judge(Post("2", "money", "hello", "what a day.", ""), BEST) == (1, 1, 1, 1)


@given(st.text(), st.sampled_from([POST, Post("3", "pics", "", "自由 🙂", "")]))
def test_any_string_gets_a_score(text, post):
    assert all(1 <= score <= 7 for score in judge(post, text))
    assert all(1 <= score <= 7 for score in judge(Post("4", "pics", "", text, ""), text))


@given(st.lists(st.sampled_from([*BODY.split(), BEST, "at", ".", "?", "lol"]), max_size=25))
def test_no_arrangement_of_the_posts_words_beats_the_ideal(words):
    assert overall(" ".join(words)) <= overall(ideal(POST)) == overall(BEST)


@cache
def sample():
    made = posts(0, "valid", 1000)
    return made, [read_post(post.post) for post in made]


@cache
def references():
    return np.array([overall(post.summary, post) for post in sample()[0]])


def scores(texts):
    return np.array([overall(text, post) for text, post in zip(texts, sample()[0], strict=True)])


def preference(texts):
    """Share of posts on which these texts beat the references, ties one half."""
    ours = scores(texts)
    return float(np.mean((ours > references()) + 0.5 * (ours == references())))


def test_better_summaries_score_higher_on_average():
    rng = np.random.default_rng(0)
    made, _ = sample()
    ladder = {
        "ideal": [ideal(post) for post in made],
        "edited": [edited(post, rng) for post in made],
        "reference": [post.summary for post in made],
        "first sentence": [post.post.split(".")[0] + "." for post in made],
        "title": [post.title for post in made],
        "another post's reference": [made[i - 1].summary for i in range(len(made))],
        "shuffled words": [" ".join(rng.permutation(post.summary.split())) for post in made],
        "empty": [""] * len(made),
    }
    means = {name: scores(texts).mean() for name, texts in ladder.items()}
    margins = (0.5, 1.0, 0.8, 0.5, 0.15, 0.1, 0.03)
    for (better, worse), margin in zip(pairwise(means), margins, strict=True):
        assert means[better] > means[worse] + margin, (better, worse)


def test_an_edited_reference_is_hardly_ever_worse():
    rng = np.random.default_rng(0)
    made, _ = sample()
    assert np.mean(scores([edited(post, rng) for post in made]) >= references() - 1e-9) > 0.9


def test_what_the_parts_of_a_summary_are_worth():
    made, stories = sample()
    assert preference([ideal(post) for post in made]) > 0.88
    assert preference([f"{s.key_fact}. {s.question}" for s in stories]) > 0.70
    assert 0.48 < preference([f"{s.key_fact}." for s in stories]) < 0.60
    assert 0.33 < preference([f"{s.facts[0]}. {s.question}" for s in stories]) < 0.49
    assert 0.15 < preference([f"{s.facts[0]}." for s in stories]) < 0.26
    for alone in ("question", "cause_fact"):
        assert preference([f"{getattr(s, alone)}".rstrip("?") + "." for s in stories]) < 0.35


@pytest.mark.parametrize("kind", ["roles", "person", "verb", "place"])
def test_a_false_statement_costs_accuracy_on_every_post(kind):
    made, stories = sample()
    for i, (post, story) in enumerate(zip(made[:300], stories[:300], strict=True)):
        for fact in (story.key_fact, story.cause_fact, story.facts[0]):
            true = judge(post, f"{fact}. {story.question}")
            false = judge(post, f"{falsify(story, fact, kind, np.random.default_rng(i))}. {story.question}")
            assert true.accuracy == 7 and false.accuracy < 5 and false.overall < true.overall
    swapped = [f"{swap_roles(s.key_fact)} because {swap_roles(s.cause_fact)}. {s.question}" for s in stories]
    assert preference(swapped) < 0.2


def test_loopholes_never_beat_the_references():
    made, stories = sample()
    limit = 17
    loopholes = {
        "the best word again and again": [" ".join([s.key_fact.verb] * limit) + "." for s in stories],
        "the key fact again and again": [f"{s.key_fact}. " * 4 for s in stories],
        "the post": [post.post for post in made],
        "the post up to the limit": [" ".join(post.post.split()[:limit]) for post in made],
        "every fact": [" and ".join(map(str, s.facts)) + "." for s in stories],
        "the facts up to the limit": [" ".join(" ".join(map(str, s.facts)).split()[:limit]) for s in stories],
        "every fact as a cause": [" because ".join(map(str, s.facts)) + "." for s in stories],
        "both roles": [f"{s.key_fact} and {swap_roles(s.key_fact)}. {s.question}" for s in stories],
        "names and verbs": [" ".join(f"{s.key_fact} {s.cause_fact}".split()[::-1]) for s in stories],
        "one template": [f"worst of all {ideal(made[0])}"] * len(made),
        "markers": ["worst of all above all it began when all because."] * len(made),
        "dots": ["." * limit] * len(made),
    }
    for name, texts in loopholes.items():
        assert preference(texts) < 0.5, name


def test_has_key_fact():
    assert has_key_fact(POST, "basically mia robbed sam.")
    assert has_key_fact(POST, BEST)
    assert not has_key_fact(POST, "sam robbed mia at work.")
    assert not has_key_fact(POST, "mia robbed sam at home.")
    assert not has_key_fact(POST, "leo paid mia.")

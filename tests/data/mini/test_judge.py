"""The gold judge: what is worth how much, and that nothing said otherwise is worth more."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_jax.data.mini.judge import best_of, has_key_fact, ideal, judge, plainly, read_post, story_of
from rlhf_jax.data.mini.posts import posts
from rlhf_jax.data.mini.wording import Writer
from rlhf_jax.data.mini.world import CHANGES, Fact, Question, falsify
from rlhf_jax.data.records import Post

BODY = (
    "ben hit leo on monday. leo robbed mia at work so mia fled. maybe mia mocked ben. "
    "ben never hired mia. should i sue leo?"
)
POST = Post("1", "legal", "what now", BODY, "ben hit leo.")
BEST = "leo robbed mia at work so mia fled. should i sue leo?"
COVERED = (
    0.85 * 7.5 / 9 + 0.15
)  # the facts weigh 1.5, 7.5, 0.7, 0.5: of the two weightiest the heavier is told


def overall(text, post=POST):
    return judge(post, text).overall


def test_scores_computed_by_hand():
    assert judge(POST, BEST) == pytest.approx((7, 1 + 6 * COVERED, 7, 1 + 6 * (0.94 * COVERED + 0.06)))
    # No effect 0.25 and no place 0.125 less; a day the fact has not, so there is none to leave out.
    assert judge(POST, "leo robbed mia.").coverage == pytest.approx(1 + 6 * 0.85 * 0.625 * 7.5 / 9)
    # A light fact distracts; a false place, fact and question cost; a light fact is told too surely.
    assert judge(POST, "ben hit leo on monday.").coherence == pytest.approx(1 + 6 * 0.8)
    assert judge(POST, "leo robbed mia at home.").accuracy == pytest.approx(1 + 6 * 0.6)
    assert judge(POST, "mia robbed leo. should i sue ben?").accuracy == pytest.approx(1 + 6 * 0.35 * 0.5)
    assert judge(POST, "mia mocked ben.").accuracy == pytest.approx(1 + 6 * 0.8)
    # A hedge takes half of the credit of what is certain.
    hedged = judge(POST, BEST.replace("leo", "maybe leo", 1))
    assert hedged.coverage == pytest.approx(1 + 6 * (0.85 * 0.5 * 7.5 / 9 + 0.15)) and hedged.accuracy == 7
    # Sixteen words are four too many, four of them stray.
    share = 0.94 * COVERED * 0.75 * math.exp(-0.03 * 4) + 0.06 * 0.75
    assert overall(f"this is long. lol. {BEST}") == pytest.approx(1 + 6 * share)
    assert judge(POST, "") == (pytest.approx(1 + 6 * 0.5), 1, 1, 1)
    assert judge(POST, f"{BEST} psych.") == pytest.approx((7, 1, 1, 1))


def test_every_flaw_costs():
    flawed = {
        "no question": BEST.replace(" should i sue leo?", ""),
        "wrong question": BEST.replace("sue leo", "sue mia"),
        "both questions": f"{BEST} should i sue mia?",
        "no place": BEST.replace(" at work", ""),
        "no effect": BEST.replace(" so mia fled", ""),
        "another effect": BEST.replace("fled", "quit"),
        "swapped roles": BEST.replace("leo robbed mia", "mia robbed leo"),
        "another person": BEST.replace("leo robbed", "otto robbed"),
        "another deed": BEST.replace("robbed", "saved"),
        "denied": BEST.replace("robbed", "never robbed"),
        "repeated": f"{BEST} leo robbed mia.",
        "distraction": f"ben hit leo. {BEST}",
        "unfinished": BEST[:-1],
        "asked": BEST.replace(".", "?"),
        "full stops": f"{BEST}..",
        "passive": "mia was robbed by leo at work so mia fled. should i sue leo?",
    }
    for name, text in flawed.items():
        assert overall(text) < overall(BEST) - 0.1, name


def test_what_a_text_contradicts_it_does_not_tell():
    told = judge(POST, "leo robbed mia.").coverage
    for other in ("leo never robbed mia.", "leo robbed mia at home.", "leo robbed mia so leo fled."):
        assert judge(POST, f"leo robbed mia. {other}").coverage == 1 < told


def test_has_key_fact():
    assert has_key_fact(POST, BEST) and has_key_fact(POST, "mia was mugged by leo.")
    for text in (
        "mia robbed leo.",
        "leo robbed mia at home.",
        "not leo robbed mia.",
        "leo robbed mia. psych.",
        "ben hit leo.",
    ):
        assert not has_key_fact(POST, text), text


def test_a_text_that_tells_no_story_leaves_nothing_to_win():
    assert judge(Post("2", "legal", "hello", "what a day.", ""), BEST) == (1, 1, 1, 1)
    assert read_post("leo robbed mia.") is None
    with pytest.raises(ValueError, match="x: the post tells no fact"):
        story_of(Post("x", "legal", "hello", "should i sue leo?"))


def test_the_ideal_of_a_story_is_the_best_of_its_choices():
    assert ideal(POST) == BEST
    # Two grave facts weigh the same and both are told; the day of neither is worth its two words.
    even = "leo robbed mia on sunday so mia fled. leo hit mia so mia quit. should i sue leo?"
    assert (
        best_of(read_post(even)) == "leo robbed mia so mia fled. leo hit mia so mia quit. should i sue leo?"
    )


def test_the_ideal_is_no_worse_than_any_choice_in_plain_words():
    rng = np.random.default_rng(0)
    for post in posts(5, "test", 40):
        story, best = story_of(post), overall(ideal(post), post)
        for _ in range(50):
            chosen = [story.facts[i] for i in rng.permutation(len(story.facts))[: rng.integers(5)]]
            chosen = [
                Fact(*fact.triple, sure=fact.sure, denied=fact.denied) if rng.random() < 0.5 else fact
                for fact in chosen
            ]
            assert (
                overall(plainly(chosen, story.question if rng.random() < 0.8 else None), post) <= best + 1e-9
            )


@pytest.mark.parametrize("kind", CHANGES)
def test_a_false_statement_costs_accuracy_on_every_post(kind):
    for i, post in enumerate(posts(0, "valid", 200)):
        story = story_of(post)
        for fact in story.facts:
            true = judge(post, plainly([fact], story.question))
            if false := falsify(story, fact, kind, np.random.default_rng(i)):
                said = judge(post, plainly([false], story.question))
                assert true.accuracy == 7 and said.accuracy < 5 and said.overall < true.overall


def test_synonyms_and_order_are_free_where_no_word_is_added():
    for i, post in enumerate(posts(0, "valid", 200)):
        story = story_of(post)
        facts = [story.facts[k] for k in story.ranked[:2]]
        plain, rng = judge(post, plainly(facts, story.question)), np.random.default_rng(i)
        writer = Writer(rng, pronouns=0.5)
        said = judge(
            post, " ".join([*writer.sentences(facts[::-1], linked=0.0), writer.question(story.question)])
        )
        assert said[:3] == pytest.approx(plain[:3]) and said.overall <= plain.overall + 1e-9
    assert overall("should i sue leo? at work leo mugged mia so she fled.") == overall(BEST)
    passive = "at work mia was robbed by leo."
    assert overall(passive) == overall("at work leo robbed mia.")  # while words are free


@given(st.data())
@settings(deadline=None)
def test_case_and_spaces_do_not_matter(data):
    text = data.draw(
        st.sampled_from([BEST, "leo robbed mia. just kidding", "ben hit him, lol. is it ok to sue mia?"])
    )
    spaces = st.text(" \t\n", min_size=1, max_size=3)
    words = [data.draw(st.sampled_from([word, word.upper(), word.title()])) for word in text.split()]
    spaced = "".join(data.draw(spaces) + word for word in words) + data.draw(spaces)
    assert judge(POST, spaced) == judge(POST, text)


@settings(deadline=None)
@given(st.text(), st.sampled_from([POST, Post("3", "pics", "", "自由 🙂", "")]))
def test_any_string_gets_a_score(text, post):
    assert all(1 <= score <= 7 for score in judge(post, text))
    assert all(1 <= score <= 7 for score in judge(Post("4", "pics", "", text, ""), text))


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.sampled_from([*BODY.split(), *BEST.split(), BEST, "at", ".", "?", "lol", "not", "never"]),
        max_size=25,
    )
)
def test_no_arrangement_of_the_posts_words_beats_the_ideal(words):
    assert overall(" ".join(words)) <= overall(BEST)


def test_denials_are_read():
    for text in (
        f"not {BEST}",
        f"it is not true that {BEST}",
        f"i lied that {BEST}",
        f"{BEST} none of this is true.",
    ):
        scores = judge(POST, text)
        assert scores.accuracy < 3.2 and scores.overall == 1, text
    assert (
        judge(POST, "leo never robbed mia. never should i sue leo?").accuracy < 3.2
    )  # and is not true again
    assert judge(POST, "ben hired mia.").accuracy == judge(POST, "leo never robbed mia.").accuracy < 3.2
    assert story_of(POST).question == Question("sue", "leo")

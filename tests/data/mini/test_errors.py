import pytest

from rlhf_jax.data.mini import posts as mini
from rlhf_jax.data.mini.errors import KINDS, errors
from rlhf_jax.data.mini.judge import ideal
from rlhf_jax.data.records import Post

TEXT = (
    "adam hit ben at work on friday so ben fled. maybe cora mocked dora. ben never hugged cora. "
    "dora praised adam. should i trust dora?"
)
STORY = Post("1", "drama", "", TEXT)


@pytest.mark.parametrize(
    ("summary", "kinds"),
    [
        ("adam hit ben at work on friday so ben fled. should i trust dora?", ""),
        ("adam punched ben. maybe cora mocked dora. ben never hugged cora.", ""),
        ("cora hit ben.", "subject"),
        ("adam hit cora.", "object"),
        ("ben hit adam.", "roles"),
        ("adam robbed ben.", "deed"),
        ("dora robbed ben.", "fact"),
        ("adam hit ben at school.", "place"),
        ("dora praised adam at school.", "place"),
        ("adam hit ben on monday.", "day"),
        ("adam hit ben so ben wept.", "effect"),
        ("adam hit ben so adam fled.", "effect"),
        ("adam never hit ben.", "denied"),
        ("ben hugged cora.", "denied"),
        ("it is not true that adam hit ben.", "unclear"),
        ("cora mocked dora.", "too_sure"),
        ("people say adam hit ben.", "hedged"),
        ("adam hit ben. should i sue dora?", "question"),
        ("adam hit ben. do i trust adam?", "question"),
        ("adam hit ben and adam hit ben.", "repeated"),
        ("should i trust dora? should i trust dora?", "repeated"),
        ("adam hit ben with a spoon.", "unclear"),
        ("adam hit ben", "unfinished"),
        ("", "nothing unfinished"),
        ("so much drama.", "nothing unclear"),
        ("cora hit ben at school on monday.", "subject"),
        (
            "ben hit adam. adam hit ben at home on friday so adam fled. should i sue adam?",
            "roles place effect question",
        ),
    ],
)
def test_kinds_of_error_by_hand(summary, kinds):
    assert errors(STORY, summary) == frozenset(kinds.split())


def test_of_two_facts_that_are_equally_near_the_one_with_the_same_details_counts():
    """Dora helped ben on friday: another doer of adam's deed on friday, another deed than dora's at home."""
    text = "adam helped ben on friday. dora fired ben at home. should i trust dora?"
    story = Post("1", "drama", "", text)
    assert errors(story, "dora helped ben on friday.") == {"subject"}
    assert errors(story, "dora helped ben at home.") == {"deed"}


def test_every_kind_is_known_and_the_ideal_makes_none():
    found = {kind for post in mini.posts(0, "test", 300) for kind in errors(post, post.summary)}
    assert {"subject", "object", "roles", "deed", "denied"} < found < KINDS.keys()
    assert not any(errors(post, ideal(post)) for post in mini.posts(0, "valid", 5))

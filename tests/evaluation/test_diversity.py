from dataclasses import dataclass

import pytest

from rlhf_jax.config import DataConfig
from rlhf_jax.data.records import Post
from rlhf_jax.data.tasks.tldr import Tldr
from rlhf_jax.evaluation.diversity import diversity

POSTS = [Post(str(i), "pets", "", "") for i in range(5)]


@dataclass(frozen=True)
class Letters(Tldr):
    """What a response says are its letters, in whichever order; its form is how many there are."""

    def claims(self, response):
        return frozenset(response)

    def form(self, response):
        return "x" * len(response)


def test_by_hand():
    """Three texts, of two forms; of the ideals two are met to the letter, one more says the same."""
    found = diversity(
        Letters(DataConfig()), POSTS, ["ab", "ba", "ab ", "c", "ab"], ["ab", "ab", "ab", "d", "cd"]
    )
    assert found == {
        "distinct": 3,
        "distinct_share": pytest.approx(3 / 5),
        "forms": 2,
        "commonest_form": pytest.approx(4 / 5),
        "ideal": pytest.approx(2 / 5),
        "ideal_claims": pytest.approx(3 / 5),
    }


def test_records_without_an_ideal_do_not_count():
    found = diversity(Letters(DataConfig()), POSTS[:3], ["ab", "c", "d"], ["ab", None, "c"])
    assert found["ideal"] == 0.5


def test_of_real_texts_only_different_ones_are_counted():
    found = diversity(Tldr(DataConfig()), POSTS[:2], ["one text", "one  text"], [None, None])
    assert found == {"distinct": 1, "distinct_share": 0.5}

from dataclasses import dataclass

import pytest

from rlhf_jax.config import DataConfig
from rlhf_jax.data.records import Post
from rlhf_jax.data.tasks.tldr import Tldr
from rlhf_jax.evaluation.errors import error_shares

POSTS = [Post(str(i), "pets", "", "cat") for i in range(4)]


@dataclass(frozen=True)
class Strict(Tldr):
    def errors(self, record, response):
        return {"empty": not response, "loud": response.isupper(), "other": record.text not in response}


def test_shares_by_hand():
    found = error_shares(Strict(DataConfig()), POSTS, ["cat", "CAT", "", "a cat"])
    assert found == {"any": pytest.approx(0.5), "empty": 0.25, "loud": 0.25, "other": 0.5}


def test_nothing_is_said_where_the_task_cannot_tell():
    assert error_shares(Tldr(DataConfig()), POSTS, ["cat"] * 4) == {}

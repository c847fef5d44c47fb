"""Pairs of summaries of the miniature for its labelers, made without a policy."""

from dataclasses import replace
from functools import cache

import numpy as np

from rlhf_jax.data.mini.editor import revised
from rlhf_jax.data.mini.judge import ideal
from rlhf_jax.data.mini.posts import posts
from rlhf_jax.data.records import Comparison, Summary


@cache
def pairs(split: str, of_posts: int) -> tuple[Comparison, ...]:
    """Each post's reference beside the same revised and beside an ideal, whichever comes first."""
    made, named = [], {"valid": "valid1"}.get(split, split)
    for i, post in enumerate(posts(0, split, of_posts)):
        rng = np.random.default_rng(i)
        for text, policy in ((revised(post, post.summary, rng), "editor"), (ideal(post), "ideal")):
            if text != post.summary:
                both = Summary(post.summary, "ref"), Summary(text, policy)
                ordered = both if rng.random() < 0.5 else both[::-1]
                made.append(Comparison(replace(post, summary=""), ordered, 0, "", "mini", named))
    return tuple(made)

"""The paper's filters on TL;DR posts, one named step each, counted.

The heuristics against sensitive topics and profanity are ours: the paper does not print its
lists. Tokens are counted by the tokenizer given, where the paper counts GPT-2's.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from rlhf_jax.data.records import Record
from rlhf_jax.data.tokenizer import Tokenizer

SUBREDDITS = frozenset(
    """relationships AskReddit relationship_advice tifu dating_advice personalfinance Advice legaladvice
    offmychest loseit jobs self BreakUps askwomenadvice dogs running pettyrevenge needadvice travel Parenting
    weddingplanning Pets Dogtraining cats AskDocs college GetMotivated books Cooking""".split()
)
POST_TOKENS = 512
SUMMARY_TOKENS = range(24, 48 + 1)

_UPDATE = r"\W*(edit|update)(s|ed|d)?(?![a-z])"  # EDIT2 too
UPDATE = re.compile(_UPDATE, re.IGNORECASE)
UPDATE_OR_POSTSCRIPT = re.compile(_UPDATE + r"|\W*(p\.?\s?)+s\b", re.IGNORECASE)
SENSITIVE = re.compile(
    r"\b(suicid|self.?harm|rape[ds]?\b|rapist|raping|molest|incest|p(a?)edophil|sexual(ly)? (abus|assault))"
    r"|\bkill(ing|ed)? (myself|himself|herself|themsel)",
    re.IGNORECASE,
)
PROFANITY = re.compile(
    r"\b(\w*fuck\w*|\w*shit\w*|bitch\w*|cunts?|assholes?|dickheads?|bastards?|whores?|sluts?|fag(got)?s?)\b",
    re.IGNORECASE,
)


class Step(NamedTuple):
    """What one filter did to the posts."""

    name: str
    removed: int
    left: int


def filter_posts(
    posts: Sequence[Record], tokenizer: Tokenizer, summaries: bool = True
) -> tuple[list[Record], list[Step]]:
    """The posts that pass every filter, in order, and the table of the steps.

    Without `summaries`, posts are judged apart from them: the paper's queries for PPO.
    """
    left, steps = list(posts), []
    filters = [*_filters_of_posts(tokenizer), *(_filters_of_summaries(tokenizer) if summaries else ())]
    for name, passes in filters:
        before = len(left)
        left = [post for post in left if passes(post)]
        steps.append(Step(name, before - len(left), len(left)))
    return left, steps


def format_table(steps: Sequence[Step]) -> str:
    """The steps as text with a line each: step, removed, left."""
    lines = [("step", "removed", "left"), *((s.name, f"{s.removed:,}", f"{s.left:,}") for s in steps)]
    width = max(len(name) for name, _, _ in lines)
    return "\n".join(f"{name:{width}}  {removed:>9}  {left:>9}" for name, removed, left in lines)


def _filters_of_posts(tokenizer: Tokenizer) -> Iterator[tuple[str, Callable[[Record], bool]]]:
    seen: set[str] = set()

    def is_new(post: Record) -> bool:
        known = len(seen)
        seen.update((post.id, post.text))
        return len(seen) == known + 2

    yield "duplicates", is_new
    yield "subreddits not on the list", lambda post: post.place.removeprefix("r/") in SUBREDDITS
    yield "titles of updates", lambda post: not UPDATE.match(post.title)
    yield "sensitive topics", lambda post: not SENSITIVE.search(f"{post.title}\n{post.text}")
    yield f"posts over {POST_TOKENS} tokens", lambda post: len(tokenizer.encode(post.text)) <= POST_TOKENS


def _filters_of_summaries(tokenizer: Tokenizer) -> Iterator[tuple[str, Callable[[Record], bool]]]:
    yield "sensitive topics in summaries", lambda post: not SENSITIVE.search(post.reference)
    yield (
        f"summaries not of {SUMMARY_TOKENS[0]} to {SUMMARY_TOKENS[-1]} tokens",
        lambda post: len(tokenizer.encode(post.reference.lstrip(" "))) in SUMMARY_TOKENS,
    )
    yield "summaries that are updates", lambda post: not UPDATE_OR_POSTSCRIPT.match(post.reference)
    yield "summaries with profanity", lambda post: not PROFANITY.search(post.reference)

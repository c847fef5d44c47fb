"""Gates of a base model of the miniature: does it tell what a post says from what it does not?

A statement stands under an unseen post, and the base says whether it is true or false, as comments in its
pretraining do. For every kind of change (data/mini/world.CHANGES, and the question) it is asked about true
statements and about the same with one thing of that kind changed. It passes where it is right on `PASS` of
each kind: an average over kinds would hide one that it cannot read. The figures stand in `gates.json`, in the
folder of each base.
"""

from collections.abc import Iterator, Mapping
from itertools import islice

import jax
import numpy as np
from jaxtyping import Float

from rlhf_jax.config import ModelConfig
from rlhf_jax.data.mini.documents import KINDS, claims_of, commented
from rlhf_jax.data.mini.posts import write_post
from rlhf_jax.data.mini.wording import Writer
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.model import passes, transformer

PASS = 0.95
TRUE, FALSE = " true.", " false."
AT_ONCE = 128

Gates = dict[str, dict[str, float]]  # kind → accuracy, auc, pairs


def measure(weights, model: ModelConfig, tokenizer: Tokenizer, pairs: int, seed: int = 0) -> Gates:
    """Of each kind: `accuracy`, the mean share of true and of changed statements called so; and `auc`, how
    often a changed statement is called false with more probability than a true one. Needs a mesh set."""
    texts: list[str] = []
    for i, kind in enumerate(KINDS):
        for pair in islice(statements(kind, np.random.default_rng([seed, i])), pairs):
            texts += pair
    leans = leanings(weights, model, tokenizer, texts).reshape(len(KINDS), pairs, 2)
    return {
        kind: {**told_apart(*of_kind.T), "pairs": pairs} for kind, of_kind in zip(KINDS, leans, strict=True)
    }


def leanings(weights, model: ModelConfig, tokenizer: Tokenizer, texts: list[str]) -> Float[np.ndarray, " N"]:
    """By how many nats each text is rather called false than true."""
    verdicts = [tokenizer.encode(verdict)[0] for verdict in (TRUE, FALSE)]
    ids = [tokenizer.encode(text) for text in texts]
    last = np.array([len(one) - 1 for one in ids])
    tokens = np.full((len(ids), last.max() + 1), tokenizer.pad_id, np.int32)
    for row, one in zip(tokens, ids, strict=True):
        row[: len(one)] = one

    @jax.jit
    def logits(tokens, last):
        segments = transformer.valid_segments(tokens, tokenizer.pad_id)
        hidden = passes.apply_at(weights, model, tokens, segments, last[:, None])
        return transformer.logits(weights, model, hidden)[:, 0]

    whole = (
        -(-len(ids) // AT_ONCE) * AT_ONCE
    )  # one shape to compile: the last texts are followed by the first
    parts = np.resize(tokens, (whole, tokens.shape[1])), np.resize(last, whole)
    found = [np.asarray(logits(*(x[i : i + AT_ONCE] for x in parts))) for i in range(0, whole, AT_ONCE)]
    true, false = np.concatenate(found)[: len(ids), verdicts].T
    return false - true


def statements(kind: str, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    """Posts of the valid split, under each of which stands a true statement, or the same changed."""
    while True:
        post, story = write_post(rng, "valid", "")
        if claims := claims_of(story, Writer(rng, pronouns=0.0), kind):
            true, false = (f"{commented(post)} {claim}" for claim in claims)
            yield true, false


def told_apart(true: np.ndarray, false: np.ndarray) -> dict[str, float]:
    """`true` and `false` [N] say by how much a true and a changed statement is rather called false."""
    accuracy = (np.mean(true < 0) + np.mean(false > 0)) / 2
    above = np.mean((np.sign(false[:, None] - true[None]) + 1) / 2)
    return {"accuracy": float(accuracy), "auc": float(above)}


def failed(gates: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The kinds of which too many statements were judged wrongly."""
    return [kind for kind, found in gates.items() if found["accuracy"] < PASS]

"""What a base's layers are taught on their way to the next token.

A small model finds out by itself neither that "mia was mugged by dan" says what "dan robbed mia" says, nor
how to compare two statements: with next tokens alone it guesses for millions of tokens. So its layers are
supervised on the way (deep supervision, Lee et al. 2015), by what linear readings of their output tell:

- after half of them: the next token, and at the end of a clause what it says, slot by slot;
- after three quarters: at the end of a statement, what the story says of it;
- after all: the next token, and at the end of a statement in which slots it and the story differ.

The readings are thrown away when the base is written. None of them knows how good a summary is.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.config import ModelConfig
from rlhf_jax.data.mini.clauses import MAY_BE_LEFT_OUT, NO_SLOT, SLOTS
from rlhf_jax.functional.losses import cross_entropy
from rlhf_jax.model import attention, likelihood, transformer
from rlhf_jax.model.params import ParamSpec, constant

VALUES = [len(values) for values in SLOTS.values()]
CAN_BE_UNSAID = np.array([name in MAY_BE_LEFT_OUT for name in SLOTS])


def reading_specs(width: int):
    """Linear readings of hidden states: what a clause says, what the story does, which slots agree."""
    sizes = {"says": sum(VALUES), "found": sum(VALUES), "differs": len(VALUES)}
    return {
        name: {
            "kernel": ParamSpec((width, size), P("fsdp", None), constant(0.0)),
            "bias": ParamSpec((size,), P(None), constant(0.0)),
        }
        for name, size in sizes.items()
    }


def counts(batch) -> dict[str, Array]:
    """What the terms of the loss are means over: those of a whole batch, of which a part may be computed."""
    says, found = batch["says"][:, :-1], batch["found"][:, :-1]
    agree, differ = compared(says, found)
    return {
        "weight": jnp.sum(batch["weights"]),
        "learnable": jnp.sum(batch["weights"] == 1.0),
        "says": _at_least_one(says != NO_SLOT),
        "found": _at_least_one(found != NO_SLOT),
        "agree": _at_least_one(agree),
        "differ": _at_least_one(differ),
    }


def loss(base, readings, model: ModelConfig, batch, of: dict[str, Array]):
    """The sum of all that is taught, of a batch or a part of it; `of` are the `counts` of the whole.

    Metrics: the cross-entropy of the text that can be learned (weight 1), nats a token.
    """
    tokens, segments, weight = batch["tokens"], batch["segments"][:, :-1], batch["weights"][:, 1:]
    says, found = batch["says"][:, :-1], batch["found"][:, :-1]
    _, half, late, last = hidden_states(base, model, tokens[:, :-1], segments, parts=4)
    lower, all_ = (likelihood.token_logprobs(base, model, x, tokens[:, 1:])[0] for x in (half, last))
    value = -jnp.sum((lower + all_) * weight) / of["weight"]
    value += slots_loss(_read(readings["says"], half), says, of["says"])
    value += slots_loss(_read(readings["found"], late), found, of["found"])
    agree, differ = compared(says, found)
    value += differences_loss(_read(readings["differs"], last), agree, differ, of)
    return value, cross_entropy(all_, weight == 1.0, of["learnable"])


def hidden_states(
    base, model: ModelConfig, tokens: Int[Array, "B T"], segments: Int[Array, "B T"], parts: int
) -> list[Float[Array, "B T D"]]:
    """After each of `parts` runs of layers, each after the last norm; the last is `transformer.apply`."""
    model = dataclasses.replace(model, layer_loop="unroll")
    weights, positions = transformer.prepare(base, model), attention.positions_of(segments)
    x, hidden = transformer.embed(weights["embed"], tokens, positions, model), []
    for i, w in enumerate(weights["layers"].single, start=1):
        x, _ = transformer.layer(w, x, model, model.kinds[0], positions, _attention(model, segments))
        if i % (model.layers // parts) == 0:
            hidden.append(transformer.norm(weights["norm"], x, model))
    return hidden


def _attention(model: ModelConfig, segments: Int[Array, "B T"]):
    def attend(query, key, value):
        heads = attention.causal_attention(
            query, key, value, segments=segments, implementation=model.attention, kind=model.kinds[0]
        )
        return heads, None

    return attend


def slots_loss(
    logits: Float[Array, "B T V"], values: Int[Array, "B T S"], count: Float[Array, " S"]
) -> Float[Array, ""]:
    """Cross-entropy of the slots' values where there are any, the mean over each slot and over the slots."""
    total, start = jnp.float32(0), 0
    for slot, size in enumerate(VALUES):
        logp = jax.nn.log_softmax(logits[..., start : start + size])
        value = values[..., slot].astype(jnp.int32)
        picked = jnp.take_along_axis(logp, jnp.maximum(value, 0)[..., None], axis=-1)[..., 0]
        total -= jnp.sum(jnp.where(value == NO_SLOT, 0.0, picked)) / count[slot]
        start += size
    return total / len(VALUES)


def compared(
    says: Int[Array, "B T S"], found: Int[Array, "B T S"]
) -> tuple[Bool[Array, "B T S"], Bool[Array, "B T S"]]:
    """In which slots what is said and what the story says agree, and in which they differ; what a statement
    leaves out does neither."""
    told = (says != NO_SLOT) & (found != NO_SLOT) & ~((says == 0) & CAN_BE_UNSAID)
    return told & (says == found), told & (says != found)


def differences_loss(logits, agree, differ, of) -> Float[Array, ""]:
    """Cross-entropy of a difference in each slot; slots that differ weigh as much as those that agree."""
    wrong = jnp.where(differ, jax.nn.softplus(-logits), 0.0) / of["differ"]
    right = jnp.where(agree, jax.nn.softplus(logits), 0.0) / of["agree"]
    return jnp.sum(wrong + right) / (2 * len(VALUES))


def _read(reading, hidden: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
    return jnp.einsum("btd,dv->btv", hidden, reading["kernel"]) + reading["bias"]


def _at_least_one(where: Bool[Array, "B T S"]) -> Float[Array, " S"]:
    """How many there are of each slot, for a denominator."""
    return jnp.maximum(jnp.sum(where, axis=(0, 1)), 1)

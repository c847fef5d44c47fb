"""Pretrains a base model of the miniature on generated documents: the step that the paper takes from GPT-3.

    rlhf-jax pretrain --size=small --out=rlhf_jax/data/mini/base/small

Weighted next-token prediction on a course of documents (data/mini/documents.py), each of which is new, so there
are no epochs. At the end the base is led through its gates (gates.py), whose figures stand beside its weights;
the command fails where one is not passed. All sizes of the ladder see the same documents. On two cores two
sizes train side by side faster than one by one: begin each with `taskset -c 0`, or 1.

--out=FOLDER           of the base checkpoint; started again, it resumes
--size=small           of the ladder: tiny, small, medium or large, each three to four times the one before
--tokens=8000000       to train on, as many for each size
--learning_rate=RATE   at its peak; without it, that of the size
--tokenizer=FILE       a tokenizer.model to share; without it, one is trained on the documents
--seed=0               of weights and documents
--save_every=500       updates
"""

import math
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from rlhf_jax import inference
from rlhf_jax.command_line import command, parse_flags
from rlhf_jax.config import Config, HealthConfig, ModelConfig, OptimizerConfig, SftConfig
from rlhf_jax.data.mini.documents import Spans, documents
from rlhf_jax.data.tasks.tldr import Tldr
from rlhf_jax.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from rlhf_jax.files import write_json
from rlhf_jax.functional.losses import cross_entropy
from rlhf_jax.mesh import make_mesh, to_devices
from rlhf_jax.model import likelihood, params, pretrained, transformer
from rlhf_jax.pipeline import gates
from rlhf_jax.training.loop import Training
from rlhf_jax.training.state import TrainState, starting, update, value_and_grad_in_parts


class Size(NamedTuple):
    """A step of the ladder, all of four layers: a narrow network of few layers cannot compare what it reads."""

    width: int
    heads: int
    learning_rate: float


SIZES = {
    "tiny": Size(36, 2, 6e-3),
    "small": Size(72, 3, 4e-3),
    "medium": Size(136, 4, 3e-3),
    "large": Size(248, 4, 2e-3),
}
LAYERS = 4
ROWS = 16  # of an update
ROW_TOKENS = 128  # of a packed row; a document is cut there
ROW_FILLED = 0.85  # of a packed row, on average
OPEN_ROWS = 8  # that wait for documents that fit
DOCUMENTS = 4 * ROWS  # set apart for an update, more than it can hold
ON_THE_WAY = 100  # pairs of each kind at the gates, whenever a checkpoint is saved
VOCABULARY = 768
MICROBATCH_ROWS = 4  # computed at once; what fits a CPU's cache


class GateError(ValueError):
    """A base that cannot tell what a post says from what it does not."""


def main(argv: list[str]) -> int:
    return command(argv, lambda: train(_parse(argv)))


def _parse(argv: list[str]) -> flags.FlagValues:
    options = flags.FlagValues()
    flags.DEFINE_string("out", None, "folder of the base checkpoint", required=True, flag_values=options)
    flags.DEFINE_enum("size", "small", list(SIZES), "of the ladder", flag_values=options)
    flags.DEFINE_integer("tokens", 8_000_000, "to train on", 1, flag_values=options)
    flags.DEFINE_float("learning_rate", None, "peak", 0.0, flag_values=options)
    flags.DEFINE_string("tokenizer", "", "one to share; empty: train one", flag_values=options)
    flags.DEFINE_integer("seed", 0, "of weights and documents", 0, flag_values=options)
    flags.DEFINE_integer("save_every", 500, "updates", 1, flag_values=options)
    parse_flags(argv, options)
    return options


def model_of(size: Size) -> ModelConfig:
    return ModelConfig(
        width=size.width,
        layers=LAYERS,
        heads=size.heads,
        positions="rotary",
        context=ROW_TOKENS,
        init_std=size.width**-0.5,
    )


def encode(spans: Spans, tokenizer: Tokenizer) -> tuple[list[int], list[float]]:
    """Token ids and weights of a document, EOS included."""
    tokens, weights = [], []
    for text, weight in spans:
        ids = tokenizer.encode(text)
        tokens += ids
        weights += [weight] * len(ids)
    return [*tokens, tokenizer.eos_id][:ROW_TOKENS], [*weights, weights[-1]][:ROW_TOKENS]


def packed_rows(
    encoded: Iterable[tuple[list[int], list[float]]], pad_id: int
) -> Iterator[dict[str, np.ndarray]]:
    """Rows of whole documents: each goes into the first open row that it fits into, and the fullest is closed."""
    open_rows: list[dict[str, list]] = []
    for tokens, weights in encoded:
        row = next((one for one in open_rows if len(one["tokens"]) + len(tokens) <= ROW_TOKENS), None)
        if row is None:
            if len(open_rows) == OPEN_ROWS:
                fullest = max(open_rows, key=lambda one: len(one["tokens"]))
                open_rows.remove(fullest)
                yield _closed(fullest, pad_id)
            row = {"tokens": [], "segments": [], "weights": []}
            open_rows.append(row)
        row["segments"] += [max(row["segments"], default=0) + 1] * len(tokens)
        row["tokens"] += tokens
        row["weights"] += [0.0, *weights[1:]]  # nothing predicts a document's first token


def _closed(row: dict[str, list], pad_id: int) -> dict[str, np.ndarray]:
    padding = ROW_TOKENS - len(row["tokens"])
    return {
        "tokens": np.array(row["tokens"] + [pad_id] * padding, np.int32),
        "segments": np.array(row["segments"] + [0] * padding, np.int32),
        "weights": np.array(row["weights"] + [0.0] * padding, np.float32),
    }


def loss(weights, model: ModelConfig, batch, total_weight, learnable_tokens):
    """Weighted mean cross-entropy, and the plain one of the learnable text (weight 1).

    The totals are those of the whole batch, of which `batch` may be a part.
    """
    hidden = transformer.apply(weights, model, batch["tokens"][:, :-1], batch["segments"][:, :-1])
    logp, _ = likelihood.token_logprobs(weights, model, hidden, batch["tokens"][:, 1:])
    weight = batch["weights"][:, 1:]
    weighted = -jnp.sum(logp * weight) / total_weight
    return weighted, {"loss": weighted, "learnable": cross_entropy(logp, weight == 1.0, learnable_tokens)}


def train(options: flags.FlagValues) -> None:
    """Writes the base checkpoint that the options describe, a folder as of Hugging Face, and its gates.

    Raises GateError where one is not passed, when all is written.
    """
    out, seed, size = Path(options.out), options.seed, SIZES[options.size]
    model = model_of(size)
    steps = math.ceil(options.tokens / (ROWS * ROW_TOKENS * ROW_FILLED))
    rate = options.learning_rate or size.learning_rate
    total = steps * DOCUMENTS
    if options.tokenizer:
        tokenizer = load_tokenizer(options.tokenizer)
    else:
        texts = ["".join(text for text, _ in spans) for spans in documents(seed, 0, 5_000, 5_000)]
        tokenizer = train_tokenizer(texts, VOCABULARY, Tldr.pieces)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(out)
    mesh = make_mesh()
    optimizer = OptimizerConfig(learning_rate=rate, warmup=100, clip_norm=1.0, beta2=0.95)
    with jax.set_mesh(mesh):
        specs = transformer.specs(model, tokenizer.vocab_size)
        create = starting(optimizer, steps, HealthConfig())
        state = jax.jit(lambda: create(params.init(specs, jax.random.key(seed))))()
        about, shown = inference.describe(model), ("loss", "learnable")
        kept = SftConfig(save_every=options.save_every)
        training = Training(Config(), out, "pretrain", kept, steps, shown, about)
        state = training.resume(state)

        @jax.jit
        def step(state: TrainState, batch):
            totals = jnp.sum(batch["weights"]), jnp.sum(batch["weights"] == 1.0)
            (value, metrics), gradients = value_and_grad_in_parts(
                lambda weights, part: loss(weights, model, part, *totals),
                state.params,
                batch,
                ROWS // MICROBATCH_ROWS,
            )
            state, told = update(state, value, gradients)
            return state, metrics | told

        with training:
            for i in training.steps(state):
                drawn = documents(seed, i * DOCUMENTS, (i + 1) * DOCUMENTS, total)
                packed = packed_rows((encode(d, tokenizer) for d in drawn), tokenizer.pad_id)
                rows = list(islice(packed, ROWS))
                batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
                state, metrics = step(state, to_devices(batch, mesh))
                training.after(state, metrics, rows=ROWS, tokens=np.count_nonzero(batch["segments"]))
                if (i + 1) % options.save_every == 0:
                    print(f"\n{i + 1}: {told(gates.measure(state.params, model, tokenizer, ON_THE_WAY))}")
        pretrained.save(out, state.params, model, "bfloat16", {"eos_token_id": tokenizer.eos_id})
        kinds = gates.measure(state.params, model, tokenizer)
    about = {"tokens": options.tokens, "parameters": params.count(specs), "learning_rate": rate}
    write_json(out / "gates.json", about | {"kinds": kinds})
    print(f"{out}: {told(kinds)}")
    if failed := gates.failed(kinds):
        raise GateError(
            f"{out}: right on fewer than {gates.PASS:.0%} of the statements of kind {', '.join(failed)}; "
            "--tokens says for how long it is trained"
        )


def told(kinds: gates.Gates) -> str:
    """How many of the statements of each kind were judged rightly."""
    return ", ".join(f"{kind} {found['accuracy']:.1%}" for kind, found in kinds.items())

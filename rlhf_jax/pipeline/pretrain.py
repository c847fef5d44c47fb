"""Pretrains a base model of the miniature on generated posts: the step that the paper takes from GPT-3.

    rlhf-jax pretrain --out=bases/small --tokenizer=rlhf_jax/data/mini/base/small --steps=14000
    rlhf-jax pretrain --out=bases/large --tokenizer=rlhf_jax/data/mini/base/small \\
        --width=220 --layers=5 --heads=5 --steps=1800 --learning_rate=1e-3

Weighted next-token prediction on `data/mini/documents.py`. Every document is new, so there are no
epochs. These commands gave the two models in `data/mini/base/`: 115 minutes on one core, and 1.3 s an
update on two. Another processor adds numbers in another order and gives models that differ a little.
The tokenizer is older: it was trained on an earlier mixture of the same documents.

--out=FOLDER           of the base checkpoint; started again, it resumes
--tokenizer=FILE       a tokenizer.model to share; without it, one is trained on the documents
--width=72             of the model; --layers=4; --heads=3
--steps=14000          updates of --rows=48 packed rows each
--learning_rate=0.002  at its peak
--seed=0               of weights and documents
--save_every=500       updates
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

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
from rlhf_jax.functional.losses import cross_entropy
from rlhf_jax.mesh import make_mesh, to_devices
from rlhf_jax.model import likelihood, params, pretrained, transformer
from rlhf_jax.training.loop import Training
from rlhf_jax.training.state import TrainState, starting, update, value_and_grad_in_parts

ROW_TOKENS = 144  # of a packed row; a document is cut there
VOCABULARY = 768
MICROBATCH_ROWS = 8  # computed at once; what fits a CPU's cache


def main(argv: list[str]) -> int:
    return command(argv, lambda: train(_parse(argv)))


def _parse(argv: list[str]) -> flags.FlagValues:
    options = flags.FlagValues()
    flags.DEFINE_string("out", None, "folder of the base checkpoint", required=True, flag_values=options)
    flags.DEFINE_string("tokenizer", "", "one to share; empty: train one", flag_values=options)
    flags.DEFINE_float("learning_rate", 2e-3, "peak", 0.0, flag_values=options)
    for name, default, least in (
        ("width", 72, 1),
        ("layers", 4, 1),
        ("heads", 3, 1),
        ("steps", 14_000, 1),
        ("rows", 48, MICROBATCH_ROWS),
        ("seed", 0, 0),
        ("save_every", 500, 1),
    ):
        flags.DEFINE_integer(name, default, "see above", least, flag_values=options)
    parse_flags(argv, options)
    if options.width % options.heads:
        raise flags.Error(f"--heads: {options.heads} heads do not divide --width={options.width}")
    if options.rows % MICROBATCH_ROWS:
        raise flags.Error(f"--rows: {options.rows} should be a multiple of {MICROBATCH_ROWS}")
    return options


def encode(spans: Spans, tokenizer: Tokenizer) -> tuple[list[int], list[float]]:
    """Token ids and weights of a document, EOS included."""
    tokens, weights = [], []
    for text, weight in spans:
        ids = tokenizer.encode(text)
        tokens += ids
        weights += [weight] * len(ids)
    return [*tokens, tokenizer.eos_id][:ROW_TOKENS], [*weights, weights[-1]][:ROW_TOKENS]


def packed_rows(
    encoded: Iterator[tuple[list[int], list[float]]], pad_id: int
) -> Iterator[dict[str, np.ndarray]]:
    """Rows of whole documents, in order, each filled until the next does not fit; never one half-filled."""
    used, count = ROW_TOKENS + 1, 0
    row: dict[str, np.ndarray] = {}
    for tokens, weights in encoded:
        if used + len(tokens) > ROW_TOKENS:
            if row:
                yield row
            row = {
                "tokens": np.full(ROW_TOKENS, pad_id, np.int32),
                "segments": np.zeros(ROW_TOKENS, np.int32),
                "weights": np.zeros(ROW_TOKENS, np.float32),
            }
            used, count = 0, 0
        count += 1
        place = slice(used, used + len(tokens))
        row["tokens"][place], row["segments"][place] = tokens, count
        row["weights"][place] = [0.0, *weights[1:]]  # nothing predicts a document's first token
        used += len(tokens)


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
    """Writes the base checkpoint that the options describe, a folder as of Hugging Face."""
    out, seed = Path(options.out), options.seed
    model = ModelConfig(
        width=options.width,
        layers=options.layers,
        heads=options.heads,
        positions="rotary",
        context=ROW_TOKENS,
    )
    if options.tokenizer:
        tokenizer = load_tokenizer(options.tokenizer)
    else:
        texts = ["".join(text for text, _ in spans) for spans in documents(seed, 5_000)]
        tokenizer = train_tokenizer(texts, VOCABULARY, Tldr.pieces)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(out)
    mesh = make_mesh()
    optimizer = OptimizerConfig(learning_rate=options.learning_rate, warmup=200, clip_norm=1.0, beta2=0.98)
    with jax.set_mesh(mesh):
        specs = transformer.specs(model, tokenizer.vocab_size)
        create = starting(optimizer, options.steps, HealthConfig())
        state = jax.jit(lambda: create(params.init(specs, jax.random.key(seed))))()
        about, shown = inference.describe(model), ("loss", "learnable")
        kept = SftConfig(save_every=options.save_every)
        training = Training(Config(), out, "pretrain", kept, options.steps, shown, about)
        state = training.resume(state)

        @jax.jit
        def step(state: TrainState, batch):
            totals = jnp.sum(batch["weights"]), jnp.sum(batch["weights"] == 1.0)
            (value, metrics), gradients = value_and_grad_in_parts(
                lambda weights, part: loss(weights, model, part, *totals),
                state.params,
                batch,
                options.rows // MICROBATCH_ROWS,
            )
            state, told = update(state, value, gradients)
            return state, metrics | told

        per_update = options.rows * 8  # documents set apart for an update, more than it can hold
        with training:
            for i in training.steps(state):
                drawn = documents(seed, per_update, i * per_update)
                packed = packed_rows((encode(d, tokenizer) for d in drawn), tokenizer.pad_id)
                rows = list(islice(packed, options.rows))
                batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
                state, metrics = step(state, to_devices(batch, mesh))
                training.after(state, metrics, rows=options.rows, tokens=np.count_nonzero(batch["segments"]))
        pretrained.save(out, state.params, model, "bfloat16", {"eos_token_id": tokenizer.eos_id})

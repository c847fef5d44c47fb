"""Pretrains the miniature's base models on generated documents: the step that the paper takes from GPT-3.

    rlhf-jax pretrain --out=runs/base

Weighted next-token prediction on a course of documents (data/mini/documents.py), each of which is new, so
there are no epochs; what else the layers are taught stands in teaching.py. All sizes of the ladder train at
once, on the same documents. At the end each is led through its gates (gates.py), whose figures stand beside
its weights; the command fails where one is not passed.

--out=FOLDER           in which each size gets a base checkpoint, OUT/SIZE; started again, it resumes
--sizes=tiny,small,medium,large   of the ladder, each about three times the one before
--tokens=40000000      to train on
--tokenizer=FILE       a tokenizer.model to share; without it, one is trained on the documents
--seed=0               of weights and documents
--workers=1            processes that make the documents
--save_every=500       updates; the bases are written then as they are, and what they would pass is printed
--pairs=500            of a true and a changed statement, of each kind, at the gates
"""

import contextlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax
from absl import flags

from rlhf_jax import inference
from rlhf_jax.command_line import command, parse_flags
from rlhf_jax.config import Config, ModelConfig, OptimizerConfig, SftConfig
from rlhf_jax.data.mini.documents import documents
from rlhf_jax.data.mini.rows import ROW_FILLED, ROW_TOKENS, ROWS, batches
from rlhf_jax.data.tasks.tldr import Tldr
from rlhf_jax.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from rlhf_jax.files import write_json
from rlhf_jax.mesh import make_mesh, to_devices
from rlhf_jax.model import params, pretrained, transformer
from rlhf_jax.pipeline import gates, teaching
from rlhf_jax.training.loop import Training
from rlhf_jax.training.state import TrainState, make_optimizer, update, value_and_grad_in_parts


class Size(NamedTuple):
    """A step of the ladder."""

    width: int
    heads: int
    learning_rate: float


SIZES = {
    "tiny": Size(28, 2, 6e-3),
    "small": Size(52, 2, 5e-3),
    "medium": Size(96, 4, 3e-3),
    "large": Size(184, 4, 2e-3),
}
LAYERS = 8  # four quarters, each taught something of its own (teaching.py)
ON_THE_WAY = 100  # pairs at the gates, at most, whenever a checkpoint is saved
VOCABULARY = 768
MICROBATCH_ROWS = 4  # computed at once on a CPU: what fits its cache


class GateError(ValueError):
    """A base that cannot tell what a post says from what it does not."""


def main(argv: list[str]) -> int:
    return command(argv, lambda: train(_parse(argv)))


def _parse(argv: list[str]) -> flags.FlagValues:
    options = flags.FlagValues()
    flags.DEFINE_string("out", None, "folder of the bases", required=True, flag_values=options)
    flags.DEFINE_multi_enum("sizes", list(SIZES), list(SIZES), "of the ladder", flag_values=options)
    flags.DEFINE_integer("tokens", 40_000_000, "to train on", 1, flag_values=options)
    flags.DEFINE_string("tokenizer", "", "one to share; empty: train one", flag_values=options)
    flags.DEFINE_integer("seed", 0, "of weights and documents", 0, flag_values=options)
    flags.DEFINE_integer("workers", 1, "processes that make documents", 1, flag_values=options)
    flags.DEFINE_integer("save_every", 500, "updates", 1, flag_values=options)
    flags.DEFINE_integer("pairs", 500, "of statements of each kind at the gates", 1, flag_values=options)
    parse_flags(argv, options)
    return options


def model_of(size: Size) -> ModelConfig:
    return ModelConfig(
        width=size.width,
        layers=LAYERS,
        heads=size.heads,
        ff=8 * size.width // 3,
        norm="rms",
        positions="rotary",
        activation="silu",
        gated=True,
        attention_bias=False,
        mlp_bias=False,
        context=ROW_TOKENS,
        init_std=size.width**-0.5,
    )


def train(options: flags.FlagValues) -> None:
    """Writes the base checkpoints that the options describe, folders as of Hugging Face, and their gates.

    Raises GateError where one is not passed, when all is written.
    """
    out, seed, sizes = Path(options.out), options.seed, options.sizes
    models = {size: model_of(SIZES[size]) for size in sizes}
    steps = math.ceil(options.tokens / (ROWS * ROW_TOKENS * ROW_FILLED))
    if options.tokenizer:
        tokenizer = load_tokenizer(options.tokenizer)
    else:
        texts = [document.text for document in documents(seed, 0, 5_000, 5_000)]
        tokenizer = train_tokenizer(texts, VOCABULARY, Tldr.pieces)
    for size in sizes:
        (out / size).mkdir(parents=True, exist_ok=True)
        tokenizer.save(out / size)
    mesh = make_mesh()
    parts = max(ROWS // (MICROBATCH_ROWS * mesh.size), 1) if jax.default_backend() == "cpu" else 1
    with jax.set_mesh(mesh):
        specs = {
            size: {
                "base": transformer.specs(model, tokenizer.vocab_size),
                "readings": teaching.reading_specs(model.width),
            }
            for size, model in models.items()
        }
        state = jax.jit(lambda: TrainState.create(_start(specs, seed), optimizer(sizes, steps)))()
        about = {"sizes": {size: inference.describe(model) for size, model in models.items()}}
        kept = SftConfig(save_every=options.save_every)
        training = Training(Config(), out, "pretrain", kept, steps, tuple(sizes), about)
        state = training.resume(state)

        @jax.jit
        def step(state: TrainState, batch):
            of = teaching.counts(batch)

            def losses(weights, part):
                found = {
                    size: teaching.loss(**weights[size], model=model, batch=part, of=of)
                    for size, model in models.items()
                }
                return sum(value for value, _ in found.values()), {
                    size: told for size, (_, told) in found.items()
                }

            (value, metrics), gradients = value_and_grad_in_parts(losses, state.params, batch, parts)
            state, told = update(state, value, gradients)
            return state, metrics | told

        made = batches(str(out / sizes[0]), seed, training.start, steps, options.workers)
        with training, contextlib.closing(made):
            for i in training.steps(state):
                batch = next(made)
                state, metrics = step(state, to_devices(batch, mesh))
                training.after(state, metrics, rows=ROWS, tokens=np.count_nonzero(batch["segments"]))
                if (i + 1) % options.save_every == 0:
                    _write(out, state, models, tokenizer)
                    for size, model in models.items():
                        found = gates.measure(
                            state.params[size]["base"], model, tokenizer, min(options.pairs, ON_THE_WAY)
                        )
                        print(f"\n{i + 1} {size}: {told(found)}")
        _write(out, state, models, tokenizer)
        failed = []
        for size, model in models.items():
            kinds = gates.measure(state.params[size]["base"], model, tokenizer, options.pairs)
            seen = {"tokens": options.tokens, "parameters": params.count(specs[size]["base"])}
            write_json(out / size / "gates.json", seen | {"kinds": kinds})
            print(f"{size}: {told(kinds)}")
            failed += [f"{kind} of {size}" for kind in gates.failed(kinds)]
    if failed:
        raise GateError(
            f"{out}: right on fewer than {gates.PASS:.0%} of the statements of kind {', '.join(failed)}; "
            "--tokens says for how long they are trained"
        )


def optimizer(sizes: Sequence[str], steps: int) -> optax.GradientTransformation:
    """Of all sizes at once: each is clipped by its own norm, and has its own rate."""

    def of_size(size: str) -> optax.GradientTransformation:
        rate = SIZES[size].learning_rate
        return make_optimizer(
            OptimizerConfig(name="muon", learning_rate=rate, warmup=100, clip_norm=1.0, beta2=0.95), steps
        )

    return optax.multi_transform({size: of_size(size) for size in sizes}, {size: size for size in sizes})


def _start(specs, seed: int):
    return {size: params.init(spec, jax.random.key(seed)) for size, spec in specs.items()}


def _write(out: Path, state: TrainState, models: Mapping[str, ModelConfig], tokenizer: Tokenizer) -> None:
    """The bases as they are, which a run that is cut short leaves, too."""
    for size, model in models.items():
        about = {"eos_token_id": tokenizer.eos_id}
        pretrained.save(out / size, state.params[size]["base"], model, "bfloat16", about)


def told(kinds: gates.Gates) -> str:
    """How many of the statements of each kind were judged rightly."""
    return ", ".join(f"{kind} {found['accuracy']:.1%}" for kind, found in kinds.items())

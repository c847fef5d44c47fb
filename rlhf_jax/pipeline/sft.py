"""Supervised fine-tuning on posts with human summaries (Stiennon et al. 2020, §3.3).

Mean cross-entropy over the response tokens of the whole batch, so that packing, microbatches and
devices do not change it. Departure from the paper: none by default; `sft.query_loss` learns the
query's tokens too (N+).
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rlhf_jax.config import Config, ModelConfig
from rlhf_jax.data import sources
from rlhf_jax.data.batches import SftPlan
from rlhf_jax.functional.losses import cross_entropy
from rlhf_jax.mesh import abstract_rows, check_rows, make_mesh, to_devices
from rlhf_jax.model import likelihood, params, pretrained, transformer
from rlhf_jax.run import checkpoint, hosts
from rlhf_jax.training import health, loop
from rlhf_jax.training.metrics import MetricsLog
from rlhf_jax.training.state import TrainState, make_optimizer, stage_key, update, value_and_grad_in_parts


def loss(weights, model: ModelConfig, batch, targets: int, denominator: Float[Array, ""]) -> Float[Array, ""]:
    """Cross-entropy of the target tokens of some rows, over the whole batch's `denominator`.

    A row has at most `targets` of them; logits are computed at these positions alone.
    """
    is_target = batch["targets_mask"][:, 1:]
    first = jnp.argsort(is_target == 0, axis=1, stable=True)[:, :targets]  # the targets' places, in order
    mask = jnp.take_along_axis(is_target, first, axis=1)
    tokens = jnp.take_along_axis(batch["tokens"][:, 1:], first, axis=1)
    hidden = transformer.apply_at(weights, model, batch["tokens"][:, :-1], batch["segments"][:, :-1], first)
    logp, _ = likelihood.token_logprobs(weights, model, hidden, tokens)
    return cross_entropy(logp, mask, denominator)


def step(state: TrainState, batch, model: ModelConfig, targets: int, microbatches: int):
    """One update on one batch; returns the new state and metrics."""
    denominator = batch["targets_mask"].sum()

    def part_loss(weights, part):
        value = loss(weights, model, part, targets, denominator)
        return value, {"loss": value}

    (value, metrics), gradients = value_and_grad_in_parts(part_loss, state.params, batch, microbatches)
    state, told = update(state, value, gradients)
    return state, metrics | told


def jitted_step(model: ModelConfig, targets: int, microbatches: int):
    """`step` as `train` compiles it: the state is updated in place."""
    return jax.jit(
        functools.partial(step, model=model, targets=targets, microbatches=microbatches), donate_argnums=0
    )


def traced(config: Config, model: ModelConfig, vocabulary: int) -> jax.stages.Traced:
    """The step of `train`, traced for arguments without values. Needs a mesh set.

    A row is one post of the longest bucket with a whole response; packing, which is known only with
    the data, puts the same tokens into fewer rows.
    """
    options, data, mesh = config.sft, config.data, jax.sharding.get_mesh()
    check_rows("sft.batch_size", options.batch_size, options.microbatches, mesh)
    rows, width = options.batch_size, data.query_tokens + data.response_tokens
    optimizer = make_optimizer(options.optimizer, 1)
    like = params.abstract(transformer.specs(model, vocabulary), mesh)
    state = jax.eval_shape(functools.partial(TrainState.create, tx=optimizer), like)
    batch = {
        "tokens": abstract_rows(mesh, (rows, width)),
        "segments": abstract_rows(mesh, (rows, width)),
        "targets_mask": abstract_rows(mesh, (rows, width), jnp.float32),
        "index": abstract_rows(mesh, (rows,)),
    }
    targets = width - 1 if options.query_loss else data.response_tokens
    return jitted_step(model, targets, options.microbatches).trace(state, batch)


def train(config: Config, workdir: Path) -> None:
    """Trains `checkpoints/sft`, and `checkpoints/sft_10x` from the bigger base where there is one."""
    model = pretrained.architecture(config.model)
    base = pretrained.folder_of(config.model.pretrained) if config.model.pretrained else None
    posts = sources.load_posts(config.data, config.seed)["train"]
    tokenizer = sources.make_tokenizer(posts, config.data, base)
    if hosts.is_first():
        tokenizer.save(workdir)
    posts = sources.filtered(posts, config.data, tokenizer)
    plan = SftPlan(posts, tokenizer, config.data, config.sft, config.seed)
    if plan.truncated:
        print(f"sft: {plan.truncated:,} of {len(posts):,} references lose tokens to data.response_tokens")
    fine_tune("sft", config, model, base, plan, tokenizer.vocab_size, workdir)
    if config.sft.bigger_pretrained:
        bigger = pretrained.folder_of(config.sft.bigger_pretrained)
        fine_tune(
            "sft_10x",
            config,
            pretrained.architecture(config.model, config.sft.bigger_pretrained),
            bigger,
            plan,
            tokenizer.vocab_size,
            workdir,
        )


def fine_tune(
    name: str,
    config: Config,
    model: ModelConfig,
    base: Path | None,
    plan: SftPlan,
    vocabulary: int,
    workdir: Path,
) -> None:
    """Fine-tunes one model from `base`, or from random weights, into `checkpoints/<name>`."""
    options, folder = config.sft, workdir / "checkpoints" / name
    mesh = make_mesh(config.mesh)
    total = plan.total_steps(options.epochs)
    optimizer = make_optimizer(options.optimizer, total)
    with jax.set_mesh(mesh):
        check_rows("sft.batch_size", plan.batch_size, options.microbatches, mesh)
        specs = transformer.specs(model, vocabulary)
        like = params.abstract(specs, mesh)
        start = checkpoint.latest_step(folder) or 0
        if base and not start:
            weights = pretrained.load(base, like)
        else:
            weights = jax.jit(lambda: params.init(specs, stage_key(config.seed, name)))()
        create = functools.partial(TrainState.create, tx=optimizer, spike_sigma=config.health.spike_sigma)
        state = jax.jit(create, donate_argnums=0)(weights)
        state = loop.resume(folder, start, state)
        train_step = jitted_step(model, plan.most_targets, options.microbatches)

        def one_step(state: TrainState, i: int) -> tuple[TrainState, dict, dict]:
            batch = plan.batch(i)
            read = {"rows": plan.batch_size, "tokens": np.count_nonzero(batch["segments"])}
            return *train_step(state, to_devices(batch, mesh)), read

        loop.run(
            MetricsLog(workdir, name, start, total, ("loss",), health.Watch(folder, config.health)),
            folder,
            state,
            one_step,
            save_every=options.save_every,
            keep=config.keep_checkpoints,
            best=options.best,
            profile=workdir / "profile" / name if config.profile else None,
        )

"""1. Supervised fine-tuning on people's responses (Stiennon et al. 2020, §3.3).

Mean cross-entropy over the response tokens of the whole batch, so that packing, microbatches and
devices do not change it. Departures from the paper: none, unless `sft.query_loss` also trains on the
query's tokens (N+).
"""

import functools
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rlhf_jax import inference
from rlhf_jax.config import Config, ImitationConfig, ModelConfig
from rlhf_jax.data import task as tasks
from rlhf_jax.data.batches import SftPlan
from rlhf_jax.data.records import with_reference
from rlhf_jax.functional.losses import cross_entropy
from rlhf_jax.mesh import abstract_batch, check_rows, make_mesh, to_devices
from rlhf_jax.model import likelihood, lora, params, passes, peft, pretrained, transformer
from rlhf_jax.run import hosts, steps
from rlhf_jax.training import adapters, inputs
from rlhf_jax.training.loop import Training
from rlhf_jax.training.state import (
    TrainState,
    stage_key,
    starting,
    update,
    value_and_grad_in_parts,
    without_values,
)


def loss(weights, model: ModelConfig, batch, targets: int, denominator: Float[Array, ""]) -> Float[Array, ""]:
    """Cross-entropy of the target tokens of some rows, over the whole batch's `denominator`.

    A row has at most `targets` of them; logits are computed at these positions alone.
    """
    is_target = batch["targets_mask"][:, 1:]
    first = jnp.argsort(is_target == 0, axis=1, stable=True)[:, :targets]  # the targets' places, in order
    mask, tokens = passes.take(is_target, first), passes.take(batch["tokens"][:, 1:], first)
    hidden = passes.apply_at(weights, model, batch["tokens"][:, :-1], batch["segments"][:, :-1], first)
    logp, _ = likelihood.token_logprobs(weights, model, hidden, tokens)
    return cross_entropy(logp, mask, denominator)


def step(state: TrainState, batch, model: ModelConfig, targets: int, microbatches: int, base: Mapping = {}):
    """One update on one batch; returns the new state and metrics. `base` is frozen beside what is trained."""
    denominator = batch["targets_mask"].sum()

    def part_loss(trained, part):
        value = loss(lora.attach(base, trained), model, part, targets, denominator)
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
    """The step of `train`, traced for arguments without values. Needs a mesh set."""
    return traced_with(config.sft, "sft", config, model, vocabulary)


def traced_with(
    options: ImitationConfig, stage: str, config: Config, model: ModelConfig, vocabulary: int
) -> jax.stages.Traced:
    """The step of a stage that fine-tunes with these options.

    A row is one post of the longest bucket with a whole response; packing, which is known only with
    the data, puts the same tokens into fewer rows.
    """
    data, mesh = config.data, jax.sharding.get_mesh()
    check_rows(f"{stage}.batch_size", options.batch_size, options.microbatches, mesh)
    like = adapters.abstract_trained(transformer.specs(model, vocabulary), model, mesh)
    state = without_values(starting(options.optimizer, 1, config.health), like)
    base = adapters.abstract_base(model, vocabulary, mesh)
    batch = SftPlan.widest(data, options.batch_size)
    targets = batch["tokens"].shape[1] - 1 if options.query_loss else data.response_tokens
    program = jitted_step(model, targets, options.microbatches)
    return program.trace(state, abstract_batch(mesh, batch), base=base)


def train(config: Config, workdir: Path) -> None:
    """Trains `checkpoints/sft`, and `checkpoints/sft_10x` from the bigger base where there is one."""
    task, options = tasks.find(config.data, config.seed), config.sft
    records, base = task.records()["train"], config.model.pretrained
    inputs.hold(workdir, "sft", posts=records)
    records = with_reference(records, "sft")
    if steps.finished(workdir / "checkpoints" / "sft"):  # its network knows these token ids
        tokenizer = task.load_tokenizer(workdir)
    else:
        tokenizer = task.make_tokenizer(records, pretrained.folder_of(base) if base else None)
        if hosts.is_first():
            for name in inputs.TOKENIZER_FILES:  # of another kind, from a start that came to nothing
                (workdir / name).unlink(missing_ok=True)
            tokenizer.save(workdir)
    inputs.hold(workdir, "sft", tokenizer)
    records = task.filtered(records, tokenizer)
    plan = SftPlan(records, tokenizer, task, options, config.seed)
    plan.tell("sft")
    bases = {"sft": base} | ({"sft_10x": options.bigger_pretrained} if options.bigger_pretrained else {})
    for name, each in bases.items():
        field = "model.pretrained" if name == "sft" else "sft.bigger_pretrained"
        begun, adapter = steps.finished(workdir / "checkpoints" / name), config.model.lora
        read = {field: each} if each and (adapter.rank or not begun) else {}  # adapters need it to the end
        read |= {"model.lora.start": adapter.start} if adapter.start and not begun else {}
        if read:
            inputs.hold(workdir, "sft", bases=read)
        fine_tune(name, each, config, plan, tokenizer.vocab_size, workdir)


def fine_tune(name: str, place: str, config: Config, plan: SftPlan, vocabulary: int, workdir: Path) -> None:
    """Fine-tunes the pretrained model at `place`, or random weights where it is "", or adapters beside it.

    What came of it is `checkpoints/<name>`.
    """
    options, mesh = config.sft, make_mesh(config.mesh)
    model = inference.architecture_in(workdir, config, name)
    total = plan.total_steps(options.epochs)
    training = Training(config, workdir, name, options, total, ("loss",), inference.describe(model))
    with jax.set_mesh(mesh):
        check_rows("sft.batch_size", plan.batch_size, options.microbatches, mesh)
        specs, base = transformer.specs(model, vocabulary), adapters.base_of(model, vocabulary)
        like = adapters.abstract_trained(specs, model, mesh)
        source = model.lora.start if base else place
        if training.start or not source:
            drawn = lora.trained(specs, model.lora)
            fresh = jax.jit(lambda: params.init(drawn, stage_key(config.seed, name)))()
        elif base:
            fresh = peft.load(pretrained.folder_of(source), model, like)
        else:
            fresh = pretrained.load(pretrained.folder_of(source), like)
        fresh = jax.tree.map(lambda x, held: x.astype(held.dtype), fresh, like)
        state = jax.jit(starting(options.optimizer, total, config.health), donate_argnums=0)(fresh)
        state = training.resume(state)
        train_step = jitted_step(model, plan.most_targets, options.microbatches)
        with training:
            for i in training.steps(state):
                batch = plan.batch(i)
                state, metrics = train_step(state, to_devices(batch, mesh), base=base)
                tokens = np.count_nonzero(batch["segments"])
                training.after(state, metrics, rows=plan.batch_size, tokens=tokens)

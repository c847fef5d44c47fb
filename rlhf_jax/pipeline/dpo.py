"""DPO: a policy that learns people's choices directly, without a reward model (Rafailov et al. 2023).

The policy that maximizes a reward under a KL penalty *is* a reward: β log π/π_SFT, but for a term of the
prompt that no comparison sees. So the loss of the reward model, on the pairs of the reward model, trains the
policy itself. `dpo.algorithm` has two others on the same pairs: IPO and SimPO.

What the SFT policy says of the pairs is read once, before the first step: it is two numbers a pair, and with
them neither its weights nor its forward pass are in a step. Departures from the paper: AdamW for RMSprop, and
no warm-up unless it is asked for.
"""

import functools
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rlhf_jax import inference
from rlhf_jax.config import Config, DpoConfig, ModelConfig
from rlhf_jax.data.batches import DpoPlan
from rlhf_jax.data.comparisons import Pair, comparisons_of_run, pairs_to_learn
from rlhf_jax.functional import losses
from rlhf_jax.inference import Network
from rlhf_jax.mesh import ROWS, abstract_batch, abstract_rows, check_rows, layout, make_mesh, to_devices
from rlhf_jax.model import lora, transformer
from rlhf_jax.model.likelihood import response_logprobs
from rlhf_jax.training import adapters, inputs
from rlhf_jax.training.loop import Training
from rlhf_jax.training.state import TrainState, starting, update, value_and_grad_in_parts, without_values

SHOWN = ("loss", "accuracy")  # beside the progress bar


def loss(
    weights, model: ModelConfig, options: DpoConfig, batch, pad_id: int, pairs: int
) -> tuple[Float[Array, ""], losses.Metrics]:
    """The loss of part of a batch and its metrics, summed and divided by the batch's `pairs`.

    `batch` has `query` [B, Q], `chosen` and `rejected` [B, R], and, unless the algorithm has no reference,
    `ref_logp` [B, 2], what the SFT policy says of the two.
    """
    logp, tokens = response_likelihoods(weights, model, batch, pad_id)
    ref_logp = 0.0 if options.algorithm == "simpo" else batch["ref_logp"]
    rewards = losses.implicit_rewards(logp, ref_logp, options.beta)
    if options.algorithm != "dpo":
        rewards /= tokens
    # Sums, as JAX forgets the layout of a single entry that is indexed, and so that of its gradient.
    chosen, rejected = (jnp.sum(rewards * one, axis=1) for one in jnp.eye(2))
    if options.algorithm == "ipo":
        value = losses.ipo(chosen, rejected, options.beta)
    elif options.algorithm == "simpo":
        value = losses.simpo(chosen, rejected, options.margin)
    else:
        value = losses.dpo(chosen, rejected, options.label_smoothing)
    metrics = {
        "loss": value,
        "accuracy": losses.accuracy(chosen - rejected),
        "margin": jnp.mean(chosen - rejected),
        "chosen": jnp.mean(chosen),
        "rejected": jnp.mean(rejected),
    }
    return jax.tree.map(lambda x: x * chosen.shape[0] / pairs, (value, metrics))


def response_likelihoods(
    weights, model: ModelConfig, batch, pad_id: int
) -> tuple[Float[Array, "B 2"], Float[Array, "B 2"]]:
    """Log-probability of the chosen and of the rejected response, in nats at temperature 1, and their tokens.

    Both count EOS.
    """
    both = jnp.stack([batch["chosen"], batch["rejected"]], axis=1)
    response = both.reshape(-1, both.shape[2], out_sharding=layout(ROWS))
    logp, _ = response_logprobs(weights, model, batch["query"], response, pad_id, 1.0)
    logp = logp.reshape(both.shape, out_sharding=layout(ROWS))
    mask = both != pad_id
    return jnp.sum(jnp.where(mask, logp, 0.0), axis=2), jnp.sum(mask, axis=2, dtype=jnp.float32)


def step(
    state: TrainState,
    batch,
    model: ModelConfig,
    options: DpoConfig,
    pad_id: int,
    base: Mapping = {},
):
    """One update on one batch of pairs; returns the new state and metrics. `base` is frozen."""
    pairs = batch["query"].shape[0]

    def part_loss(trained, part):
        return loss(lora.attach(base, trained), model, options, part, pad_id, pairs)

    (value, metrics), gradients = value_and_grad_in_parts(
        part_loss, state.params, batch, options.microbatches
    )
    state, told = update(state, value, gradients)
    return state, metrics | told


def jitted_step(model: ModelConfig, options: DpoConfig, pad_id: int):
    """`step` as `train` compiles it: the state is updated in place."""
    return jax.jit(functools.partial(step, model=model, options=options, pad_id=pad_id), donate_argnums=0)


def traced(config: Config, model: ModelConfig, vocabulary: int) -> jax.stages.Traced:
    """The step of `train` in its longest bucket, for arguments without values. Needs a mesh set."""
    options, mesh = config.dpo, jax.sharding.get_mesh()
    check_rows("dpo.batch_size", options.batch_size, options.microbatches, mesh)
    like = adapters.abstract_trained(transformer.specs(model, vocabulary), model, mesh)
    state = without_values(starting(options.optimizer, 1, config.health), like)
    base = adapters.abstract_base(model, vocabulary, mesh)
    batch = abstract_batch(mesh, DpoPlan.widest(config.data, options.batch_size))
    batch["ref_logp"] = abstract_rows(mesh, (options.batch_size, 2), jnp.float32)
    return jitted_step(model, options, vocabulary).trace(state, batch, base=base)  # pad_id: no token


def train(config: Config, workdir: Path) -> None:
    """Trains `checkpoints/dpo` from the SFT policy on people's comparisons."""
    options, mesh = config.dpo, make_mesh(config.mesh)
    check_rows("dpo.batch_size", options.batch_size, options.microbatches, mesh)
    with jax.set_mesh(mesh):
        sft = inference.load(workdir, "sft", config=config)
        comparisons = comparisons_of_run(config, workdir)
        inputs.hold(workdir, "dpo", sft.tokenizer, ("sft",), comparisons=comparisons)
        pairs = pairs_to_learn(comparisons)["train"]
        plan = DpoPlan(pairs, sft.tokenizer, sft.task, options.batch_size, config.seed)
        total, pad_id = plan.total_steps(options.epochs), sft.tokenizer.pad_id
        plan.tell("dpo")
        about = inference.describe(sft.model)
        training = Training(config, workdir, "dpo", options, total, SHOWN, about)
        ref_logp = None if options.algorithm == "simpo" else likelihoods(sft, pairs)
        create = starting(options.optimizer, total, config.health)
        state = training.resume(jax.jit(create, donate_argnums=0)(sft.trained))
        train_step = jitted_step(sft.model, options, pad_id)
        with training:
            for i in training.steps(state):
                batch = plan.batch(i)
                texts = (batch[name] for name in ("query", "chosen", "rejected"))
                tokens = sum(np.count_nonzero(text != pad_id) for text in texts)
                if ref_logp is not None:
                    batch["ref_logp"] = ref_logp[batch["index"]]
                state, metrics = train_step(state, to_devices(batch, mesh), base=sft.base)
                training.after(state, metrics, pairs=plan.batch_size, tokens=tokens)


def likelihoods(policy: Network, pairs: list[Pair]) -> Float[np.ndarray, "M 2"]:
    """Log-probability that a policy gives the chosen and the rejected response of each pair, in nats."""
    posts = [pair.info for pair in pairs]
    of_each = [[pair.chosen for pair in pairs], [pair.rejected for pair in pairs]]
    return np.stack([policy.log_likelihood(posts, texts) for texts in of_each], axis=1)

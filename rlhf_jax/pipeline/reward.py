"""3. The reward model: which of two responses do people prefer? (Stiennon et al. 2020, §3.4)

The SFT model with a scalar head, read at the last token of a summary (EOS), trained on
−log σ(r_chosen − r_rejected). Afterwards shifted so that the training references score 0 on
average: PPO presumes rewards around 0. Several seeds may be trained; the best on validation
is `reward`, and `ppo.ensemble` may use all of them. Departures from the paper: none, unless
`reward.loss` also learns how sure people were, or ratings in place of choices (N+).
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rlhf_jax import inference
from rlhf_jax.config import Config, ModelConfig
from rlhf_jax.data import task as tasks
from rlhf_jax.data.batches import PairPlan
from rlhf_jax.data.comparisons import Pair, comparisons_of_run, pairs_to_learn
from rlhf_jax.data.records import Comparison, Record, RecordError, with_reference
from rlhf_jax.functional.losses import Metrics, bradley_terry, soft_bradley_terry, squared_error
from rlhf_jax.inference import Network
from rlhf_jax.mesh import abstract_batch, check_rows, make_mesh, to_devices
from rlhf_jax.model import heads, lora
from rlhf_jax.run import checkpoint
from rlhf_jax.training import adapters, health, inputs
from rlhf_jax.training.loop import Training
from rlhf_jax.training.state import (
    TrainState,
    stage_key,
    starting,
    update,
    value_and_grad_in_parts,
    without_values,
)

MOST_REFERENCES = 4096  # the shift is measured on so many, or on as many as responses were trained on
MOST_PAIRS = 512  # of the training pairs tell which scores are usual


def loss(
    weights, model: ModelConfig, batch, pad_id: int, pairs: int, of: str = "choice"
) -> tuple[Float[Array, ""], Metrics]:
    """Loss and accuracy of part of a batch, summed and divided by the batch's `pairs`.

    Bradley–Terry's, `of` the choice alone; with the `labels` of a batch, as `labels_of` makes them, that of
    the confidence or of the ratings.
    """
    responses = jnp.stack([batch["chosen"], batch["rejected"]], axis=1)
    scores = heads.scores(weights, model, batch["query"], responses, pad_id)
    # Sums, as JAX forgets the layout of a single entry that is indexed, and so that of its gradient.
    chosen, rejected = (jnp.sum(scores * one, axis=1) for one in jnp.eye(2))
    value, metrics = bradley_terry(chosen, rejected)
    if of == "confidence":
        value = soft_bradley_terry(chosen, rejected, jnp.sum(batch["labels"] * jnp.eye(2)[0], axis=1))
    elif of == "ratings":
        value = squared_error(scores, batch["labels"])
    metrics |= {"loss": value, "margin": jnp.mean(chosen - rejected)}
    return jax.tree.map(lambda x: x * chosen.shape[0] / pairs, (value, metrics))


def step(
    state: TrainState,
    batch,
    model: ModelConfig,
    pad_id: int,
    microbatches: int,
    of: str = "choice",
    base: Mapping = {},
):
    """One update on one batch of pairs; returns the new state and metrics. `base` is frozen."""
    pairs = batch["query"].shape[0]

    def part_loss(trained, part):
        return loss(lora.attach(base, trained), model, part, pad_id, pairs, of)

    (value, metrics), gradients = value_and_grad_in_parts(part_loss, state.params, batch, microbatches)
    state, told = update(state, value, gradients)
    return state, metrics | told


def jitted_step(model: ModelConfig, pad_id: int, microbatches: int, of: str = "choice"):
    """`step` as `train` compiles it: the state is updated in place."""
    return jax.jit(
        functools.partial(step, model=model, pad_id=pad_id, microbatches=microbatches, of=of),
        donate_argnums=0,
    )


def traced(config: Config, model: ModelConfig, vocabulary: int) -> jax.stages.Traced:
    """The step of `train` in its longest bucket, for arguments without values. Needs a mesh set."""
    options, mesh = config.reward, jax.sharding.get_mesh()
    check_rows("reward.batch_size", options.batch_size, options.microbatches, mesh)
    like = adapters.abstract_trained(heads.specs(model, vocabulary), model, mesh)
    state = without_values(starting(options.optimizer, 1, config.health), like)
    base = adapters.abstract_base(model, vocabulary, mesh)
    batch = PairPlan.widest(config.data, options.batch_size)
    if options.loss != "choice":
        batch["labels"] = np.zeros((options.batch_size, 2), np.float32)
    pad_id = vocabulary  # outside of it
    program = jitted_step(model, pad_id, options.microbatches, options.loss)
    return program.trace(state, abstract_batch(mesh, batch), base=base)


def train(config: Config, workdir: Path) -> None:
    """Trains `reward.seeds` models from the SFT checkpoint; the best, shifted, is `checkpoints/reward`.

    With `reward.shared_head` their mean, shifted, is `checkpoints/reward_averaged`.
    """
    options = config.reward
    checkpoint.require(workdir, "sft")
    task = tasks.find(config.data, config.seed)
    tokenizer = task.load_tokenizer(workdir)
    records = task.records()["train"]
    comparisons = comparisons_of_run(config, workdir)
    inputs.hold(workdir, "reward", tokenizer, ("sft",), posts=records, comparisons=comparisons)
    records = task.filtered(with_reference(records, "reward"), tokenizer)
    with jax.set_mesh(make_mesh(config.mesh)):
        pairs = pairs_to_learn(comparisons)
        labels = None if options.loss == "choice" else labels_of(comparisons, options.loss)
        networks, accuracies = [], []
        for k in range(options.seeds):  # each has an order of the pairs of its own
            plan = PairPlan(pairs["train"], tokenizer, task, options.batch_size, config.seed + k)
            if k == 0:
                plan.tell("reward")
            networks.append(train_one(f"reward_seed{k}", config, plan, workdir, labels))
            accuracies.append(accuracy(f"reward model {k}", networks[k], pairs["valid1"]))
        best = max(range(options.seeds), key=accuracies.__getitem__)

        total = plan.total_steps(options.epochs)
        references = records[: min(MOST_REFERENCES, 2 * options.batch_size * total)]
        shifts = [mean_score(network, references) for network in networks]
        found = {"reward": (networks[best], accuracies[best], shifts[best])}
        if options.shared_head:
            averaged = mean_of(networks)
            right = accuracy("reward models, averaged", averaged, pairs["valid1"])
            found["reward_averaged"] = averaged, right, mean_score(averaged, references)
        for name, (network, right, shift) in found.items():
            network.trained["head"]["bias"] -= shift
            usual = usual_scores(network, pairs["train"])
            checkpoint.save(
                workdir / "checkpoints" / name,
                total,
                params=network.trained,
                rest={"shift": jnp.float32(shift)},  # already in the bias; kept to be read by people
                meta=inference.describe(network.model, scalar=True)
                | {"valid_accuracy": right, "usual_scores": usual, "shifts": shifts},
                keep=config.keep_checkpoints,
            )


def labels_of(comparisons: Sequence[Comparison], loss: str) -> Float[np.ndarray, "N 2"]:
    """What the chosen and the rejected response of each comparison of train are to be learned as, in order.

    Of the confidence, how likely each is the better one: σ(c − ½) for the chosen one, c the points from the
    middle of the scale, as of people whose noise is logistic with a point as its scale. Of the ratings, each
    less the mean of all, since a score's zero is set afterwards. Raises RecordError where one does not say.
    """
    labelled = {"confidence": _by_confidence, "ratings": _by_ratings}[loss]
    found = []
    for one in (one for one in comparisons if one.split == "train"):
        try:
            found.append(labelled(one))
        except (KeyError, IndexError, TypeError, ValueError):
            wanted = {"confidence": "a number of 1 to 9", "ratings": "a number for each response"}[loss]
            raise RecordError(
                f"reward.loss: {loss} needs extra.{loss}, {wanted}, in every comparison of train; "
                f"one of {one.info.id} has none"
            ) from None
    values = np.array(found, np.float32)
    return values - values.mean() if loss == "ratings" else values


def _by_confidence(one: Comparison) -> tuple[float, float]:
    points = abs(one.extra["confidence"] - 5)
    sure = 1 / (1 + math.exp(-max(points - 0.5, 0.0)))
    return sure, 1 - sure


def _by_ratings(one: Comparison) -> tuple[float, float]:
    first, second = map(float, one.extra["ratings"])
    return (second, first) if one.choice else (first, second)


def accuracy(name: str, network: Network, pairs: list[Pair]) -> float:
    """How often a reward model agrees with people on held-out pairs, ties counting one half; says so."""
    margins = network.margins(pairs)
    agreement, ties = float(np.mean((1 + np.sign(margins)) / 2)), np.sum(margins == 0)
    print(
        f"{name}: agrees with people on {agreement:.1%} of {len(margins):,} held-out pairs"
        + (f", {ties:,} of which tie and count one half" if ties else "")
    )
    return agreement


def mean_score(network: Network, references: Sequence[Record]) -> float:
    """Of the references, where a reward model's 0 is to be. Raises TrainingError where it is not finite."""
    mean = float(network.score(references, [record.reference for record in references]).mean())
    if not math.isfinite(mean):
        raise health.TrainingError(
            f"reward: the scores of the references are not finite (their mean is {mean}), so there is "
            "no shift. Usual cause: bfloat16 overflows, which model.dtype=float32 tells"
        )
    return mean


def mean_of(networks: Sequence[Network]) -> Network:
    """The network whose weights are the mean of theirs (WARM: Ramé et al. 2024)."""
    trained = jax.tree.map(lambda *weights: sum(weights) / len(weights), *(n.trained for n in networks))
    return replace(networks[0], trained=trained)


def usual_scores(network: Network, pairs: list[Pair]) -> list[float]:
    """1st and 99th percentile of the scores of responses that the reward model was trained on."""
    some = pairs[:: -(-len(pairs) // MOST_PAIRS)]
    records, texts = [pair.info for pair in some] * 2, [p.chosen for p in some] + [p.rejected for p in some]
    return np.percentile(network.score(records, texts), [1, 99]).tolist()


def train_one(
    name: str, config: Config, plan: PairPlan, workdir: Path, labels: Float[np.ndarray, "N 2"] | None
) -> Network:
    """A reward model, trained from the SFT model into `checkpoints/<name>`; its head's seed is its name's.

    `labels` are those of the plan's pairs, where more than the choice is learned.
    """
    options, mesh = config.reward, jax.sharding.get_mesh()
    check_rows("reward.batch_size", plan.batch_size, options.microbatches, mesh)
    sft = inference.load(workdir, "sft", config=config)
    model, total = sft.model, plan.total_steps(options.epochs)
    about = inference.describe(model, scalar=True)
    training = Training(config, workdir, name, options, total, ("loss", "accuracy"), about)
    key = stage_key(config.seed, "reward_seed0" if options.shared_head else name)
    fresh = heads.on_top(sft.trained, model, sft.tokenizer.vocab_size, key)
    create = starting(options.optimizer, total, config.health)
    state = training.resume(jax.jit(create, donate_argnums=0)(fresh))
    train_step = jitted_step(model, sft.tokenizer.pad_id, options.microbatches, options.loss)
    with training:
        for i in training.steps(state):
            batch = plan.batch(i)
            if labels is not None:
                batch["labels"] = labels[batch["index"]]
            state, metrics = train_step(state, to_devices(batch, mesh), base=sft.base)
            texts = (batch[name] for name in ("query", "chosen", "rejected"))
            tokens = sum(np.count_nonzero(text != sft.tokenizer.pad_id) for text in texts)
            training.after(state, metrics, pairs=plan.batch_size, tokens=tokens)
    trained = state.params
    if options.best:
        trained = checkpoint.restore_params(*checkpoint.require(workdir, name), trained)
    return replace(sft, trained=trained)

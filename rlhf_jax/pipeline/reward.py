"""The reward model: which of two summaries do people prefer? (Stiennon et al. 2020, §3.4)

The SFT model with a scalar head, read at the last token of a summary (EOS), trained on
−log σ(r_chosen − r_rejected). Afterwards shifted so that the training references score 0 on
average: PPO presumes rewards around 0. Several seeds may be trained; the best on validation
is kept. Departures from the paper: none.
"""

import functools
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rlhf_jax import inference
from rlhf_jax.config import Config, ModelConfig
from rlhf_jax.data import sources
from rlhf_jax.data.batches import PairPlan
from rlhf_jax.data.comparisons import Pair, pairs_of
from rlhf_jax.data.records import RecordError
from rlhf_jax.data.tokenizer import load_tokenizer
from rlhf_jax.functional.losses import Metrics, bradley_terry
from rlhf_jax.mesh import abstract_rows, check_rows, make_mesh, to_devices
from rlhf_jax.model import heads, params, pretrained, transformer
from rlhf_jax.pipeline import collect
from rlhf_jax.run import checkpoint
from rlhf_jax.training import health, loop
from rlhf_jax.training.metrics import MetricsLog
from rlhf_jax.training.state import TrainState, make_optimizer, stage_key, update, value_and_grad_in_parts

MOST_REFERENCES = 4096  # that the shift is measured on; fewer after a training on fewer summaries
MOST_PAIRS = 512  # of training, that tell which scores are usual


def loss(weights, model: ModelConfig, batch, pad_id: int, pairs: int) -> tuple[Float[Array, ""], Metrics]:
    """Bradley–Terry loss and accuracy of some of a batch's `pairs`, as their share of the mean."""
    responses = jnp.stack([batch["chosen"], batch["rejected"]], axis=1)
    scores = heads.scores(weights, model, batch["query"], responses, pad_id)
    chosen, rejected = scores[:, 0], scores[:, 1]
    value, metrics = bradley_terry(chosen, rejected)
    metrics |= {"loss": value, "margin": jnp.mean(chosen - rejected)}
    return jax.tree.map(lambda x: x * chosen.shape[0] / pairs, (value, metrics))


def step(state: TrainState, batch, model: ModelConfig, pad_id: int, microbatches: int):
    """One update on one batch of pairs; returns the new state and metrics."""
    pairs = batch["query"].shape[0]
    (value, metrics), gradients = value_and_grad_in_parts(
        lambda weights, part: loss(weights, model, part, pad_id, pairs), state.params, batch, microbatches
    )
    state, told = update(state, value, gradients)
    return state, metrics | told


def jitted_step(model: ModelConfig, pad_id: int, microbatches: int):
    """`step` as `train` compiles it: the state is updated in place."""
    return jax.jit(
        functools.partial(step, model=model, pad_id=pad_id, microbatches=microbatches), donate_argnums=0
    )


def traced(config: Config, model: ModelConfig, vocabulary: int) -> jax.stages.Traced:
    """The step of `train` in its longest bucket, for arguments without values. Needs a mesh set."""
    options, data, mesh = config.reward, config.data, jax.sharding.get_mesh()
    check_rows("reward.batch_size", options.batch_size, options.microbatches, mesh)
    pairs = options.batch_size
    optimizer = make_optimizer(options.optimizer, 1)
    like = params.abstract(heads.specs(model, vocabulary), mesh)
    state = jax.eval_shape(functools.partial(TrainState.create, tx=optimizer), like)
    batch = {
        "query": abstract_rows(mesh, (pairs, data.query_tokens)),
        "chosen": abstract_rows(mesh, (pairs, data.reward_response_tokens)),
        "rejected": abstract_rows(mesh, (pairs, data.reward_response_tokens)),
        "index": abstract_rows(mesh, (pairs,)),
    }
    return jitted_step(model, vocabulary, options.microbatches).trace(state, batch)  # pad_id: outside of it


def train(config: Config, workdir: Path) -> None:
    """Trains `reward.seeds` models from the SFT checkpoint; the best, shifted, is `checkpoints/reward`."""
    checkpoint.require(workdir, "sft", "reward")
    tokenizer = load_tokenizer(workdir)
    model = pretrained.architecture(config.model)
    posts = sources.filtered(sources.load_posts(config.data, config.seed)["train"], config.data, tokenizer)
    with jax.set_mesh(make_mesh(config.mesh)):
        comparisons = collect.collect(config, workdir, model, tokenizer)
        pairs = {split: pairs_of(comparisons, split) for split in ("train", "valid1")}
        for split in pairs:
            if not pairs[split]:
                raise RecordError(f"no comparisons of split {split} (data.comparisons, reward.batches)")
        setting: dict[str, Any] = {"model": model, "tokenizer": tokenizer, "data": config.data}

        candidates = []
        for k in range(config.reward.seeds):  # each has a head and an order of the pairs of its own
            plan = PairPlan(pairs["train"], tokenizer, config.data, config.reward.batch_size, config.seed + k)
            weights = train_one(f"reward_seed{k}", config, model, plan, workdir)
            margins = inference.margins(weights, pairs["valid1"], **setting)
            agreement = float(np.mean(margins > 0))
            print(
                f"reward model {k}: agrees with people on {agreement:.1%} of {len(margins):,} held-out pairs"
            )
            candidates.append((agreement, weights))
        accuracy, weights = max(candidates, key=lambda candidate: candidate[0])

        total = plan.total_steps(config.reward.epochs)
        references = posts[: min(MOST_REFERENCES, 2 * config.reward.batch_size * total)]
        scores = inference.score(weights, references, [post.summary for post in references], **setting)
        shift = float(scores.mean())
        if not math.isfinite(shift):
            raise health.TrainingError(
                f"reward: the scores of the references are not finite (their mean is {shift}), so there is "
                "no shift. Usual cause: bfloat16 overflows, which model.dtype=float32 tells"
            )
        weights["head"]["bias"] -= shift
        checkpoint.save(
            workdir / "checkpoints" / "reward",
            total,
            params=weights,
            rest={"shift": jnp.float32(shift)},  # already in the bias; kept to be read by people
            meta={"valid_accuracy": accuracy, "usual_scores": usual_scores(weights, pairs["train"], setting)},
            keep=config.keep_checkpoints,
        )


def usual_scores(weights, pairs: list[Pair], setting: dict[str, Any]) -> list[float]:
    """1st and 99th percentile of the scores of summaries that the reward model was trained on."""
    some = pairs[:: -(-len(pairs) // MOST_PAIRS)]
    infos, texts = [pair.info for pair in some] * 2, [p.chosen for p in some] + [p.rejected for p in some]
    return np.percentile(inference.score(weights, infos, texts, **setting), [1, 99]).tolist()


def train_one(name: str, config: Config, model: ModelConfig, plan: PairPlan, workdir: Path):
    """Parameters of one reward model, trained into `checkpoints/<name>`; its seed is its name's."""
    options, folder = config.reward, workdir / "checkpoints" / name
    tokenizer = load_tokenizer(workdir)
    mesh = make_mesh(config.mesh)
    check_rows("reward.batch_size", plan.batch_size, options.microbatches, mesh)
    total = plan.total_steps(options.epochs)
    optimizer = make_optimizer(options.optimizer, total)
    specs = heads.specs(model, tokenizer.vocab_size)
    sft_like = params.abstract(transformer.specs(model, tokenizer.vocab_size), mesh)
    sft = checkpoint.restore_params(*checkpoint.require(workdir, "sft", "reward"), sft_like)
    sft.pop("head", None)  # the output matrix
    head = jax.jit(lambda: params.init({"head": specs["head"]}, stage_key(config.seed, name)))()
    weights = {"transformer": sft} | head
    start = checkpoint.latest_step(folder) or 0
    create = functools.partial(TrainState.create, tx=optimizer, spike_sigma=config.health.spike_sigma)
    state = jax.jit(create, donate_argnums=0)(weights)
    state = loop.resume(folder, start, state)
    train_step = jitted_step(model, tokenizer.pad_id, options.microbatches)
    watch = health.Watch(folder, config.health)

    def one_step(state: TrainState, i: int) -> tuple[TrainState, Metrics, dict]:
        batch = plan.batch(i)
        texts = (batch[name] for name in ("query", "chosen", "rejected"))
        tokens = sum(np.count_nonzero(text != tokenizer.pad_id) for text in texts)
        read = {"pairs": plan.batch_size, "tokens": tokens}
        return *train_step(state, to_devices(batch, mesh)), read

    state = loop.run(
        MetricsLog(workdir, name, start, total, ("loss", "accuracy"), watch),
        folder,
        state,
        one_step,
        save_every=options.save_every,
        keep=config.keep_checkpoints,
        best=options.best,
        profile=workdir / "profile" / name if config.profile else None,
    )
    if options.best:
        return checkpoint.restore_params(*checkpoint.require(workdir, name, "reward"), state.params)
    return state.params

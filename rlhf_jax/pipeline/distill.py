"""Best-of-N distillation: a policy fine-tuned on the best of several responses of its own.

Best-of-N, the policy's best response by the reward, is often as good as PPO, and takes N samples at every
use. A policy that learns what it would have chosen takes one. With `distill.rounds` it then writes the
responses that the next round chooses from (expert iteration: Anthony et al. 2017; RAFT: Dong et al. 2023).

A round is a training of its own, from the policy of the round before; what it learns from is kept in the
work folder, where people can read it and a run that was stopped finds it again. The last round leaves
`checkpoints/distill`, the others `checkpoints/distill_round1` and so on.
"""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from rlhf_jax import inference
from rlhf_jax.config import MODEL, Config, ModelConfig
from rlhf_jax.data.batches import DistillPlan
from rlhf_jax.data.record_json import plain, read_jsonl, write_jsonl
from rlhf_jax.data.records import Record, answered
from rlhf_jax.evaluation.policies import best_of_n
from rlhf_jax.inference import Network
from rlhf_jax.mesh import check_rows, make_mesh, to_devices
from rlhf_jax.pipeline import sft
from rlhf_jax.pipeline.own_reward import OwnReward
from rlhf_jax.run import checkpoint, hosts
from rlhf_jax.training import inputs
from rlhf_jax.training.loop import Training
from rlhf_jax.training.state import starting


def traced(config: Config, model: ModelConfig, vocabulary: int) -> jax.stages.Traced:
    """The step of `train`, traced for arguments without values. Needs a mesh set."""
    return sft.traced_with(config.distill, "distill", config, model, vocabulary)


def train(config: Config, workdir: Path) -> None:
    """Trains `checkpoints/distill` from the SFT policy, on responses chosen by `ppo.reward`."""
    options, scored = config.distill, MODEL in config.ppo.rewards
    with jax.set_mesh(make_mesh(config.mesh)):
        policy = inference.load(workdir, "sft", config=config)
        records, tokenizer = policy.task.queries(), policy.tokenizer
        inputs.hold(workdir, "distill", tokenizer, ("sft", "reward") if scored else ("sft",), queries=records)
        records = policy.task.filtered(records, tokenizer, references=False)
        for number in range(1, options.rounds + 1):
            name = "distill" if number == options.rounds else f"distill_round{number}"
            rows = np.random.default_rng([config.seed, number]).permutation(len(records))[: options.prompts]
            best = best_responses(name, policy, [records[i] for i in rows], config, workdir)
            policy = fine_tune(name, policy, best, config, workdir)


def best_responses(
    name: str, policy: Network, records: list[Record], config: Config, workdir: Path
) -> list[Record]:
    """The records with the policy's best response to each, which `<name>.jsonl` keeps."""
    options, file = config.distill, workdir / f"{name}.jsonl"
    if not hosts.from_first("the best responses", file.exists):
        scored = MODEL in config.ppo.rewards
        reward = inference.load(workdir, "reward", config=config) if scored else None
        seed = f"{config.seed}/{name}"
        with OwnReward(config.ppo, policy.task) as own:
            texts = best_of_n(
                policy,
                records,
                options.best_of,
                options.temperature,
                config.seed,
                lambda records, samples: own.total(own.of_each(records, samples, reward, seed)),
            )
        rows = zip(records, texts, strict=True)
        if hosts.is_first():
            write_jsonl(file, [{"prompt": plain(record), "response": text} for record, text in rows])
        hosts.gather("the best responses")
    kept = read_jsonl(file, lambda row: str(row["response"]))
    return [answered(record, text) for record, text in zip(records, kept, strict=True)]


def fine_tune(name: str, policy: Network, records: list[Record], config: Config, workdir: Path) -> Network:
    """`policy`, whose memory this takes, fine-tuned on references: it is `checkpoints/<name>`."""
    options, mesh = config.distill, jax.sharding.get_mesh()
    plan = DistillPlan(records, policy.tokenizer, policy.task, options, config.seed)
    check_rows("distill.batch_size", plan.batch_size, options.microbatches, mesh)
    plan.tell(name)
    total, about = plan.total_steps(options.epochs), inference.describe(policy.model)
    training = Training(config, workdir, name, options, total, ("loss",), about)
    create = starting(options.optimizer, total, config.health)
    state = training.resume(jax.jit(create, donate_argnums=0)(policy.trained))
    train_step = sft.jitted_step(policy.model, plan.most_targets, options.microbatches)
    with training:
        for i in training.steps(state):
            batch = plan.batch(i)
            state, metrics = train_step(state, to_devices(batch, mesh), base=policy.base)
            tokens = np.count_nonzero(batch["segments"])
            training.after(state, metrics, rows=plan.batch_size, tokens=tokens)
    trained = state.params
    if options.best:
        trained = checkpoint.restore_params(*checkpoint.require(workdir, name), trained)
    return replace(policy, trained=trained)

"""TRL's PPO trainer, one full batch of episodes an iteration and no accumulation of gradients.

The trainer runs its own loop in a thread; a callback at the end of each iteration stops it until the next
is asked for. The check puts given responses in the place of sampled ones, all else is the trainer's.
Advantages are whitened by the unbiased variance there, by the biased one here: with a few hundred tokens the
losses agree all the same.
"""

import queue
import tempfile
import threading
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import TrainerCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

from benchmarks.torch_peer import ADAM_EPSILON, causal, scalar, tensors
from benchmarks.worker import Arrays, Side, Work, serve

ITERATIONS = 1_000_000  # more than anybody asks for


class Enough(Exception):
    """Ends a trainer that would go on."""


class Turns(TrainerCallback):
    """Runs the trainer one iteration at a time; `logged` holds the metrics of the last."""

    def __init__(self) -> None:
        self._asked: queue.Queue = queue.Queue()
        self._done: queue.Queue = queue.Queue()
        self.logged: dict = {}

    def start(self, trainer: PPOTrainer) -> None:
        def train() -> None:
            self._asked.get()
            try:
                trainer.train()
            except Enough:
                self._done.put(None)
            except BaseException as error:
                self._done.put(error)

        threading.Thread(target=train, daemon=True).start()

    def one(self, last: bool = False) -> None:
        """The next iteration, or with `last` the end of the trainer."""
        self._asked.put(last)
        if error := self._done.get():
            raise error

    def on_log(self, args, state, control, logs=None, **rest) -> None:
        self.logged = dict(logs)

    def on_step_end(self, args, state, control, **rest) -> None:
        self._done.put(None)
        if self._asked.get():
            raise Enough


def make_trainer(work: Work, turns: Turns, batches: list[dict[str, Tensor]]) -> PPOTrainer:
    fields = work.fields
    rows = len(batches[0]["input_ids"])
    options = PPOConfig(
        output_dir=tempfile.mkdtemp(dir=work.folder),
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=1,
        num_mini_batches=1,
        num_ppo_epochs=fields["epochs"],
        local_rollout_forward_batch_size=rows,
        total_episodes=rows * ITERATIONS,
        response_length=fields["response_tokens"],
        stop_token_id=fields["eos"] if fields["real"] else None,
        temperature=fields["temperature"],
        missing_eos_penalty=None,
        kl_coef=0.05,
        learning_rate=fields["learning_rate"],
        lr_scheduler_type="constant",
        adam_epsilon=ADAM_EPSILON,
        weight_decay=0.0,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        num_sample_generations=0,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    policy, reference = causal(work, "policy"), causal(work, "reference")
    policy.generation_config.pad_token_id = fields["eos"]
    trainer = PPOTrainer(
        args=options,
        processing_class=SimpleNamespace(pad_token_id=fields["pad"], eos_token_id=fields["eos"]),
        model=policy,
        ref_model=reference,
        reward_model=scalar(work, "reward"),
        value_model=scalar(work, "value"),
        train_dataset=[{"input_ids": row} for batch in batches for row in batch["input_ids"]],
        data_collator=lambda rows: {"input_ids": torch.stack([row["input_ids"] for row in rows])},
        callbacks=[turns],
    )
    trainer.dataloader = batches  # in our order, not shuffled
    return trainer


def queries(batch: Arrays) -> dict[str, Tensor]:
    return {"input_ids": tensors(batch)["query"]}


def iteration(work: Work) -> Side:
    batches = [queries(batch) for batch in work.batches]
    turns = Turns()
    # The first iteration warms up: with the last batch, so that the measured ones begin with the first.
    turns.start(make_trainer(work, turns, [batches[-1], *batches[:-1]]))

    def check(batch: Arrays) -> Mapping[str, Any]:
        own = Turns()
        trainer = make_trainer(work, own, [queries(batch)])
        with np.load(work.folder / "ours_check.npz") as stored:
            response = torch.from_numpy(stored["response"]).long()
        sample = ppo_trainer.batch_generation
        ppo_trainer.batch_generation = given(work, response)
        own.start(trainer)
        own.one()
        own.one(last=True)
        ppo_trainer.batch_generation = sample
        names = {
            "objective/kl": "objective/kl",
            "objective/score": "objective/scores",
            "objective/non_score_reward": "objective/non_score_reward",
            "policy/loss": "loss/policy_avg",
            "value/loss": "loss/value_avg",
        }
        return {ours: np.float32(own.logged[theirs]) for ours, theirs in names.items()}

    return Side(check, lambda batch: turns.one())


def given(work: Work, response: Tensor):
    """In place of TRL's sampling: these responses, with the logits that the policy gives them."""
    fields = work.fields
    response = response.masked_fill(response == fields["pad"], fields["eos"])

    def generation(model, query, *settings):
        tokens = torch.cat([query, response], 1)
        logits = ppo_trainer.forward(model, tokens, fields["pad"]).logits[:, query.shape[1] - 1 : -1]
        return tokens, logits / (fields["temperature"] + 1e-7)

    return generation


SUITES = {"ppo": iteration}

if __name__ == "__main__":
    serve("peer", SUITES, warm_every_shape=False)

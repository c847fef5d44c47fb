"""A training that counts: what tests of the loop around a step share."""

import shutil
import time

import jax
import jax.numpy as jnp
from flax import struct

from rlhf_jax.config import Config, SftConfig
from rlhf_jax.training.loop import Training
from rlhf_jax.training.metrics import read_metrics


class Counter(struct.PyTreeNode):
    """Steps made, as the parameters, and their sum beside it."""

    params: jax.Array
    total: jax.Array

    def parts(self):
        return {"count": self.params}, self.replace(params=None)

    def with_params(self, params):
        return self.replace(params=params["count"])


def count(
    workdir,
    total,
    during=lambda i: None,
    save_every=10,
    size=8,
    losses=None,
    skipped=lambda i: 0,
    rescued=(),
    **options,
):
    """A run that counts to `total`; `during(i)` is called within step i, and `losses` is a metric of it.

    `skipped(i)` says how many updates in a row were skipped by then. An error of type `rescued` in `during`
    ends the training with the steps before it saved. `options` are `best`, and fields of the configuration.
    """
    saved = SftConfig(save_every=save_every, best=options.pop("best", ""))
    training = Training(Config(**options), workdir, "counter", saved, total, (), {})
    state = training.resume(Counter(jnp.zeros(size), jnp.float32(0)))
    with training:
        for i in training.steps(state):
            with training.rescued(rescued):
                during(i)
            metrics = {"count": state.params[0], "loss": losses[i] if losses else 0.0}
            metrics |= {"skipped": min(skipped(i), 1), "skipped_in_a_row": skipped(i)}
            state = Counter(state.params + 1, state.total + i)
            training.after(state, metrics, steps=1)
    return state


def steps(workdir):
    return [int(record["step"]) for record in read_metrics(workdir / "metrics" / "counter.jsonl")]


def fill(ballast):
    """Fills the file system in step 15, but for a few kilobytes, once step 10 is whole."""

    def during(i):
        if i == 15:
            while not list(ballast.parent.glob("checkpoints/counter/10/manifest.json")):
                time.sleep(0.01)
            free = shutil.disk_usage(ballast.parent).free
            with ballast.open("ab") as file:
                file.write(b"x" * (free - 8_000))

    return during

"""Pythia 1B by RLOO: four responses to a prompt are compared with each other, and no value network learns.

    rlhf-jax run --config=configs/tldr_pythia_1b_rloo.py --workdir=runs/tldr_pythia_1b_rloo

Everything else is that of tldr_pythia_1b.py, hardware and data too, with 12 bytes a parameter less; with
--fork=runs/tldr_pythia_1b the reward model is the same, so that the two runs compare methods. Not run yet.
"""

import dataclasses

from rlhf_jax.config import Config
from rlhf_jax.recipes import n_plus


def get_config() -> Config:
    config = n_plus("EleutherAI/pythia-1b-deduped", microbatches=4)
    rloo = {"algorithm": "rloo", "samples": 4, "ratio": "sequence", "loss_mean": "rows", "epochs": 1}
    config.ppo = dataclasses.replace(config.ppo, **rloo)
    return config

"""Pythia 160M with the settings of N+.

    rlhf-jax run --config=configs/tldr_pythia_160m.py --workdir=runs/tldr_pythia_160m

Hardware: one GPU of 24 GB, by the model's size. Posts and comparisons come from OpenAI's store
(data.url), the model from the Hugging Face hub.
Expected: N+ has no model of this size. Not run yet.
"""

from rlhf_jax.config import Config
from rlhf_jax.recipes import n_plus


def get_config() -> Config:
    return n_plus("EleutherAI/pythia-160m-deduped", microbatches=8)

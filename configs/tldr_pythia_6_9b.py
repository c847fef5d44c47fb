"""Pythia 6.9B with the settings of N+.

    rlhf-jax run --config=configs/tldr_pythia_6_9b.py --workdir=runs/tldr_pythia_6_9b

Hardware: 32 GPUs of 80 GB, or a TPU slice of as much memory; 64 devices at most, since a batch has
64 pairs.
Posts and comparisons come from OpenAI's store (data.url), the model from the Hugging Face hub.
Expected (N+): SFT ROUGE-L .263; reward model right on .689 of held-out comparisons. Not run yet.
"""

from rlhf_jax.config import Config
from rlhf_jax.recipes import n_plus


def get_config() -> Config:
    return n_plus("EleutherAI/pythia-6.9b-deduped")

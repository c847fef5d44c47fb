"""Pythia 2.8B with the settings of N+.

    rlhf-jax run --config=configs/tldr_pythia_2_8b.py --workdir=runs/tldr_pythia_2_8b

Hardware: 8 GPUs of 80 GB (N+), or a TPU slice of as much memory; 16 devices at most, since batches
are split over microbatches and devices.
Posts and comparisons come from OpenAI's store (data.url), the model from the Hugging Face hub.
Expected (N+): SFT ROUGE-L .258; reward model right on .669 of held-out comparisons. Not run yet.
"""

from rlhf_jax.config import Config
from rlhf_jax.recipes import n_plus


def get_config() -> Config:
    return n_plus("EleutherAI/pythia-2.8b-deduped", microbatches=4)

"""The 6.7B model of Stiennon et al. (2020), with their settings.

    rlhf-jax run --config=configs/paper_6_7b.py --workdir=runs/paper_6_7b \\
        --config.model.pretrained=FOLDER

Their weights were never published: FOLDER is a GPT-2 checkpoint of this size. Without it the model
starts from random weights, which only rlhf-jax plan can use.
Hardware that it fits, by docs/plans.md: 8 H100, or TPU slices of 16 v6e, 32 v4 or 64 v5p chips.
Expected (human judges): about 70% prefer the summaries over the references, 65% at equal length. Not run yet.
"""

from rlhf_jax.config import Config
from rlhf_jax.recipes import paper


def get_config() -> Config:
    return paper("6.7b")

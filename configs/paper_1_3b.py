"""The 1.3B model of Stiennon et al. (2020), with their settings.

    rlhf-jax run --config=configs/paper_1_3b.py --workdir=runs/paper_1_3b \\
        --config.model.pretrained=FOLDER

Their weights were never published: FOLDER is a GPT-2 checkpoint of this size. Without it the model
starts from random weights, which only rlhf-jax plan can use.
Hardware that it fits, by docs/plans.md: 8 H100, or TPU slices of 16 v5e or v6e, 32 v4 or 64 v5p chips;
by docs/one_card.md, with more microbatches, one H100.
Expected (human judges): 61% prefer the summaries over the references. Not run yet.
"""

from rlhf_jax.config import Config
from rlhf_jax.recipes import paper


def get_config() -> Config:
    return paper("1.3b")

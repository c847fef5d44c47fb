"""The 1.3B model of Stiennon et al. (2020), with their settings.

    python -m rlhf_jax.main --config=configs/paper_1_3b.py --workdir=runs/paper_1_3b \\
        --config.model.pretrained=FOLDER

Their weights were never published: FOLDER is a GPT-2 checkpoint of this size. Without it the model
starts from random weights, which is good for planning and nothing else.
Hardware: 32 TPU v4 chips or 8 GPUs of 80 GB, by size.
Expected (human judges): 61% prefer the summaries over the references. Not run yet.
"""

from rlhf_jax.config import Config
from rlhf_jax.recipes import paper


def get_config() -> Config:
    return paper("1.3b")

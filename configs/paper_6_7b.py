"""The 6.7B model of Stiennon et al. (2020), with their settings.

    python -m rlhf_jax.main --config=configs/paper_6_7b.py --workdir=runs/paper_6_7b \\
        --config.model.pretrained=FOLDER

Their weights were never published: FOLDER is a GPT-2 checkpoint of this size. Without it the model
starts from random weights, which is good for planning and nothing else.
Hardware: 64 TPU v5p chips or 32 GPUs of 80 GB, by size.
Expected (human judges): about 70% prefer the summaries over the references, 65% at equal length. Not run yet.
"""

from rlhf_jax.config import Config
from rlhf_jax.recipes import paper


def get_config() -> Config:
    return paper("6.7b")

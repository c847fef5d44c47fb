"""GPT-2 124M with the settings of N+ at a higher learning rate.

    rlhf-jax run --config=configs/tldr_gpt2.py --workdir=runs/tldr_gpt2

Hardware: one GPU of 24 GB, by the model's size. Posts and comparisons come from OpenAI's store
(data.url), the model from the Hugging Face hub.
Expected: nobody published figures for this size. Not run yet. The pretrained model is prompted
without examples: with even one, two long posts do not fit its 1,024 positions.
"""

from rlhf_jax.config import Config
from rlhf_jax.recipes import n_plus


def get_config() -> Config:
    config = n_plus("openai-community/gpt2", microbatches=8)
    for stage in (config.sft, config.reward, config.ppo):
        stage.optimizer.learning_rate = 1e-5
    config.eval.shots = 0
    return config

"""SmolLM2 135M with the settings of N+ at a higher learning rate.

    rlhf-jax run --config=configs/tldr_smollm2_135m.py --workdir=runs/tldr_smollm2_135m

Hardware: one GPU of 24 GB, by the model's size. Posts and comparisons come from OpenAI's store
(data.url), the model from the Hugging Face hub.
Expected: nobody published figures. Not run yet at this length.
"""

from rlhf_jax.config import Config
from rlhf_jax.recipes import n_plus


def get_config() -> Config:
    config = n_plus("HuggingFaceTB/SmolLM2-135M", microbatches=8)
    for stage in (config.sft, config.reward, config.ppo):
        stage.optimizer.learning_rate = 1e-5
    return config

"""SmolLM2 135M with low-rank adapters and the settings of N+ at a learning rate for adapters.

    rlhf-jax run --config=configs/tldr_smollm2_135m_lora.py --workdir=runs/tldr_smollm2_135m_lora

Hardware: one GPU of 24 GB, as when all is trained; networks and optimizer take less of it. Posts and
comparisons come from OpenAI's store (data.url), the model from the Hugging Face hub.
Expected: nobody published figures. Not run yet at this length.
"""

from rlhf_jax.config import Config, LoraConfig
from rlhf_jax.recipes import n_plus


def get_config() -> Config:
    config = n_plus("HuggingFaceTB/SmolLM2-135M", microbatches=8)
    config.model.lora = LoraConfig(rank=16, alpha=32.0)
    for stage in (config.sft, config.reward, config.ppo):
        stage.optimizer.learning_rate = 1e-4
    return config

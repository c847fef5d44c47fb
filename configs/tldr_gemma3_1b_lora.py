"""Gemma 3 1B with low-rank adapters on TL;DR, on one GPU of 24 GB.

    rlhf-jax run --config=configs/tldr_gemma3_1b_lora.py --workdir=runs/tldr_gemma3_1b_lora

Posts and comparisons come from OpenAI's store (data.url), the model from the Hugging Face hub,
where you accept its license first.
Settings are those of N+ at a learning rate for adapters, with a tenth of its episodes, in batches of 128.
Hardware: one GPU of 24 GB, by docs/one_card.md. Expected: nobody published figures. Not run yet.
"""

from rlhf_jax.config import (
    Config,
    DataConfig,
    LoraConfig,
    ModelConfig,
    OptimizerConfig,
    PpoConfig,
    RewardConfig,
    SftConfig,
)


def get_config() -> Config:
    return Config(
        model=ModelConfig(
            pretrained="google/gemma-3-1b-pt",
            dtype="bfloat16",
            lora=LoraConfig(rank=16, alpha=32.0),
            rematerialize=True,
        ),
        data=DataConfig(reward_response_tokens=169),
        sft=SftConfig(
            batch_size=128,
            optimizer=OptimizerConfig(learning_rate=1e-4, weight_decay=0.01),
            query_loss=True,
            pack=False,
            microbatches=32,
        ),
        reward=RewardConfig(
            batch_size=64,
            optimizer=OptimizerConfig(learning_rate=1e-4, weight_decay=0.01),
            microbatches=32,
        ),
        ppo=PpoConfig(
            episodes=100_000,
            batch_size=128,
            microbatches=32,
            optimizer=OptimizerConfig(learning_rate=1e-4, schedule="linear"),
            score_at="after_eos",
        ),
    )

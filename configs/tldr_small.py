"""A small model from scratch on real posts, on a CPU or one small GPU.

    rlhf-jax run --config=configs/tldr_small.py --workdir=runs/tldr_small \\
        --config.data.posts=FOLDER --config.data.comparisons=FOLDER

Without the two folders, OpenAI's posts and comparisons are downloaded. What came out: docs/howto/data.md.
"""

from rlhf_jax.config import (
    Config,
    DataConfig,
    EvalConfig,
    ModelConfig,
    OptimizerConfig,
    PpoConfig,
    RewardConfig,
    SftConfig,
)


def get_config() -> Config:
    return Config(
        model=ModelConfig(width=128, layers=4, heads=4, positions="rotary"),
        data=DataConfig(
            vocabulary=4096,
            query_tokens=384,
            query_buckets=(192, 384),
            reward_response_tokens=96,
        ),
        sft=SftConfig(
            batch_size=32,
            epochs=2,
            optimizer=OptimizerConfig(learning_rate=2e-3, warmup=50),
            query_loss=True,
            microbatches=4,
        ),
        reward=RewardConfig(batch_size=32, microbatches=8, optimizer=OptimizerConfig(learning_rate=2e-4)),
        ppo=PpoConfig(
            episodes=960,
            batch_size=32,
            epochs=2,
            microbatches=8,
            optimizer=OptimizerConfig(learning_rate=1e-4, schedule="linear"),
        ),
        eval=EvalConfig(best_of=4),
    )

"""The whole pipeline on the miniature, from the base models in the package.

rlhf-jax run --config=configs/mini.py --workdir=runs/mini

Hardware: two CPU cores, seven to eight minutes. What came out: README.md.
"""

from rlhf_jax.config import (
    Config,
    DataConfig,
    DistillConfig,
    DpoConfig,
    EvalConfig,
    ModelConfig,
    OptimizerConfig,
    PpoConfig,
    RewardConfig,
    SftConfig,
)


def get_config() -> Config:
    return Config(
        model=ModelConfig(pretrained="mini/small"),
        data=DataConfig(
            source="mini",
            mini_posts=8_000,
            mini_pairs=16_000,
            mini_policies=("base", "sft", "sft", "sft_10x", "reference", "editor"),
            query_tokens=60,
            query_buckets=(52, 60),
            response_tokens=32,
            reward_response_tokens=40,
        ),
        sft=SftConfig(
            batch_size=64,
            optimizer=OptimizerConfig(learning_rate=5e-4),
            pack=False,
            microbatches=4,
            bigger_pretrained="mini/large",
        ),
        reward=RewardConfig(batch_size=64, microbatches=4, optimizer=OptimizerConfig(learning_rate=7e-4)),
        dpo=DpoConfig(batch_size=64, microbatches=4, optimizer=OptimizerConfig(learning_rate=1e-4)),
        distill=DistillConfig(
            batch_size=64,
            epochs=2,
            optimizer=OptimizerConfig(learning_rate=2e-4),
            pack=False,
            microbatches=4,
            best_of=8,
            prompts=1024,
        ),
        ppo=PpoConfig(
            episodes=10_240,
            batch_size=128,
            epochs=2,
            microbatches=8,
            optimizer=OptimizerConfig(learning_rate=5e-4, schedule="linear"),
        ),
        eval=EvalConfig(shots=1),
    )

"""SmolLM2 135M through all stages on a laptop: a few hundred posts, pairs and episodes.

    rlhf-jax run --config=configs/tldr_smollm2_cpu.py --workdir=runs/tldr_smollm2_cpu \\
        --config.data.posts=FOLDER --config.data.comparisons=FOLDER

The model comes from the Hugging Face hub; --config.model.pretrained=FOLDER names another copy.
Hardware: two CPU cores and 16 GB, under two hours. It shows that a pretrained model goes the
whole way; it is too short to give a result. What came out: docs/smollm2.md.
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
        model=ModelConfig(pretrained="HuggingFaceTB/SmolLM2-135M"),
        data=DataConfig(query_tokens=256, query_buckets=(128, 192, 256), reward_response_tokens=96),
        sft=SftConfig(
            batch_size=16,
            epochs=0.14,
            optimizer=OptimizerConfig(learning_rate=5e-5, warmup=5),
            microbatches=4,
            save_every=10,
        ),
        reward=RewardConfig(
            batch_size=8,
            epochs=0.4,
            optimizer=OptimizerConfig(learning_rate=5e-5, warmup=3),
            microbatches=4,
            save_every=10,
        ),
        ppo=PpoConfig(
            episodes=160,
            batch_size=16,
            epochs=2,
            microbatches=4,
            optimizer=OptimizerConfig(learning_rate=1e-5, schedule="linear"),
            save_every=2,
        ),
        eval=EvalConfig(posts=32, best_of=4, shots=1),
    )

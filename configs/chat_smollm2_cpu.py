"""SmolLM2 135M Instruct on prompts and preferences of your own: a few hundred pairs and episodes.

    rlhf-jax run --config=configs/chat_smollm2_cpu.py --workdir=runs/chat_smollm2_cpu \\
        --config.data.files=pairs.jsonl

The model comes from the Hugging Face hub; --config.model.pretrained=FOLDER names another copy.
Hardware: two CPU cores and 16 GB, two hours. It shows that a table goes through, and is too short to
give a result. What came out: docs/chat_model.md.
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
        model=ModelConfig(pretrained="HuggingFaceTB/SmolLM2-135M-Instruct"),
        data=DataConfig(
            source="chat",
            query_tokens=160,
            query_buckets=(64, 96, 160),
            response_tokens=48,
            reward_response_tokens=96,
        ),
        sft=SftConfig(
            batch_size=16,
            epochs=0.25,
            optimizer=OptimizerConfig(learning_rate=2e-5, warmup=2),
            microbatches=4,
            save_every=10,
        ),
        reward=RewardConfig(
            batch_size=16,
            epochs=0.4,
            optimizer=OptimizerConfig(learning_rate=3e-5, warmup=3),
            microbatches=8,
            save_every=5,
        ),
        ppo=PpoConfig(
            episodes=96,
            batch_size=16,
            epochs=2,
            microbatches=4,
            optimizer=OptimizerConfig(learning_rate=1e-5, schedule="linear"),
            save_every=2,
        ),
        eval=EvalConfig(posts=16, best_of=4, shots=0),
    )

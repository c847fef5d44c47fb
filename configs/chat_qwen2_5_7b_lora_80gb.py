"""Qwen2.5 7B with low-rank adapters, on prompts and preferences of your own, on one GPU of 80 GB.

    rlhf-jax run --config=configs/chat_qwen2_5_7b_lora_80gb.py --workdir=runs/chat_qwen2_5_7b_lora_80gb \\
        --config.data.files=pairs.jsonl

The model comes from the Hugging Face hub; --config.model.pretrained=FOLDER names another copy.
What the table may hold: docs/howto/own_task.md.
Hardware: one GPU of 80 GB, since tldr_qwen2_5_7b_lora_80gb.py fits it (docs/one_card.md). Not run yet.
"""

from rlhf_jax.config import (
    Config,
    DataConfig,
    EvalConfig,
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
            pretrained="Qwen/Qwen2.5-7B-Instruct",
            dtype="bfloat16",
            lora=LoraConfig(rank=16, alpha=32.0),
            rematerialize=True,
        ),
        data=DataConfig(
            source="chat",
            query_tokens=512,
            query_buckets=(128, 256, 512),
            response_tokens=256,
            reward_response_tokens=384,
        ),
        sft=SftConfig(
            batch_size=32,
            optimizer=OptimizerConfig(learning_rate=3e-5, warmup=10),
            pack=False,
            microbatches=8,
            save_every=50,
        ),
        reward=RewardConfig(
            batch_size=32,
            optimizer=OptimizerConfig(learning_rate=3e-5, warmup=10),
            microbatches=16,
            save_every=50,
        ),
        ppo=PpoConfig(
            episodes=20_000,
            batch_size=64,
            microbatches=16,
            optimizer=OptimizerConfig(learning_rate=3e-5, schedule="linear"),
            save_every=20,
        ),
        eval=EvalConfig(posts=100, best_of=4, shots=0),
    )

"""Llama 3.2 3B with low-rank adapters, on prompts and preferences of your own, on one GPU of 24 GB.

    rlhf-jax run --config=configs/chat_llama3_2_3b_lora_24gb.py --workdir=runs/chat_llama3_2_3b_lora_24gb \\
        --config.data.files=pairs.jsonl

The model comes from the Hugging Face hub, where you accept its license first;
--config.model.pretrained=FOLDER names another copy.
What the table may hold: docs/howto/own_task.md.
Hardware: one GPU of 24 GB, by docs/one_card.md. Not run yet.
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
            pretrained="meta-llama/Llama-3.2-3B-Instruct",
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
            microbatches=16,
            save_every=50,
        ),
        reward=RewardConfig(
            batch_size=32,
            optimizer=OptimizerConfig(learning_rate=3e-5, warmup=10),
            microbatches=32,
            save_every=50,
        ),
        ppo=PpoConfig(
            episodes=20_000,
            batch_size=64,
            microbatches=32,
            optimizer=OptimizerConfig(learning_rate=3e-5, schedule="linear"),
            save_every=20,
        ),
        eval=EvalConfig(posts=100, best_of=4, shots=0),
    )

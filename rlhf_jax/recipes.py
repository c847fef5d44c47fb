"""Published settings of the whole pipeline, to start a configuration from.

P is Stiennon et al. (2020), N+ is Huang et al., "The N+ Implementation Details of RLHF with PPO" (2024).
"""

import dataclasses

from rlhf_jax.config import (
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    PpoConfig,
    RewardConfig,
    SftConfig,
)

PAPER_SIZES = {
    "1.3b": ModelConfig(width=2048, layers=24, heads=16, context=2048),
    "3b": ModelConfig(width=2560, layers=32, heads=32, context=2048),
    "6.7b": ModelConfig(width=4096, layers=32, heads=32, context=2048),
    "13b": ModelConfig(width=5120, layers=40, heads=40, context=2048),
}
"""The models of P: the GPT-2 architecture. Their weights were never published."""

SFT_RATES = {"1.3b": 6.35e-5, "3b": 5.66e-5, "6.7b": 2.83e-5, "13b": 2.83e-5}  # P
VOCABULARY = 50_304  # GPT-2's 50,257, rounded up so that it splits over `tensor`


def paper(size: str) -> Config:
    """P's settings for one of `PAPER_SIZES`; P trained 1.3b and 6.7b through all stages.

    The computation is in bfloat16 over float32 weights, with activations recomputed. Reward model and
    PPO of the other two sizes take the rates of the nearest.
    """
    large = size in ("6.7b", "13b")
    return Config(
        model=dataclasses.replace(PAPER_SIZES[size], dtype="bfloat16", rematerialize=True),
        data=DataConfig(vocabulary=VOCABULARY, queries="published"),
        sft=SftConfig(  # one post a row: packed rows are fewer than many pods have devices
            batch_size=128, optimizer=OptimizerConfig(learning_rate=SFT_RATES[size]), pack=False
        ),
        reward=RewardConfig(
            batch_size=64,
            seeds=3,
            batches=tuple(f"batch{i}" for i in range(3, 11)),
            optimizer=OptimizerConfig(learning_rate=5e-6 if large else 1.5e-5),
        ),
        ppo=PpoConfig(
            batch_size=256 if large else 512,
            optimizer=OptimizerConfig(learning_rate=7e-6 if large else 1.5e-5, schedule="linear"),
        ),
    )


def n_plus(pretrained: str, microbatches: int = 1) -> Config:
    """N+'s settings, for any pretrained model: one learning rate for all stages, AdamW, value slot after EOS.

    `microbatches` of every stage: more of them need less memory and change no number. Of pairs a batch
    has 64, so microbatches times devices must divide 64.
    """

    def adamw(**more) -> OptimizerConfig:
        return OptimizerConfig(learning_rate=3e-6, epsilon=1e-5, **more)

    return Config(
        model=ModelConfig(pretrained=pretrained, dtype="bfloat16", rematerialize=True),
        data=DataConfig(reward_response_tokens=169),
        sft=SftConfig(  # one post a row: the number of packed rows does not divide over every machine
            batch_size=128,
            optimizer=adamw(weight_decay=0.01),
            query_loss=True,
            pack=False,
            microbatches=microbatches,
        ),
        reward=RewardConfig(batch_size=64, optimizer=adamw(weight_decay=0.01), microbatches=microbatches),
        ppo=PpoConfig(
            batch_size=512,
            optimizer=adamw(schedule="linear"),
            score_at="after_eos",
            microbatches=microbatches,
        ),
    )

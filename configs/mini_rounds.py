"""Three rounds on the miniature; each asks about summaries of the newest policy.

    rlhf-jax run --config=configs/mini_rounds.py --workdir=runs/mini_rounds --stage=sft
    rlhf-jax run --config=configs/mini_rounds.py --workdir=runs/mini_rounds --stage=round

After the rounds there are 200, 600 and 1,800 comparisons; mini.py has 32,000 at once.
Hardware: two CPU cores, 7 to 8 minutes a round beside other work. What came out: docs/labelling.md.
"""

from rlhf_jax.config import (
    Config,
    DataConfig,
    EvalConfig,
    ModelConfig,
    OptimizerConfig,
    PpoConfig,
    RewardConfig,
    RoundsConfig,
    SftConfig,
)


def get_config() -> Config:
    return Config(
        model=ModelConfig(pretrained="mini/small"),
        data=DataConfig(
            source="mini",
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
        ),
        reward=RewardConfig(
            batch_size=32, epochs=4.0, microbatches=2, optimizer=OptimizerConfig(learning_rate=3e-4)
        ),
        ppo=PpoConfig(
            episodes=10_240,
            batch_size=128,
            epochs=2,
            microbatches=8,
            optimizer=OptimizerConfig(learning_rate=5e-4, schedule="linear"),
        ),
        eval=EvalConfig(shots=1, best_of=4),
        rounds=RoundsConfig(pairs=(200, 400, 1_200)),
    )

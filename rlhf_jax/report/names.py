"""What policies and measures are called where people read."""

NAMES = {
    "base": "pretrained",
    "sft": "SFT",
    "sft_10x": "SFT, 10× larger",
    "sft_on_news": "SFT on news",
    "ppo": "PPO",
    "lead_3": "first three sentences",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "perfect": "rated 7 overall",
}


def spoken(name: str) -> str:
    """The name of a policy, metric or axis in words."""
    return NAMES.get(name, name.replace("_", " "))

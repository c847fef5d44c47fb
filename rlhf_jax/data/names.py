"""What policies and measures are called where people read."""

import re
from collections.abc import Mapping
from types import MappingProxyType

NO_LABELS: Mapping[str, str] = MappingProxyType({})
NAMES = {
    "base": "pretrained",
    "sft": "SFT",
    "sft_10x": "SFT, 10× larger",
    "sft_on_news": "SFT on news",
    "ppo": "PPO",
    "reference": "reference",
    "title": "title",
    "lead": "lead",
    "lead_3": "first three sentences",
    "first_sentence": "first sentence",
    "first_two_sentences": "first two sentences",
    "template": "template",
    "key_sentences": "key sentences, copied",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "perfect": "rated 7 overall",
}


def spoken(name: str, labels: Mapping[str, str] = NO_LABELS) -> str:
    """The name of a policy, metric or axis in words; `labels` are those of a run's own networks."""
    return labels.get(name) or NAMES.get(name) or name.replace("_", " ")


def titled(name: str, labels: Mapping[str, str] = NO_LABELS) -> str:
    """The same as a heading has it: "best_of_16" → "Best of 16". A name of somebody else's stays as it is."""
    if name in labels or name in NAMES or re.fullmatch(r"best_of_\d+", name):
        said = spoken(name, labels)
        return said[0].upper() + said[1:]
    return name

from pathlib import Path

import pytest

from rlhf_jax.config import Config, LoraConfig, ModelConfig
from rlhf_jax.model import families, params, transformer
from rlhf_jax.plan import planned
from rlhf_jax.plan.published import SHAPES
from rlhf_jax.plan.topologies import Topology
from rlhf_jax.run.config_flags import CONFIGS

CARD = Topology("h100", [None], "cuda", None, "none")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [  # as the hub counts them, the embedding once where the output is tied to it
        ("openai-community/gpt2", 124_439_808),
        ("HuggingFaceTB/SmolLM2-135M", 134_515_008),
        ("EleutherAI/pythia-160m-deduped", 162_322_944),
        ("EleutherAI/pythia-1b-deduped", 1_011_781_632),
        ("EleutherAI/pythia-2.8b-deduped", 2_775_208_960),
        ("EleutherAI/pythia-6.9b-deduped", 6_857_302_016),
        ("Qwen/Qwen3-0.6B-Base", 596_049_920),
        ("google/gemma-3-1b-pt", 999_885_952),
        ("meta-llama/Llama-3.2-3B", 3_212_749_824),
        ("Qwen/Qwen2.5-7B", 7_615_616_512),
    ],
)
def test_the_number_of_parameters_is_the_published_one(name, parameters):
    fields, vocabulary = SHAPES[name]
    model = families.read(fields, name)[1]
    assert params.count(transformer.specs(model, vocabulary)) == parameters


def test_every_model_of_configs_can_be_planned_without_its_folder():
    files = [file for folder in CONFIGS for file in folder.glob("*.py")]
    named = {line for file in files for line in Path(file).read_text().split('"') if line in SHAPES}
    assert named >= {"google/gemma-3-1b-it", "meta-llama/Llama-3.2-3B", "Qwen/Qwen2.5-7B"}
    hub = [text for file in files for text in Path(file).read_text().split('"') if looks_like_the_hub_s(text)]
    assert set(hub) <= set(SHAPES)


def looks_like_the_hub_s(text: str) -> bool:
    owner, slash, name = text.partition("/")
    return bool(slash) and owner.isidentifier() and owner != "mini" and " " not in name and "\n" not in name


def test_a_public_model_is_planned_as_a_gpu_runs_it():
    lora = LoraConfig(rank=4)
    config = Config(model=ModelConfig(pretrained="Qwen/Qwen2.5-7B", dtype="bfloat16", lora=lora))
    model, vocabulary = planned.architecture(config, CARD)
    assert (model.layers, model.key_value_heads, vocabulary) == (28, 4, 152_064)
    assert (model.attention, model.layer_loop, model.lora) == ("cudnn", "scan", lora)


def test_a_folder_of_that_name_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Qwen/Qwen2.5-7B").mkdir(parents=True)
    config = Config(model=ModelConfig(pretrained="Qwen/Qwen2.5-7B"))
    with pytest.raises(Exception, match=r"Qwen2.5-7B/config.json"):
        planned.architecture(config, CARD)

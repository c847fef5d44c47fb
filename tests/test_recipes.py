import importlib.util
from pathlib import Path

import pytest
from jax.sharding import AbstractMesh

from rlhf_jax import recipes
from rlhf_jax.config import Config
from rlhf_jax.mesh import AXES, check_rows
from rlhf_jax.model import params, transformer
from rlhf_jax.validation import check_context, validate

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))


def load(file: Path):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_configuration_is_valid_and_says_how_to_run_it(file):
    module = load(file)
    config = module.get_config()
    assert isinstance(validate(config), Config)
    assert config.sft.optimizer is not config.reward.optimizer  # overriding one must leave the other
    assert f"--config=configs/{file.name} --workdir=runs/{file.stem}" in module.__doc__


@pytest.mark.parametrize(
    ("name", "devices"),
    [
        ("mini", 4),
        ("tldr_gpt2", 8),
        ("tldr_smollm2_135m", 8),
        ("tldr_smollm2_135m_lora", 8),
        ("tldr_qwen3_0_6b_lora", 1),
        ("tldr_gemma3_1b_lora", 1),
        ("tldr_llama3_2_3b_lora_24gb", 1),
        ("tldr_qwen2_5_7b_lora_80gb", 1),
        ("chat_qwen3_0_6b_lora", 1),
        ("chat_gemma3_1b_lora", 1),
        ("chat_llama3_2_3b_lora_24gb", 1),
        ("chat_qwen2_5_7b_lora_80gb", 1),
        ("tldr_pythia_160m", 8),
        ("tldr_pythia_1b", 16),
        ("tldr_pythia_2_8b", 16),
        ("tldr_pythia_6_9b", 64),
        ("paper_1_3b", 64),
        ("paper_6_7b", 64),
    ],
)
def test_batches_divide_over_the_devices_that_the_documentation_names(name, devices):
    config = load(CONFIGS[0].parent / f"{name}.py").get_config()
    mesh = AbstractMesh((1, devices, 1), AXES)
    assert not config.sft.pack  # packed rows are as many as the texts make them
    for stage in ("sft", "reward", "ppo"):
        options = getattr(config, stage)
        check_rows(stage, options.batch_size, options.microbatches, mesh)


@pytest.mark.parametrize(("size", "billions"), [("1.3b", 1.3), ("3b", 2.7), ("6.7b", 6.7), ("13b", 12.9)])
def test_the_paper_s_models_have_the_paper_s_sizes(size, billions):
    """Within 3% of the sizes of the GPT-3 family (Brown et al., 2020, table 2.1)."""
    specs = transformer.specs(recipes.PAPER_SIZES[size], recipes.VOCABULARY)
    assert params.count(specs) == pytest.approx(billions * 1e9, rel=0.03)


@pytest.mark.parametrize("size", recipes.PAPER_SIZES)
def test_a_few_shot_prompt_fits_the_paper_s_context(size):
    config = recipes.paper(size)
    config.model.pretrained = "a folder"
    check_context(config, config.model)


def test_the_paper_trained_on_a_million_episodes_with_a_fixed_penalty():
    ppo = recipes.paper("6.7b").ppo
    assert (ppo.episodes, ppo.batch_size, ppo.epochs, ppo.kl_coef) == (1_000_000, 256, 4, 0.05)
    assert (ppo.kl_controller, ppo.optimizer.learning_rate, ppo.optimizer.schedule) == (
        "fixed",
        7e-6,
        "linear",
    )


def test_the_paper_s_reward_models_saw_batches_3_to_10_and_several_seeds():
    reward = recipes.paper("1.3b").reward
    assert reward.batches == tuple("batch3 batch4 batch5 batch6 batch7 batch8 batch9 batch10".split())
    assert 3 <= reward.seeds <= 10

"""The recipes for one card, checked with a folder of their model's shape and its family's chat template."""

import json
import runpy
from pathlib import Path

import chat_folders
import pytest

from rlhf_jax.main import main
from rlhf_jax.plan.published import SHAPES

CONFIGS = Path(__file__).parents[2] / "configs"
TEMPLATES = {
    "qwen3_0_6b_lora": "qwen3",
    "gemma3_1b_lora": "gemma3",
    "llama3_2_3b_lora_24gb": "llama3",
    "qwen2_5_7b_lora_80gb": "qwen2.5",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return chat_folders.write_folders(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("task", ["tldr", "chat"])
@pytest.mark.parametrize("model", TEMPLATES)
def test_a_recipe_starts_from_a_folder_of_its_model(task, model, folders, tmp_path, capsys):
    file = CONFIGS / f"{task}_{model}.py"
    config = runpy.run_path(str(file))["get_config"]()
    fields, vocabulary = SHAPES[config.model.pretrained]
    folder = folders[TEMPLATES[model]]
    (folder / "config.json").write_text(json.dumps(fields | {"vocab_size": vocabulary}))
    arguments = [f"--config={file}", f"--workdir={tmp_path / 'run'}", f"--config.model.pretrained={folder}"]
    if task == "chat":
        pairs = tmp_path / "pairs.jsonl"
        rows = [{"prompt": f"What is {i}?", "chosen": "a number", "rejected": "no"} for i in range(200)]
        pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
        arguments.append(f"--config.data.files={pairs}")
    status = main(["rlhf-jax run", *arguments, "--check"])
    out, err = capsys.readouterr()
    assert (status, out) == (0, f"{tmp_path / 'run'}: sft, collect, reward, ppo, eval\n"), err


@pytest.mark.parametrize("model", TEMPLATES)
def test_all_four_networks_share_one_frozen_base_in_half_precision(model):
    for task in ("tldr", "chat"):
        config = runpy.run_path(str(CONFIGS / f"{task}_{model}.py"))["get_config"]()
        assert config.model.lora.rank > 0 and config.model.dtype == "bfloat16"
        assert config.ppo.algorithm == "ppo" and config.ppo.batch_size >= 16
    tldr = runpy.run_path(str(CONFIGS / f"tldr_{model}.py"))["get_config"]()
    assert (tldr.data.query_tokens, tldr.data.response_tokens) == (512, 53)

"""What is wrong with a run's texts is found before anything is trained."""

import chat_folders
import pytest

from rlhf_jax.config import Config, ConfigError, DataConfig
from rlhf_jax.data.batches import BatchError
from rlhf_jax.data.record_json import write_jsonl
from rlhf_jax.data.records import RecordError
from rlhf_jax.pipeline import beforehand, stages

TEMPLATE = "{% for turn in messages %}<|im_start|>{{ turn.role }} {{ turn.content }}<|im_end|>{% endfor %}"
BAD_TEMPLATES = {
    "none": (None, "no chat template"),
    "one that does not compile": ("{% for turn in", "does not compile"),
    "one that refuses all": ("{{ raise_exception('No!') }}", "refuses this conversation: No!"),
    "one that fails": ("{{ messages[0].content + 1 }}", "fails on this conversation"),
    "one without an EOS": (TEMPLATE.replace("<|im_end|>", "."), "without an EOS of the policy"),
    "one that refuses a system": (
        "{% if messages[0].role == 'system' %}{{ raise_exception('No system!') }}{% endif %}" + TEMPLATE,
        "No system!",
    ),
    "one that leaves out a tool": (
        "{% for turn in messages if turn.role != 'tool' %}" + TEMPLATE.partition("%}")[2],
        "leaves out turn 2",
    ),
}


def config_of(folder, rows, source="plain") -> Config:
    """A run on tables with these rows, with batches of 4."""
    write_jsonl(folder / "rows.jsonl", rows)
    config = Config(data=DataConfig(source=source, files=str(folder / "rows.jsonl")))
    config.sft.pack = config.distill.pack = False
    for stage in (config.sft, config.reward, config.dpo, config.distill, config.ppo):
        stage.batch_size = 4
    return config


def pairs(count: int) -> list[dict]:
    return [{"prompt": f"{i}?", "chosen": "a", "rejected": "b"} for i in range(count)]


@pytest.mark.parametrize("what", BAD_TEMPLATES)
def test_a_template_is_asked_for_every_sequence_of_roles_wherever_it_stands(tmp_path, what):
    """Here the unusual ones stand behind sixty others."""
    spoken = [["user"]] * 60 + [["system", "user"], ["user", "tool"]] * 30
    prompts = [[{"role": role, "content": f"{role} {i}"} for role in roles] for i, roles in enumerate(spoken)]
    answer = [{"role": "assistant", "content": "a"}]
    config = config_of(tmp_path, [{"prompt": prompt, "completion": answer} for prompt in prompts], "chat")
    template, words = BAD_TEMPLATES[what]
    folder = chat_folders.write_folder(tmp_path / "model", template, {"eos_token": "<|im_end|>"})
    with pytest.raises((ConfigError, RecordError), match=words):
        beforehand.encode(config, beforehand.look(config, ["sft"]), folder)
    chat_folders.write_folder(folder, TEMPLATE, {"eos_token": "<|im_end|>"})
    beforehand.encode(config, beforehand.look(config, ["sft"]), folder)


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo", "distill", "ppo"])
def test_every_stage_has_the_rows_for_a_batch(tmp_path, stage):
    config = config_of(tmp_path, pairs(60))
    beforehand.look(config, stages.names())
    getattr(config, stage).batch_size = 64
    with pytest.raises(BatchError, match=rf"^{stage}\.batch_size: \d+ rows do not fill a batch of 64"):
        beforehand.look(config, stages.names())
    beforehand.look(config, [name for name in stages.names() if name != stage])


def test_fine_tuning_needs_responses_and_ppo_none(tmp_path):
    config = config_of(tmp_path, [{"prompt": f"{i}?"} for i in range(60)])
    beforehand.look(config, ["ppo"])
    with pytest.raises(RecordError, match="records have no reference"):
        beforehand.look(config, ["sft", "ppo"])


def test_texts_that_are_generated_or_published_are_left_to_the_stages():
    for source in ("mini", "tldr"):
        assert beforehand.look(Config(data=DataConfig(source=source)), stages.names()) == []

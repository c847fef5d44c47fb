"""Prompts as they stand in tables, and nothing around them."""

import json
from dataclasses import replace

import pytest

from rlhf_jax.config import ConfigError, DataConfig, SftConfig
from rlhf_jax.data import task as tasks
from rlhf_jax.data.batches import SftPlan
from rlhf_jax.data.records import Example, RecordError
from rlhf_jax.data.tasks.plain import Plain


class Characters:
    """One token a character behind a prefix of one; 128 is EOS."""

    vocab_size, eos_id, pad_id, prefix = 129, 128, 129, (7,)

    def encode(self, text):
        return [ord(c) for c in text]


def test_a_prompt_is_nothing_but_itself_and_loses_its_beginning():
    task = Plain(DataConfig(query_tokens=6))
    whole, cut = task.encode_prompts([Example("a", "short"), Example("b", "longer")], Characters())
    assert whole == [[7, *map(ord, "short")], [7, *map(ord, "onger")]] and cut == 1
    responses, truncated = task.encode_responses(["ab", " ab"], Characters(), 3)
    assert responses == [[*map(ord, "ab"), 128], [*map(ord, " a"), 128]] and truncated == 1
    assert task.text(" a\n") == " a\n" and task.baselines([Example("a", "b", "c")], Characters()) == {}


class Ascii(Characters):
    """Reads nothing else."""

    def encode(self, text):
        return [ord(c) for c in text if c.isascii()]


def test_a_prompt_without_a_token_is_refused_and_references_without_one_are_told(capsys):
    task = Plain(DataConfig(query_tokens=6, query_buckets=(6,), response_tokens=5))
    with pytest.raises(RecordError, match="^a: the tokenizer has no token for anything in the prompt"):
        task.encode(Example("a", "日本"), Ascii())
    records = [Example("a", "why", "日本"), Example("b", "why", "ab")]
    SftPlan(records, Ascii(), task, SftConfig(batch_size=2), 0).tell("sft")
    told = "sft: 1 of 2 references have no token in this tokenizer, and teach to write nothing\n"
    assert capsys.readouterr().out == told


def test_a_prompt_needs_room_behind_the_prefix():
    with pytest.raises(ConfigError, match="data.query_tokens: 1 leaves no room for a prompt"):
        Plain(DataConfig(query_tokens=1)).encode(Example("a", "short"), Characters())


def test_a_base_model_may_answer_in_several_lines():
    task = Plain(DataConfig()).few_shot([Example("a", "1 + 1?", " 2.")])
    assert task.prompt(Example("b", "2 + 2?")).text == "1 + 1? 2.\n\n=====\n\n2 + 2?"
    assert task.text(" One.\nTwo.\n\n=====\n\nmore") == " One.\nTwo.\n\n"


def test_conversations_are_refused_with_what_reads_them(tmp_path):
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    rows = [{"messages": [turns[0] | {"content": str(i)}, turns[1]]} for i in range(50)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = DataConfig(source="plain", files=str(tmp_path / "a.jsonl"))
    with pytest.raises(RecordError, match=r"a.jsonl, line \d+: the prompt is a conversation; .*source=chat"):
        tasks.find(data, 0).records()
    found = tasks.find(replace(data, source="chat"), 0).gathered
    assert sum(map(len, found.records.values())) == 50

"""Conversations as the chat template writes them: what is cut, what is learned, and what is carried along."""

import chat_folders
import pytest

from rlhf_jax.config import ConfigError, DataConfig, SftConfig
from rlhf_jax.data.batches import SftPlan
from rlhf_jax.data.records import Example, RecordError, Turn
from rlhf_jax.data.tasks.chat import Chat, parse_variables

LONG = (
    Turn("system", "You are a robin."),
    Turn("user", "Why did it sing?"),
    Turn("assistant", "Spring."),
    Turn("user", "And then?"),
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return chat_folders.write_folders(tmp_path_factory.mktemp("chat"))


def task_of(limit: int = 500, **data) -> Chat:
    return Chat(DataConfig(source="chat", query_tokens=limit, query_buckets=(limit,), **data))


def encoded(record, tokenizer, limit: int) -> list[int]:
    return task_of(limit).encode(record, tokenizer)


def test_a_conversation_loses_its_first_turns_and_then_the_beginning_of_the_last(folders):
    tokenizer = task_of().load_tokenizer(folders["smollm2"])
    chat, record = tokenizer.chat, Example("a", LONG)
    whole = encoded(record, tokenizer, 500)
    assert whole == chat.encode(LONG, generation_prompt=True)
    kept = chat.encode([LONG[0], LONG[3]], generation_prompt=True)
    assert encoded(record, tokenizer, len(whole) - 1) == kept
    shorter = encoded(record, tokenizer, len(kept) - 1)
    text = "".join(chat_folders.written(folders["smollm2"], shorter))
    assert len(shorter) < len(kept) and text.startswith("<|im_start|>system\nYou are a robin.<|im_end|>\n")
    assert text.endswith("nd then?<|im_end|>\n<|im_start|>assistant\n")
    empty = chat.encode([LONG[0], Turn("user", "")], generation_prompt=True)
    with pytest.raises(
        RecordError, match=rf"^a: without any text the prompt takes more than {len(empty) - 5}"
    ):
        encoded(record, tokenizer, len(empty) - 5)
    (_, cut) = task_of(len(kept)).encode_prompts([record, Example("b", "Hi?")], tokenizer)
    assert cut == 1


@pytest.mark.parametrize("name", chat_folders.TEMPLATES)
def test_prompt_and_response_together_are_the_templates_conversation(name, folders):
    """Up to the EOS that ends the answer."""
    tokenizer = task_of().load_tokenizer(folders[name])
    query = encoded(Example("a", chat_folders.Q), tokenizer, 500)
    (response,), truncated = task_of().encode_responses([chat_folders.A], tokenizer, 100)
    turns = [Turn("user", chat_folders.Q), Turn("assistant", chat_folders.A)]
    whole = tokenizer.chat.encode(turns, generation_prompt=False)
    together = "".join(chat_folders.written(folders[name], [*query, *response]))
    assert "".join(chat_folders.written(folders[name], whole)).startswith(together) and truncated == 0
    if name != "llama3":  # whose blank line the tokenizer of these tests cuts in two before a word
        assert [*query, *response] == whole[: len(query) + len(response)]
    assert response[-1] in tokenizer.eos_ids
    (cut,), truncated = task_of().encode_responses([chat_folders.A], tokenizer, 5)
    assert cut == [*response[:4], tokenizer.eos_id] and truncated == 1


def test_the_assistants_turns_are_learned_and_no_others(folders):
    task = task_of()
    tokenizer = task.load_tokenizer(folders["smollm2"])
    options = SftConfig(batch_size=1, pack=False)
    plan = SftPlan([Example("a", LONG, "It left.")], tokenizer, task, options, 0)
    batch = plan.collate([0], 600)
    learned = batch["tokens"][0][batch["targets_mask"][0] == 1]
    text = "".join(chat_folders.written(folders["smollm2"], learned))
    assert text == "Spring.<|im_end|>It left.<|im_end|>" and plan.most_targets == len(learned)


def test_earlier_answers_that_are_not_learned_are_told(folders, capsys):
    """Qwen3 puts something else before the last answer, and before a first turn nothing is asked."""
    tokenizer = task_of(template_variables="enable_thinking=false").load_tokenizer(folders["qwen3"])
    asked = [LONG, (Turn("assistant", "Hi."), LONG[3]), LONG[3:]]
    records = [Example(str(i), prompt, "It left.") for i, prompt in enumerate(asked)]
    options = SftConfig(batch_size=3, pack=False)
    plan = SftPlan(records, tokenizer, task_of(), options, 0)
    plan.tell("sft")
    told = "sft: 2 of 3 prompts have answers that stand behind no generation prompt, and are not learned"
    assert told in capsys.readouterr().out
    learned = plan.batch(0)["targets_mask"].astype(bool)
    (response,), _ = task_of().encode_responses(["It left."], tokenizer, 100)
    assert (learned.sum(1) == len(response)).all()


def test_a_response_ends_at_each_of_the_eos(folders):
    tokenizer = task_of().load_tokenizer(folders["gemma2"])
    assert len(tokenizer.eos_ids) == 2
    for eos in tokenizer.eos_ids:
        assert tokenizer.decode([*tokenizer.encode("ab"), eos, *tokenizer.encode("c")]) == "ab"


@pytest.mark.parametrize("name", chat_folders.TEMPLATES)
def test_a_saved_tokenizer_chats_as_before(name, folders, tmp_path):
    before = task_of().load_tokenizer(folders[name])
    before.save(tmp_path)
    after = task_of().load_tokenizer(tmp_path)
    turns = LONG if name != "gemma2" else LONG[1:]
    assert after.chat.encode(turns, True) == before.chat.encode(turns, True)
    assert (after.eos_id, after.eos_ids, after.vocab_size) == (
        before.eos_id,
        before.eos_ids,
        before.vocab_size,
    )


def test_variables_are_the_templates(folders):
    quick = task_of(template_variables="enable_thinking=false").load_tokenizer(folders["qwen3"])
    assert "<think>" in "".join(
        chat_folders.written(folders["qwen3"], quick.chat.encode([Turn("user", "a")], True))
    )
    for name, told in (("enable_thinkin", "is read nowhere"), ("messages", "comes from the conversation")):
        with pytest.raises(ConfigError, match=f"data.template_variables: .*: {name} {told}"):
            task_of(template_variables=f"{name}=1").load_tokenizer(folders["qwen3"])
    assert parse_variables(" a=1, b = x y,c=true") == {"a": 1, "b": "x y", "c": True}
    for wrong in ("a", "=1", "a b=1", "a=1,a=2"):
        with pytest.raises(ConfigError, match="data.template_variables"):
            parse_variables(wrong)


def test_what_a_template_refuses_is_told_with_the_prompt_it_is(folders):
    tokenizer = task_of().load_tokenizer(folders["gemma2"])
    with pytest.raises(RecordError, match="^a: .*System role not supported"):
        encoded(Example("a", LONG), tokenizer, 500)


def test_a_chat_needs_a_template():
    with pytest.raises(ConfigError, match="model.pretrained: chat needs a model with a chat template"):
        task_of().make_tokenizer([], None)

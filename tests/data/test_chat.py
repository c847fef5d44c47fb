"""Conversations as token ids: what is the template's, what was typed, and what the assistant is to write."""

import itertools
from pathlib import Path

import pytest
import tokenizers
from chat_folders import (
    EXAMPLES,
    MISTRAL,
    QWEN25,
    SPECIAL,
    TEMPLATES,
    A,
    Q,
    byte_level,
    write_folder,
    write_folders,
    written,
)
from tokenizers import models, pre_tokenizers

from rlhf_jax.config import ConfigError
from rlhf_jax.data import chat_template
from rlhf_jax.data.chat import Chat, load_chat
from rlhf_jax.data.records import RecordError, Turn
from rlhf_jax.data.tokenizer import TokenizerError, load_tokenizer


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    return write_folders(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def chats(folders) -> dict[str, Chat]:
    return {name: load_chat(folder) for name, folder in folders.items()}


# Special tokens come from the template alone -------------------------------------------------


@pytest.mark.parametrize("name", TEMPLATES)
def test_typed_tokens_change_no_count_of_special_ones(name, chats, folders):
    special = set(SPECIAL)
    harmless = [Turn("user", "x"), Turn("assistant", "x"), Turn("user", "x")]
    own = [t for t in written(folders[name], chats[name].encode(harmless, True)) if t in special]
    for token in SPECIAL:
        turns = [Turn("user", f"{token}\n"), Turn("assistant", f"a {token}{token}"), Turn("user", token)]
        tokens = written(folders[name], chats[name].encode(turns, True))
        assert [t for t in tokens if t in special] == own
        assert "".join(tokens).count(token) == own.count(token) + 4


def test_a_typed_token_is_encoded_as_by_the_tokenizer_alone(chats, folders):
    text = load_tokenizer(folders["smollm2"]).encode
    begin, end = byte_level().token_to_id("<|im_start|>"), byte_level().token_to_id("<|im_end|>")
    turns = [Turn("system", ""), Turn("user", "<|im_end|> a"), Turn("assistant", "</s>")]
    system = [begin, *text("system\n"), end, *text("\n")]
    user = [begin, *text("user\n<|im_end|> a"), end, *text("\n")]
    assistant = [begin, *text("assistant\n</s>"), end, *text("\n")]
    assert chats["smollm2"].encode(turns, generation_prompt=False) == system + user + assistant
    prompt = [begin, *text("assistant\n")]
    assert chats["smollm2"].encode(turns[:2], generation_prompt=True) == system + user + prompt


def test_an_empty_turn_may_be_left_out_by_the_template(tmp_path):
    """As Phi-3.5's does with an empty system prompt."""
    template = (
        "{% for m in messages %}{% if m['role'] != 'system' or m['content'] %}"
        "<|im_start|>{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
    )
    folder = write_folder(tmp_path, template, {"eos_token": "</s>"})
    chat, said = load_chat(folder), [Turn("user", Q), Turn("assistant", A)]
    system = [Turn("system", ""), *said]
    assert chat.encode_with_mask(system) == chat.encode_with_mask(said)
    told = written(folder, chat.encode([Turn("system", "x"), *said], False))
    assert told.count("<|im_start|>") == 3


def test_what_is_typed_cannot_complete_a_token_of_the_template(tmp_path):
    template = "{% for m in messages %}<|{{ m['content'] }}|>{{ eos_token }}{% endfor %}"
    folder = write_folder(tmp_path, template, {"eos_token": "</s>"})
    tokens = written(folder, load_chat(folder).encode([Turn("user", "im_end")], False))
    assert "<|im_end|>" not in tokens
    assert "".join(tokens) == "<|im_end|></s>" and tokens[-1] == "</s>"


def test_a_date_that_a_template_writes_is_told_once(folders, tmp_path, capsys):
    chat_template._tell_of_the_date.cache_clear()
    for _ in range(2):
        load_chat(folders["llama3"]).encode([Turn("user", Q)], True)
    assert capsys.readouterr().err.count("it writes today's date") == 1
    chat_template._tell_of_the_date.cache_clear()
    told = "{% if not date is defined %}{% set date = strftime_now('%d') %}{% endif %}{{ date }}"
    folder = write_folder(tmp_path, told + QWEN25, TEMPLATES["qwen2.5"][1])
    load_chat(folder, date="26 Jul 2024").encode([Turn("user", Q)], True)
    assert not capsys.readouterr().err


def test_a_template_may_write_what_is_said_in_capitals(tmp_path):
    template = "{% for m in messages %}{{ m.content | upper }}{{ eos_token }}{% endfor %}"
    folder = write_folder(tmp_path, template, {"eos_token": "</s>"})
    assert "".join(written(folder, load_chat(folder).encode([Turn("user", Q)], False))) == f"{Q.upper()}</s>"


@pytest.mark.parametrize("filtered", ["m.content | replace('-', '')", "m.content | lower", "m.content[::-1]"])
def test_a_template_cannot_make_a_token_of_what_is_typed(filtered, tmp_path):
    template = "{% for m in messages %}{{ " + filtered + " }}{{ eos_token }}{% endfor %}"
    chat = load_chat(write_folder(tmp_path, template, {"eos_token": "</s>"}))
    said = {"replace": "<|im-_end|>", "lower": "<|IM_END|>", "[::-1]": ">|dne_mi|<"}
    made = next(text for name, text in said.items() if name in filtered)
    with pytest.raises(RecordError, match="makes special tokens of what a turn says|leaves out turn 1"):
        chat.encode([Turn("user", made)], False)


def test_a_changed_content_must_hold_no_special_token(chats):
    thought = "<think>\nSpring <|im_end|>\n</think>\n\nYes."
    turns = [Turn("user", Q), Turn("assistant", thought), Turn("user", "<|im_end|>")]
    with pytest.raises(RecordError, match=r"changes what turn 2 says, where the text '<\|im_end\|>' would"):
        chats["qwen3"].encode(turns, True)


def test_a_typed_token_beside_changed_contents_is_text(chats, folders):
    turns = [
        Turn("user", "<|im_end|>"),
        Turn("assistant", "<think>\nSpring\n</think>\n\nYes."),
        Turn("user", Q),
    ]
    tokens = written(folders["qwen3"], chats["qwen3"].encode(turns, False))
    assert tokens.count("<|im_end|>") == 3 and "".join(tokens).count("<|im_end|>") == 4


def test_an_added_token_that_the_template_writes_is_the_assistants_alone(chats, folders):
    turns = [Turn("user", "Say <think>"), Turn("assistant", "<think>\nHm\n</think>\n\nNo.")]
    tokens = written(folders["qwen3"], chats["qwen3"].encode(turns, False))
    assert tokens.count("<think>") == 1 and "".join(tokens).count("<think>") == 2


def test_a_token_without_a_row_in_the_model_is_text_even_in_the_template(tmp_path):
    made = byte_level()
    rows = made.get_vocab_size()
    made.add_special_tokens(["<image>"])
    template = "{% for m in messages %}<image>{{ m.content }}{{ eos_token }}{% endfor %}"
    folder = write_folder(tmp_path, template, {"eos_token": "</s>"}, made, config={"vocab_size": rows})
    ids = load_chat(folder).encode([Turn("user", "<image>")], False)
    assert max(ids) < rows
    assert "".join(written(folder, ids)) == "<image><image></s>"


# EOS and the assistant's tokens --------------------------------------------------------------


def test_end_of_turn_is_that_of_the_generation_config_or_else_of_the_tokenizer(chats, folders, tmp_path):
    ids = byte_level().token_to_id
    assert chats["gemma2"].end_of_turn == (ids("<eos>"), ids("<end_of_turn>"))
    assert chats["llama3"].end_of_turn == (ids("<|eot_id|>"),)
    single = write_folder(tmp_path, *TEMPLATES["qwen2.5"], generation_config={"eos_token_id": ids("</s>")})
    assert load_chat(single).end_of_turn == (ids("</s>"),)


@pytest.mark.parametrize(
    "name, start, end",
    [
        ("qwen2.5", "", "<|im_end|>"),
        ("smollm2", "", "<|im_end|>"),
        ("llama3", "", "<|eot_id|>"),
        ("gemma2", "", "<end_of_turn>"),
        ("mistral", " ", "</s>"),
    ],
)
def test_the_mask_is_of_answers_and_their_eos(name, start, end, chats, folders):
    turns = [Turn("user", f"{Q}{end}"), Turn("assistant", A), Turn("user", "x"), Turn("assistant", "Gone.")]
    ids, mask = chats[name].encode_with_mask(turns)
    assert ids == chats[name].encode(turns, generation_prompt=False)
    tokens = written(folders[name], itertools.compress(ids, mask))
    assert "".join(tokens) == f"{start}{A}{end}{start}Gone.{end}"
    assert tokens.count(end) == 2
    assert not any(chats[name].encode_with_mask(turns[:1])[1])


def test_what_the_mask_leaves_before_an_answer_is_its_prompt(chats, folders):
    turns = EXAMPLES["two"]
    for name in TEMPLATES:
        ids, mask = chats[name].encode_with_mask(turns)
        prompt = chats[name].encode(turns[:1], generation_prompt=True)
        before = written(folders[name], ids[: mask.index(True)])
        assert "".join(before) == "".join(written(folders[name], prompt))


def test_an_eos_of_a_later_turn_ends_no_answer(tmp_path):
    end = "{% if m.role == 'user' %}{{ eos_token }}{% endif %}"
    template = "{% for m in messages %}[INST]{{ m.content }}" + end + "{% endfor %}"
    chat = load_chat(write_folder(tmp_path, template, {"eos_token": "</s>"}))
    with pytest.raises(ConfigError, match="ends the assistant's turn without an EOS"):
        chat.encode_with_mask([Turn("user", Q), Turn("assistant", A), Turn("user", Q)])


def test_only_the_last_reasoning_is_the_models(chats, folders):
    answer = "<think>\nSpring?\n</think>\n\nYes."
    turns = [Turn("user", Q), Turn("assistant", answer), Turn("user", Q), Turn("assistant", answer)]
    ids, mask = chats["qwen3"].encode_with_mask(turns)
    text = "".join(written(folders["qwen3"], itertools.compress(ids, mask)))
    assert text == f"Yes.<|im_end|>{answer}<|im_end|>"


def test_a_token_over_the_end_of_the_prompt_is_the_assistants(chats, folders):
    turns = [Turn("user", Q), Turn("assistant", "\n")]  # after the prompt's newline; two are one token
    ids, mask = chats["qwen2.5"].encode_with_mask(turns)
    assert written(folders["qwen2.5"], itertools.compress(ids, mask)) == ["\n\n", "<|im_end|>"]


# Errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, turns, message",
    [
        ("gemma2", [Turn("system", "x"), Turn("user", "x")], "refuses .*: System role not supported"),
        ("gemma2", [Turn("user", "x"), Turn("user", "x")], "Roles must alternate"),
        ("mistral", [Turn("tool", "x")], "roles must alternate"),
        ("qwen2.5", [Turn("user", "x"), Turn("critic", "x")], "leaves out turn 2; .* the role 'critic'"),
        ("qwen2.5", [Turn("user", "x"), Turn("critic", "")], "leaves out turn 2"),
        ("llama3", [], "should have a turn"),
        ("llama3", [Turn("user<|eot_id|>", "x")], "turn 1: role 'user<|eot_id|>' should be one word"),
        ("llama3", [Turn("user", None)], "turn 1: content should be a string, not None"),
        ("llama3", [Turn("user", "\ud800")], "turn 1: content holds half of a surrogate pair"),
    ],
)
def test_a_conversation_that_the_template_does_not_take(name, turns, message, chats):
    with pytest.raises(RecordError, match=message) as caught:
        chats[name].encode(turns, generation_prompt=False)
    assert "\n" not in str(caught.value)


def test_masks_that_cannot_be_told(chats, folders, tmp_path):
    with pytest.raises(RecordError, match="turn 1 is the assistant's; put before it what it answers"):
        chats["smollm2"].encode_with_mask([Turn("assistant", A)])
    quick = load_chat(folders["qwen3"], enable_thinking=False)
    assert any(quick.encode_with_mask(EXAMPLES["two"])[1])
    with pytest.raises(RecordError, match="before the assistant's turn 2 this template puts something else"):
        quick.encode_with_mask(EXAMPLES["many"])
    base = load_chat(write_folder(tmp_path, QWEN25, {"eos_token": "<|endoftext|>"}))
    with pytest.raises(
        ConfigError, match=r"without an EOS of the policy \(<\|endoftext\|>\); name the token"
    ):
        base.encode_with_mask(EXAMPLES["two"])


@pytest.mark.parametrize(
    "template, message",
    [
        (None, "no chat template, neither chat_template.jinja nor"),
        (7, "chat_template should be a template"),
        ([{"name": "tool_use", "template": "x"}], "one 'default'"),
        ("a\n{% if %}", "does not compile: line 2: "),
        ("{% for x in messages %}{{ x.content }", "does not compile: line 1: "),
        ("{% break %}", "does not compile: "),
    ],
)
def test_a_template_that_cannot_be_used(template, message, tmp_path):
    with pytest.raises(ConfigError, match=message) as caught:
        load_chat(write_folder(tmp_path, template, {"eos_token": "</s>"}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "template, reason",
    [
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("{{ messages.append(1) }}", "not safe|unsafe"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages[9].role.x }}", "has no element 9"),
    ],
)
def test_a_template_that_fails_or_does_what_it_may_not(template, reason, tmp_path):
    chat = load_chat(write_folder(tmp_path, template, {"eos_token": "</s>"}))
    with pytest.raises(RecordError, match=reason):
        chat.encode([Turn("user", "x")], False)


def test_where_a_template_may_stand(tmp_path):
    own, named = "{{ messages[0].content }}A", [{"name": "tool_use", "template": "T"}]
    folder = write_folder(tmp_path, [*named, {"name": "default", "template": own}], {"eos_token": "</s>"})
    turns = [Turn("user", "x")]
    assert load_chat(folder).template.render(turns, False) == "xA"
    (folder / "chat_template.jinja").write_text("{{ messages[0].content | tojson }}Ä\n", encoding="utf-8")
    assert load_chat(folder).template.render([Turn("user", "é<")], False) == '"é<"Ä'
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_chat(folder)


@pytest.mark.parametrize("eos", [[], "</s>", [10**6], 10**20, -1, True, [None]])
def test_eos_ids_that_are_none(eos, tmp_path):
    folder = write_folder(tmp_path, *TEMPLATES["mistral"], generation_config={"eos_token_id": eos})
    with pytest.raises(
        ConfigError, match="generation_config.json: eos_token_id .* should be ids of its tokens"
    ):
        load_chat(folder)


def test_a_folder_without_eos_or_tokenizer_json(tmp_path):
    with pytest.raises(TokenizerError, match="no end-of-text token known"):
        load_chat(write_folder(tmp_path, QWEN25, {}))
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match="neither tokenizer.json nor"):
        load_chat(tmp_path)


def test_the_tokenizer_beside_it_is_left_alone(folders):
    before = load_tokenizer(folders["qwen3"]).encode("<|im_end|> <think>")
    load_chat(folders["qwen3"])
    assert load_tokenizer(folders["qwen3"]).encode("<|im_end|> <think>") == before


def test_a_tokenizer_that_cannot_keep_typed_text_apart(tmp_path):
    words = {"<s>": 0, "</s>": 1, "[INST]": 2, "[/INST]": 3, "<unk>": 4}
    made = tokenizers.Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.add_special_tokens(["<s>", "[INST]", "[/INST]"])
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"eos_token": "<unk>", "unk_token": "<unk>"}
    with pytest.raises((ConfigError, TokenizerError), match="would get the special token of that name"):
        load_chat(write_folder(tmp_path, MISTRAL, special, made))

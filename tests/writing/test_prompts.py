"""Every way to ask becomes the prompt that the task, or the chat template, would make of it."""

import pytest
import tiny
from chat_folders import EXAMPLES, TEMPLATES, write_folder

from rlhf_jax.config import ConfigError
from rlhf_jax.data.chat import load_chat
from rlhf_jax.data.record_json import to_json
from rlhf_jax.data.records import RecordError, Turn
from rlhf_jax.writing.prompts import Prompt, chat_in, messages_of

POST = tiny.posts(1, seed=0)[0]


def test_a_record_has_the_frame_of_its_task(plain):
    network, prompts, _ = plain
    expected = Prompt(network.task.encode(POST, network.tokenizer), False)
    assert prompts.of_record(POST) == prompts.of_fields(to_json(POST)) == expected


def test_a_lone_text_is_the_same_prompt_in_a_line_a_field_and_a_message(plain):
    _, prompts, _ = plain
    asked = [
        prompts.of_text("the robin sang"),
        prompts.of_fields({"prompt": "the robin sang", "id": "a"}),
        prompts.of_fields({"messages": [{"role": "user", "content": "the robin sang"}]}),
        prompts.of_turns([Turn("user", "the robin sang")]),
    ]
    assert asked == asked[:1] * 4


def test_a_chat_model_answers_a_lone_text_as_a_user_s_turn(chat, chat_folder):
    _, prompts, _ = chat
    ids = load_chat(chat_folder).encode([Turn("user", "hi")], generation_prompt=True)
    assert prompts.of_text("hi").ids == prompts.of_fields({"prompt": "hi"}).ids == ids
    many = [{"role": turn.role, "content": turn.content} for turn in EXAMPLES["many"][:3]]
    expected = load_chat(chat_folder).encode(EXAMPLES["many"][:3], generation_prompt=True)
    assert prompts.of_fields({"messages": many}).ids == prompts.of_fields({"prompt": many}).ids == expected


def test_it_ends_as_its_template_says(plain, chat):
    assert plain[1].ends == (plain[0].tokenizer.eos_id,)
    assert chat[1].ends == chat[1].chat.end_of_turn


def test_a_text_as_it_is_has_no_frame(plain):
    network, prompts, _ = plain
    assert network.tokenizer.decode(prompts.as_it_is("the robin").ids) == "the robin"
    with pytest.raises(RecordError, match="the prompt is empty"):
        prompts.as_it_is("")


def test_a_long_post_is_cut_and_says_so(plain):
    _, prompts, _ = plain
    cut = prompts.of_text("the robin sang\n" * 40)
    assert cut.is_cut and len(cut.ids) <= 64


def test_a_folder_without_a_template_is_no_chat_and_a_broken_one_is_told(tmp_path):
    assert chat_in(write_folder(tmp_path / "a", None, TEMPLATES["smollm2"][1])) is None
    folder = write_folder(tmp_path / "b", None, TEMPLATES["smollm2"][1])
    (folder / "chat_template.jinja").write_text("{% for %}")
    with pytest.raises(ConfigError, match="does not compile"):
        chat_in(folder)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("hi", "field messages should be a list of messages"),
        ([], "field messages should be a list of messages"),
        (["hi"], r"field messages\[0\] should be an object of role and content"),
        ([{"role": "user"}], r"field messages\[0\].content is missing; there is role"),
        ([{"content": "hi"}], r"field messages\[0\].role is missing; there is content"),
        (
            [{"role": "user", "content": "a"}, {"role": "user", "content": [{"type": "image_url"}]}],
            r"field messages\[1\].content\[0\] should be \{type: text, text",
        ),
        ([{"role": "assistant", "content": "a", "tool_calls": [{}]}], r"\[0\].tool_calls is not"),
    ],
)  # fmt: skip
def test_messages_that_are_none_are_told_by_field(value, told):
    with pytest.raises(RecordError, match=told):
        messages_of(value, "messages")


def test_parts_of_a_text_are_one_text():
    parts = [{"type": "text", "text": "the "}, {"type": "text", "text": "robin"}]
    assert messages_of([{"role": "user", "content": parts, "name": None}], "messages") == (
        Turn("user", "the robin"),
    )

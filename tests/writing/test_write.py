"""The command: files in, lines of JSON out, or one line that says what is wrong and nothing written."""

import io
import json
import sys

import jax
import pytest
import tiny

from rlhf_jax import inference
from rlhf_jax.data.record_json import to_json, write_jsonl
from rlhf_jax.mesh import make_mesh
from rlhf_jax.writing import terminal, write

POSTS = tiny.posts(5, seed=0)


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    monkeypatch.setattr(write, "keep_compiled", lambda folder: None)  # tests leave nothing behind
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        yield


@pytest.fixture
def call(capsys, monkeypatch):
    """Runs the command: (exit status, objects on stdout, stderr); `typed` is standard input."""

    def run(*arguments, typed: bytes | None = None):
        if typed is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed)))
        status = write.main(["rlhf-jax write", *map(str, arguments)])
        out, err = capsys.readouterr()
        return status, [json.loads(line) for line in out.splitlines()], err

    return run


def test_posts_of_a_file_get_the_responses_of_the_network(call, model_folder, tmp_path):
    write_jsonl(tmp_path / "posts.jsonl", POSTS)
    status, printed, err = call(model_folder, f"--prompts={tmp_path / 'posts.jsonl'}")
    texts = inference.load(model_folder).write(POSTS)
    expected = [to_json(post) | {"response": text} for post, text in zip(POSTS, texts, strict=True)]
    finishes = [line.pop("finish") for line in printed]
    assert (status, printed) == (0, expected) and set(finishes) <= {"stop", "length"}


def test_a_file_is_what_is_printed(call, model_folder, tmp_path):
    asked = b"the robin sang\n\nit was spring\r\n"
    _, printed, _ = call(model_folder, "--samples=2", "--temperature=1", typed=asked)
    out = tmp_path / "new" / "out.jsonl"
    status, nothing, _ = call(
        model_folder, "--samples=2", "--temperature=1", "--out", out, typed=asked
    )  # fmt: skip
    assert (status, nothing) == (0, [])
    assert [json.loads(line) for line in out.read_text().splitlines()] == printed
    assert [line["prompt"] for line in printed] == ["the robin sang"] * 2 + ["it was spring"] * 2
    assert len({line["response"] for line in printed}) == 4


def test_a_seed_is_what_differs(call, model_folder):
    def drawn(seed):
        return call(model_folder, "--temperature=1", f"--seed={seed}", typed=b"the robin sang\n")[1]

    assert drawn(1) == drawn(1) != drawn(2)


def test_lines_of_json_on_standard_input(call, chat_folder):
    asked = {"messages": [{"role": "user", "content": "hi"}], "id": 7}
    _, (as_json,), _ = call(chat_folder, "--max_tokens=5", typed=json.dumps(asked).encode())
    _, (as_text,), _ = call(chat_folder, "--max_tokens=5", typed=b"hi")
    assert as_json == asked | {name: as_text[name] for name in ("response", "finish")}


def test_prompts_that_are_cut_are_told(call, model_folder):
    status, printed, err = call(model_folder, typed=b"a\n" + b"the robin sang " * 40)
    assert status == 0 and len(printed) == 2
    assert "1 of 2 prompts lose text to data.query_tokens; the first is standard input, line 2" in err


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (b"", "standard input: no prompts in it"),
        (b"\n  \n", "standard input: no prompts in it"),
        (b"a\n\xff\n", "standard input, line 2: not UTF-8 text"),
        (b"a\n\xe2\x80\x8b\n", "standard input, line 2: the prompt has nothing that can be seen"),
        (b'{"prompt": "a"}\n{"prompt": ""}', "standard input, line 2: field prompt is empty"),
        (b'\xef\xbb\xbf{"prompt": ""}', "standard input, line 1: field prompt is empty"),  # as Windows writes
        (b'{"prompt": "a"}\n{"prompt"', "standard input, line 2: not JSON"),
        (b'{"prompt": "a"}\n[1]', "standard input, line 2: the line should be a JSON object"),
        (b'{"prompt": "a", "response": "b"}', "line 1: field response is there already"),
        (b'{"messages": [{"role": "system", "content": "a"}]}', "line 1: this model has no chat template"),
        (b'{"messages": [], "prompt": "a"}', "line 1: the line has both messages and prompt: what is the"),
        (
            b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}',
            "line 1: field messages ends with an answer, which the policy is to write: take it out",
        ),
        (b'{"prompt": null}', "line 1: the line has none of article, messages, post, prompt"),
        (b'{"text": "a"}', "line 1: the line has none of article, messages, post, prompt"),
    ],
)
def test_a_bad_prompt_is_told_and_nothing_is_written(call, model_folder, tmp_path, typed, words):
    status, _, err = call(model_folder, f"--out={tmp_path / 'out.jsonl'}", typed=typed)
    assert status == 2 and words in err and err.count("\n") == 1, err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name, content", [("p.csv", b"prompt\na\n"), ("p.json", b'[{"prompt": "a"}]')])
def test_a_table_is_not_taken_for_lines_of_text(call, model_folder, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    status, printed, err = call(model_folder, f"--prompts={tmp_path / name}")
    assert (status, printed) == (2, [])
    assert f"{name}: prompts are read from text or JSON lines; write this table as .jsonl" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "one folder is wanted"),
        (("{}", "{}"), "one folder is wanted"),
        (("{}/nowhere",), "nowhere is neither an exported model nor checkpoints"),
        (("{}", "--stage=ppo"), "--stage=ppo: {} is not the work folder of a run"),
        (("{}", "--prompts=/nowhere/p.txt"), "/nowhere/p.txt: No such file or directory"),
        (("{}", "--out={}/config.json"), "config.json is there already; name a new file"),
        (("{}", "--temperature=nan"), "--temperature: nan is no number"),
        (("{}", "--temperature=-1"), "temperature"),
        (("{}", "--samples=0"), "samples"),
        (("{}", "--port=80"), "--port: not used without --serve"),
        (("{}", "--serve", "--samples=2", "--out=x"), "--out, --samples: not used with --serve"),
        (("{}", "--max_tokens=9999"), "line 1: the prompt takes"),
    ],
)
def test_a_wrong_use_is_one_line(call, model_folder, arguments, words):
    given = [argument.replace("{}", str(model_folder)) for argument in arguments]
    status, printed, err = call(*given, typed=b"the robin")
    assert (status, printed) == (2, []) and err.count("\n") == 1
    assert words.replace("{}", str(model_folder)) in err


@pytest.fixture
def typing(monkeypatch, chat, plain):
    """Talks: (what is typed, chat or not) → what `talk` asked the writer, as texts with special tokens."""

    def run(typed, opened, **sampling):
        lines = iter(typed)

        def answer(mark):
            line = next(lines, None)
            if line is None:
                raise EOFError
            return line

        monkeypatch.setattr("builtins.input", answer)
        network, prompts, writer = opened
        asked = []
        original = writer.response
        monkeypatch.setattr(
            writer, "response", lambda ids, *a, **b: asked.append(ids) or original(ids, *a, **b)
        )
        terminal.talk(writer, prompts, 0, **sampling)
        monkeypatch.undo()
        return asked

    return run


def test_a_talk_goes_on_with_what_was_said(typing, chat, capsys):
    first, second, again = typing(["hi", "", "and then?", "/new", "hi"], chat, max_tokens=4)
    assert second[: len(first)] == first and len(second) > len(first) + 4
    assert again == first


def test_without_a_chat_template_each_line_is_a_prompt(typing, plain, capsys):
    asked = typing(["the robin", "/new", "the robin"], plain, max_tokens=4)
    assert asked[0] == asked[2] and len(asked) == 3
    said = capsys.readouterr().out.splitlines()
    assert said[0] == said[2]


def test_a_talk_that_grows_too_long_is_told_and_goes_on(typing, chat, capsys):
    typing(["a" * 300, "hi"], chat, max_tokens=4)
    out, err = capsys.readouterr()
    assert "the model reads 256 with the response" in err and out.strip()


def test_ctrl_c_ends_a_response_where_it_is(plain, capsys):
    _, prompts, writer = plain

    class Stopping:
        tokenizer = writer.tokenizer

        def write(self, responses):
            responses[0].text = "so far"
            yield
            raise KeyboardInterrupt

    response = writer.response(prompts.of_text("hi").ids, 0)
    terminal.show(Stopping(), response)
    assert capsys.readouterr().out == "so far\n" and response.finish == "cancelled"

"""Published models' own tokenizers and chat templates: ids, texts and masks are those of transformers."""

import json
import random
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import pytest

NEEDS = "needs transformers and gguf: pip install -r tests/requirements-live.txt"
pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("gguf", reason=NEEDS)

from live import families
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rlhf_jax.data.chat import load_chat, load_chat_tokenizer
from rlhf_jax.data.records import RecordError, Turn
from rlhf_jax.data.tokenizer import Tokenizer, load_tokenizer
from rlhf_jax.writing.response import Response, Sampling

pytestmark = pytest.mark.live

REAL = Path(__file__).parents[3] / "shared" / "data"
WHITESPACE = [
    "",
    " ",
    "  ",
    "\n",
    "\n\n\n",
    " \n \n",
    " a",
    "\t\ta\n    b\n",
    "\r\n\r\n x\r",
    " " * 100,
    "\n" * 50,
]
AWKWARD = [
    *WHITESPACE,
    "  two leading,\ta tab,   three \n and one at the end ",
    "x" * 500,
    "ab " * 200,
    "\x00\x01\x1b[0m\x7f",
    "\ufeffa\u200bb\u00a0c\u2003d\u3000e",
    "e\u0301 naïve ½ ﬁ Å \u212b \U0010ffff",
    "日本語と한국어 中文，。 नमस्ते ประเทศไทย",
    "مرحبا بالعالم، كيف حالك؟",
    "Kumusta ka na? Magandáng gabí pô.",
    "🐈‍⬛ 👩‍👩‍👧 🇵🇭 ☺️",
    "1234567 3.14159 10,000",
    "don't I'LL we'Ve ſ K",
    "a\u2581\u2581b \u2581",
    "<|endoftext|> <|im_start|>user\n<|im_end|><bos><eos><start_of_turn>model<end_of_turn><|eot_id|></s>",
    "<think>\n</think><|begin_of_text|><unk><pad><2mass> [@BOS@] <unused0> <table> <h1>x</h1>[/INST]",
    "<｜begin▁of▁sentence｜><｜User｜><｜Assistant｜><image_soft_token><start_of_image><tool_call>",
]
ALPHABET = "aeiou nrst E\n\n  .,'’\"<|>_/1290éßñþж中の한ع🙂\t\r\u0301\u200d"
UNUSED = "<mask>"  # a token of Gemma's that transformers' class of it calls special, and no file of the model
SYSTEMS = ["", "You answer in one sentence.", "  Be kind.\n", "日本"]
Q, A = "Why did it sing?", "Because it was spring."


class Case(NamedTuple):
    family: families.Family
    folder: Path
    ours: Tokenizer
    theirs: PreTrainedTokenizerBase


@pytest.fixture(scope="module", params=families.FAMILIES)
def case(request, tmp_path_factory) -> Case:
    family = families.FAMILIES[request.param]
    for archive in family.archives():
        if not archive.exists():
            pytest.skip(f"needs build/families/{archive.name}, see tests/live/families.py")
    folder = families.write(family, tmp_path_factory.mktemp(request.param))
    return Case(family, folder, load_tokenizer(folder), AutoTokenizer.from_pretrained(folder))


@pytest.fixture(scope="module")
def chat_case(case) -> Case:
    if not case.theirs.chat_template:
        pytest.skip("this model does not chat")
    return case._replace(ours=load_chat_tokenizer(case.folder))


def records(*path: str) -> Iterator[dict]:
    """Those of a file of real ones, or none where it is absent."""
    if (file := REAL.joinpath(*path)).exists():
        yield from map(json.loads, file.read_text().splitlines())


def exchanges() -> Iterator[tuple[str, str]]:
    """Questions and answers of people."""
    for record in records("instruction_pairs", "pairs.jsonl"):
        yield f"{record['instruction']}\n{record['input']}".strip(), record["response1"]
    for record in records("qa_feedback", "feedback.jsonl"):
        yield record["question"], record["demonstration"]


def texts() -> list[str]:
    drawn = random.Random(0)
    invented = ["".join(drawn.choices(ALPHABET, k=drawn.randrange(60))) for _ in range(300)]
    posts = [record["post"] for record in records("tldr_posts", "valid.jsonl")]
    articles = [record["article"] for record in records("cnndm", "articles.jsonl")]
    return AWKWARD + invented + posts + articles + [text for pair in exchanges() for text in pair]


def conversations() -> Iterator[list[Turn]]:
    """Each exchange alone and after the one before it; each third with a system prompt."""
    invented = [
        (Q, A),
        ("And then?", "It left."),
        ("naïve 日本語 👩‍👩‍👧", "Ωmega ½ ﬁ"),
        ("  a\tb \n", "c\n\n- d\n- e"),
    ]
    spoken = [*invented, *list(exchanges())[::8]]
    for i, two in enumerate(pairwise(spoken)):
        turns = [
            Turn(role, text) for pair in two for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
        for said in (turns[2:], turns):
            yield said
            if i % 3 == 0:
                yield [Turn("system", SYSTEMS[i % 12 // 3]), *said]


def their_ids(case: Case, text: str) -> list[int]:
    """Ids of a text that follows another, where the tokenizer puts a space before a text's beginning."""
    behind = "\n" if case.family.puts_space and text.startswith(" ") else ""
    ids = case.theirs(behind + text, add_special_tokens=False, split_special_tokens=True).input_ids
    return ids[2:] if behind else ids  # the space and the newline are a token each


def rendered(theirs, turns: Sequence[Turn], prompt: bool, **options) -> str | list[int]:
    """By transformers: as text, or with tokenize=True as ids."""
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    options = {"tokenize": False, "return_dict": False} | options
    return theirs.apply_chat_template(messages, add_generation_prompt=prompt, **options)


def test_ids_and_texts_are_those_of_transformers(case):
    special = [token.content for token in case.theirs.added_tokens_decoder.values()][:300]
    special = [name for name in special if name != UNUSED]
    for text in [*texts(), *special, " ".join(special), "a".join(special)]:
        ids = their_ids(case, text)
        assert case.ours.encode(text) == ids, repr(text)
        assert case.ours.decode(ids) == case.theirs.decode(ids), repr(text)
        assert not set(ids) & {case.ours.eos_id, case.ours.pad_id, *case.ours.prefix}, repr(text)


def test_ids_are_those_recorded_of_the_model(case):
    for text, ids in families.recorded(case.family):
        if not (case.family.puts_space and text.startswith(" ")):  # of which ours follows another text
            assert case.ours.encode(text) == ids, repr(text)


def test_a_stream_joins_to_the_text_of_transformers(case):
    for text in [*AWKWARD, *(answer for _, answer in list(exchanges())[::20])]:
        ids = their_ids(case, text)
        response = Response([], Sampling(len(ids) + 1, strip=False), seed=0)
        for token in [*ids, case.ours.eos_id]:
            told = response.text
            response.add([token], [0.0], case.ours, case.ours.eos_ids)
            assert response.text.startswith(told), repr(text)
        assert response.finish == "stop"
        assert response.text == case.theirs.decode(ids), repr(text)
        assert "".join(response.tokens(case.ours)) == response.text, repr(text)


def test_texts_begin_and_end_as_with_transformers(case):
    ids = case.theirs("a", split_special_tokens=True).input_ids
    assert [*case.ours.prefix, *case.ours.encode("a")] == ids
    assert case.ours.eos_id == case.theirs.eos_token_id
    assert case.ours.vocab_size == case.ours.pad_id == case.family.rows
    assert case.ours.decode([*case.ours.encode("a"), case.ours.pad_id, case.ours.eos_id, *ids]) == "a"


def test_an_answer_ends_as_the_family_ends_it(chat_case):
    family, _, ours, theirs = chat_case
    assert ours.eos_ids == (family.ends or (theirs.eos_token_id,))
    assert theirs.decode([ours.eos_id]) == family.end
    assert f"{A}{family.end}" in rendered(theirs, [Turn("user", Q), Turn("assistant", A)], False)
    assert ours.decode([*ours.encode(A), ours.eos_id, *ours.encode(Q)]) == A


def test_conversations_are_those_of_transformers(chat_case):
    family, folder, ours, theirs = chat_case
    for variables in ({}, family.variables) if family.variables else ({},):
        chat, told = load_chat(folder, **variables) if variables else ours.chat, 0
        for turns in conversations():
            for said, prompt in ((turns, False), (turns[:-1], True)):
                if not family.takes(said):
                    with pytest.raises(RecordError, match="refuses this|leaves out turn 1"):
                        chat.encode(said, prompt)
                    continue
                text = rendered(theirs, said, prompt, **variables)
                assert chat.template.render(said, prompt) == text
                ids = rendered(theirs, said, prompt, tokenize=True, **variables)
                assert chat.encode(said, prompt) == ids, said
                told += 1
        assert told > 10


def test_the_mask_is_of_answers_and_their_end(chat_case):
    family, _, ours, theirs = chat_case
    for turns in conversations():
        if not family.takes(turns):
            continue
        text = rendered(theirs, turns, False)
        places = [i for i, turn in enumerate(turns) if turn.role == "assistant"]
        prompts = [rendered(theirs, turns[:i], True) for i in places]
        assert all(map(text.startswith, prompts))
        behind = [text.index(family.end, len(prompt)) + len(family.end) for prompt in prompts]
        ids, mask = ours.chat.encode_with_mask(turns)
        runs = [
            list(run) for is_answer, run in groupby(zip(mask, ids, strict=True), itemgetter(0)) if is_answer
        ]
        answers = [text[len(prompt) : end] for prompt, end in zip(prompts, behind, strict=True)]
        assert ids == rendered(theirs, turns, False, tokenize=True)
        assert [theirs.decode([i for _, i in run]) for run in runs] == answers


def test_an_answer_behind_its_prompt_is_the_conversation(chat_case):
    _, _, ours, theirs = chat_case
    for question, answer in [(Q, A), *exchanges()]:
        turns = [Turn("user", question), Turn("assistant", answer.strip())]
        both = ours.chat.encode(turns[:1], True) + ours.chat.encode_answer(turns[1].content)
        assert both == rendered(theirs, turns, False, tokenize=True)[: len(both)], turns

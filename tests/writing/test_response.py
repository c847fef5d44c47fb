"""The text of a response while its tokens come: never taken back, and ended where it should be."""

import pytest
import tokenizers
from chat_folders import byte_fallback, byte_level
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_jax.data.tokenizer import HuggingFaceTokenizer
from rlhf_jax.writing.response import CANCELLED, LENGTH, STOP, Response, Sampling, row_seed

MADE: tokenizers.Tokenizer = byte_level()
END = MADE.token_to_id("<|im_end|>")
OTHER_END = MADE.token_to_id("<eos>")
TOKENIZER = HuggingFaceTokenizer(b"", MADE, 400, END)
TOKENIZERS = {"byte-level": TOKENIZER, "byte fallback": HuggingFaceTokenizer(b"", byte_fallback(), 1300, 999)}


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text)


def grown(tokens, sampling: Sampling, piece=1, tokenizer=TOKENIZER) -> tuple[Response, list[str]]:
    """A response that got those tokens, and its text after each piece."""
    response, shown = Response([5], sampling, 0), []
    for start in range(0, len(tokens), piece):
        if response.finish:
            break
        part = tokens[start : start + piece]
        response.add(part, [-0.5] * len(part), tokenizer, (tokenizer.eos_id, OTHER_END))
        shown.append(response.text)
    return response, shown


@pytest.mark.parametrize("end", [END, OTHER_END])
def test_it_ends_with_any_of_the_ending_tokens(end):
    response, _ = grown([*ids(" the robin"), end, *ids(" sang")], Sampling(99), piece=64)
    assert (response.text, response.finish) == ("the robin", STOP)
    assert response.ids == [*ids(" the robin"), end] and len(response.logprobs) == len(response.ids)


def test_it_is_cut_off_at_its_most_tokens_and_says_so():
    response, _ = grown(ids("abcdefgh"), Sampling(3), piece=8)
    assert len(response.ids) == 3 and response.finish == LENGTH


def test_the_last_token_allowed_may_end_it():
    response, _ = grown([*ids("a"), END], Sampling(2), piece=2)
    assert response.finish == STOP


@pytest.mark.parametrize("piece", [1, 2, 64])
@pytest.mark.parametrize(
    ("stop", "text"),
    [
        ((" sang",), "the robin"),
        (("hello", "rob"), "the"),
        (("obin sang", "b"), "the ro"),
        (("zzz",), "the robin sang hello"),
        (("t",), ""),
    ],
)
def test_it_ends_before_a_stop_string_however_the_tokens_fall(piece, stop, text):
    response, shown = grown([*ids("the robin sang hello"), END], Sampling(99, stop=stop), piece)
    assert (response.text, response.finish) == (text, STOP)
    assert all(text.startswith(one) for one in shown)


TEXTS = st.text(st.sampled_from("ab \n日é👩\u0301"), max_size=12)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60)
@given(
    text=TEXTS, stop=st.lists(TEXTS.filter(bool), max_size=2), strip=st.booleans(), piece=st.integers(1, 5)
)
def test_what_was_shown_is_never_taken_back_and_in_the_end_all_is_there(name, text, stop, strip, piece):
    sampling, tokenizer = Sampling(999, stop=tuple(stop), strip=strip), TOKENIZERS[name]
    response, shown = grown([*tokenizer.encode(text), tokenizer.eos_id], sampling, piece, tokenizer)
    for before, after in zip(shown, shown[1:], strict=False):
        assert after.startswith(before)
    ends = [(text.find(one) + len(one), text.find(one)) for one in stop if one in text]
    whole = text[: min(ends)[1]] if ends else text
    assert response.text == (whole.strip() if strip else whole) and response.finish == STOP


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=40)
@given(text=TEXTS)
def test_the_texts_of_the_tokens_are_the_text(name, text):
    tokenizer = TOKENIZERS[name]
    response, _ = grown([*tokenizer.encode(text), tokenizer.eos_id], Sampling(999), 64, tokenizer)
    tokens = response.tokens(tokenizer)
    assert "".join(tokens) == text and len(tokens) == len(response.ids)


def test_one_that_is_cancelled_stays_so():
    response, _ = grown(ids("ab"), Sampling(99))
    response.cancel()
    response.add([END], [-1.0], TOKENIZER, (END,))
    assert response.finish == CANCELLED
    done, _ = grown([END], Sampling(99))
    done.cancel()
    assert done.finish == STOP


def test_seeds_of_places_differ_and_stay():
    seeds = {row_seed(seed, i, j) for seed in (0, 2**63) for i in range(20) for j in range(20)}
    assert len(seeds) == 800 and all(0 <= seed < 2**32 for seed in seeds)
    assert row_seed(3, 1, 2) == row_seed(3, 1, 2)

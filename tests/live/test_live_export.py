"""Exported runs opened with transformers: the same summaries and scores, and a card whose code works."""

import dataclasses
import re
from pathlib import Path

import jax
import numpy as np
import pytest

NEEDS = "needs torch and transformers: pip install -r tests/requirements-live.txt"
torch = pytest.importorskip("torch", reason=NEEDS)
pytest.importorskip("transformers", reason=NEEDS)

import tiny
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from rlhf_jax import inference
from rlhf_jax.config import ModelConfig
from rlhf_jax.data.batches import left_pad
from rlhf_jax.data.tokenizer import load_tokenizer
from rlhf_jax.inference import Network
from rlhf_jax.model import heads, params, pretrained, transformer
from rlhf_jax.pipeline.export import export

pytestmark = pytest.mark.live


def queries(run, posts, width: int) -> np.ndarray:
    """Left-padded queries [B, width]."""
    rows = [run.task.encode(post, run.tokenizer) for post in posts]
    return left_pad(rows, width, run.tokenizer.pad_id)


def write(run, query: np.ndarray) -> np.ndarray:
    """Our greedy responses [B, R]."""
    response = inference.write(
        run.policy,
        run.model,
        query,
        jax.random.key(0),
        response_tokens=run.config.data.response_tokens,
        eos_ids=run.tokenizer.eos_ids,
        pad_id=run.tokenizer.pad_id,
        temperature=0.0,
    )
    return np.asarray(response)


def score(run, posts, summaries: list[str]) -> np.ndarray:
    """Our scores [B]."""
    return Network(run.reward, run.model, run.tokenizer, run.task).score(posts, summaries)


def test_greedy_summaries_of_a_left_padded_batch(run, posts):
    tokenizer = AutoTokenizer.from_pretrained(run.exported["ppo"])
    theirs = AutoModelForCausalLM.from_pretrained(run.exported["ppo"])
    texts = [run.task.prompt(post).text for post in posts]
    inputs = tokenizer(texts, return_tensors="pt", padding=True, split_special_tokens=True)
    width, pad_id = inputs.input_ids.shape[1], run.tokenizer.pad_id
    query = queries(run, posts, width)
    real = query != pad_id
    assert not real.all()
    np.testing.assert_array_equal(inputs.attention_mask, real)
    np.testing.assert_array_equal(np.where(real, inputs.input_ids, pad_id), query)

    ours = write(run, query)
    ended = (ours == run.tokenizer.eos_id).any(axis=1)
    assert ended.any() and not ended.all()
    written = theirs.generate(**inputs)[:, width:]  # what to do is in generation_config.json
    filled = np.where(ours == pad_id, theirs.generation_config.pad_token_id, ours)
    np.testing.assert_array_equal(written, filled)


def test_scores_of_a_right_padded_batch(run, posts):
    tokenizer = AutoTokenizer.from_pretrained(run.exported["reward"])
    theirs = AutoModelForSequenceClassification.from_pretrained(run.exported["reward"])
    summaries = [post.summary + " and sat" * (i % 3) for i, post in enumerate(posts)]
    texts = [
        run.task.prompt(post).text + run.task.response(text)
        for post, text in zip(posts, summaries, strict=True)
    ]
    ids = [[*row, tokenizer.eos_token_id] for row in tokenizer(texts, split_special_tokens=True).input_ids]
    inputs = tokenizer.pad({"input_ids": ids}, return_tensors="pt")
    assert len(set(inputs.attention_mask.sum(1).tolist())) > 2 and inputs.attention_mask[:, 0].all()
    assert (inputs.input_ids[inputs.attention_mask == 0] == tokenizer.pad_token_id).all()
    with torch.no_grad():
        scores = theirs(**inputs).logits[:, 0].numpy() + theirs.config.reward_shift
    assert abs(theirs.config.reward_shift) > 0.01
    ours = score(run, posts, summaries)
    assert ours.std() > 0.1
    tiny.assert_close(scores, ours, tiny.additions(run.model, 184))


@pytest.mark.parametrize("stage", ["ppo", "reward"])
def test_what_transformers_saves_is_our_model_again(run, stage, tmp_path):
    scalar = stage == "reward"
    task = AutoModelForSequenceClassification if scalar else AutoModelForCausalLM
    task.from_pretrained(run.exported[stage]).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(run.exported[stage]).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.eos_id, tokenizer.prefix) == (run.tokenizer.eos_id, run.tokenizer.prefix)
    model = pretrained.architecture(ModelConfig(), str(tmp_path))
    specs = (heads if scalar else transformer).specs(model, tokenizer.vocab_size)
    again = pretrained.load(tmp_path, params.abstract(specs, jax.sharding.get_mesh()))
    if scalar:
        embed = again["transformer"]["embed"]
        embed["tokens"] = embed["tokens"][: run.tokenizer.vocab_size]  # without the row of <|pad|>
    tiny.assert_same(again, run.reward if scalar else run.policy)


def test_half_precision_is_opened_as_such(run, tmp_path):
    export(run.workdir, "ppo", tmp_path / "half", "bfloat16")
    half = AutoModelForCausalLM.from_pretrained(tmp_path / "half")
    assert half.dtype is torch.bfloat16
    full = AutoModelForCausalLM.from_pretrained(run.exported["ppo"]).state_dict()
    assert all(torch.equal(tensor, full[name].bfloat16()) for name, tensor in half.state_dict().items())


def code_on_card(folder: Path) -> str:
    return re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]


def test_the_code_on_a_policy_s_card(run, posts):
    for post in posts[:2]:
        names = {"folder": run.exported["ppo"], **dataclasses.asdict(post)}
        exec(code_on_card(run.exported["ppo"]), names)
        query = queries(run, [post], names["inputs"].input_ids.shape[1])
        ours = write(run, query)[0]
        assert names["ids"].tolist() == ours[ours != run.tokenizer.pad_id].tolist()
        assert isinstance(names["summary"], str)


def test_the_code_on_a_reward_model_s_card(run, posts):
    for post in posts[:2]:
        names = {"folder": run.exported["reward"], **dataclasses.asdict(post)}
        exec(code_on_card(run.exported["reward"]), names)
        ours = score(run, [post], [post.summary])[0]
        tiny.assert_close(names["reward"].item(), ours, tiny.additions(run.model, 184))

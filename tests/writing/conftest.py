"""A policy that nobody trained, in a folder as `rlhf-jax export` writes one, and one with a chat template."""

import jax
import pytest
import tiny
from chat_folders import TEMPLATES, write_folder

from rlhf_jax import inference
from rlhf_jax.config import ModelConfig
from rlhf_jax.data.tokenizer import load_tokenizer
from rlhf_jax.files import write_json
from rlhf_jax.mesh import make_mesh
from rlhf_jax.model import pretrained, transformer
from rlhf_jax.writing.prompts import Prompts, chat_in
from rlhf_jax.writing.writer import Writer

TASK = {"source": "tldr", "query_tokens": 64, "query_buckets": [32, 64], "response_tokens": 12}
MODEL = ModelConfig(width=32, layers=2, heads=2, positions="rotary", context=256)


def write_model(folder, template):
    """A folder with random weights and a byte-level tokenizer, and with that chat template, if any."""
    write_folder(folder, template, TEMPLATES["qwen2.5"][1])
    tokenizer = load_tokenizer(folder)
    weights = tiny.parameters(transformer.specs(MODEL, tokenizer.vocab_size), 1)
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        pretrained.save(folder, weights, MODEL, "float32", {"eos_token_id": tokenizer.eos_id})
    write_json(folder / inference.TASK_FILE, TASK)
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "plain", None)


@pytest.fixture(scope="session")
def chat_folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "chat", TEMPLATES["qwen2.5"][0])


def opened(folder):
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        network = inference.load(folder)
        prompts = Prompts(network, chat_in(folder))
        return network, prompts, Writer(network, prompts.ends)


@pytest.fixture(scope="session")
def plain(model_folder):
    """(network, prompts, writer), with prompts of posts."""
    return opened(model_folder)


@pytest.fixture(scope="session")
def chat(chat_folder):
    """The same of a chat model."""
    return opened(chat_folder)

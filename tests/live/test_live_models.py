"""Models from transformers to here and back: the same numbers, and the same weights bit for bit."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

NEEDS = "needs torch and transformers: pip install -r tests/requirements-live.txt"
pytest.importorskip("torch", reason=NEEDS)
pytest.importorskip("transformers", reason=NEEDS)

import tiny
from fixtures import agreement, make_families
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rlhf_jax.config import ModelConfig
from rlhf_jax.model import families, heads, params, pretrained, transformer

pytestmark = pytest.mark.live
VARIANTS = make_families.VARIANTS | make_families.MORE


@pytest.fixture
def folder(name, tmp_path):
    """A new model of the variant, and what transformers computes with it."""
    make_families.make(VARIANTS[name], tmp_path / name, 100 + list(VARIANTS).index(name))
    return tmp_path / name


@pytest.mark.parametrize("name", VARIANTS)
def test_new_models_of_transformers_are_read(folder):
    agreement.assert_agrees(folder)


def read(folder: Path, scalar: bool):
    """(weights, architecture) of a folder."""
    model = pretrained.architecture(ModelConfig(), str(folder))
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    specs = (heads if scalar else transformer).specs(model, vocabulary)
    return pretrained.load(folder, params.abstract(specs, jax.sharding.get_mesh())), model


@pytest.mark.parametrize("name", VARIANTS)
def test_what_we_write_is_what_transformers_reads_and_writes(name, folder, tmp_path, monkeypatch):
    expected, scalar = dict(np.load(folder / "expected.npz")), VARIANTS[name].scalar
    weights, model = read(folder, scalar)
    fields = json.loads((folder / "config.json").read_text())
    special = {"eos_token_id": fields["eos_token_id"], "pad_token_id": fields["pad_token_id"]}
    if VARIANTS[name].shards:
        monkeypatch.setattr(pretrained, "SHARD_BYTES", 40_000)
    pretrained.save(tmp_path / "ours", weights, model, extra=special | {"bos_token_id": None})
    task = AutoModelForSequenceClassification if scalar else AutoModelForCausalLM
    theirs = task.from_pretrained(tmp_path / "ours").eval()
    sums = tiny.additions(model, 16)  # theirs on another machine may be added in another order
    if scalar:
        scores = make_families.compute(theirs, expected["tokens"])[:, 0]
        tiny.assert_close(scores, expected["scores"], sums)
    else:
        for side in ("right", "left"):
            logits = make_families.compute(theirs, expected[f"{side}_tokens"])
            tiny.assert_close(logits, expected[f"{side}_logits"], sums)
        generated = make_families.generate(theirs, expected["left_tokens"])[0]
        ended = make_families.after(fields["eos_token_id"], generated)
        generated = np.where(ended, make_families.PAD, generated)
        np.testing.assert_array_equal(generated, expected["generated"][:, : generated.shape[1]])
    theirs.save_pretrained(tmp_path / "theirs")
    again, same = read(tmp_path / "theirs", scalar)
    family = families.family_of(model)
    assert family.write(same) == family.write(model)
    tiny.assert_same(again, weights)

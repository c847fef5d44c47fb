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


@pytest.mark.parametrize("name", make_families.VARIANTS)
def test_new_models_of_transformers_are_read(name, tmp_path):
    seed = 100 + list(make_families.VARIANTS).index(name)
    make_families.make(make_families.VARIANTS[name], tmp_path, seed)
    agreement.assert_agrees(tmp_path)


def read(folder: Path, scalar: bool):
    """(weights, architecture) of a folder."""
    model = pretrained.architecture(ModelConfig(), str(folder))
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    specs = (heads if scalar else transformer).specs(model, vocabulary)
    return pretrained.load(folder, params.abstract(specs, jax.sharding.get_mesh())), model


@pytest.mark.parametrize("name", make_families.VARIANTS)
def test_what_we_write_is_what_transformers_reads_and_writes(name, tmp_path, monkeypatch):
    source = Path(make_families.__file__).parent / name
    expected, scalar = dict(np.load(source / "expected.npz")), make_families.VARIANTS[name].scalar
    weights, model = read(source, scalar)
    fields = json.loads((source / "config.json").read_text())
    special = {"eos_token_id": fields["eos_token_id"], "pad_token_id": fields["pad_token_id"]}
    if make_families.VARIANTS[name].shards:
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

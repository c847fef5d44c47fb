"""Adapters between here and PEFT: the same logits, whoever wrote the folder."""

import dataclasses

import jax
import numpy as np
import pytest

NEEDS = "needs torch, transformers and peft: pip install -r tests/requirements-live.txt"
torch = pytest.importorskip("torch", reason=NEEDS)
peft = pytest.importorskip("peft", reason=NEEDS)

import tiny
from transformers import AutoModelForCausalLM

from rlhf_jax.config import LoraConfig
from rlhf_jax.model import lora, params, pretrained, transformer
from rlhf_jax.model import peft as ours

pytestmark = pytest.mark.live

TOKENS = tiny.random_tokens(3, 7)
TARGETS = {
    "gpt2": ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"],
    "neox": ["query_key_value", "attention.dense", "dense_h_to_4h", "dense_4h_to_h"],
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}


@pytest.fixture(params=TARGETS)
def case(request, tmp_path):
    """(name, model, abstract adapters, base's weights, its folder)."""
    folder = tmp_path / "base"
    adapters = LoraConfig(rank=3, alpha=6.0)
    model = dataclasses.replace(tiny.FAMILIES[request.param], lora=adapters, pretrained=str(folder))
    specs = transformer.specs(model, tiny.VOCABULARY)
    base = jax.tree.map(lambda x: 0.2 * x, tiny.parameters(specs))
    pretrained.save(folder, base, model)
    return (
        request.param,
        model,
        params.abstract(lora.trained(specs, adapters), jax.sharding.get_mesh()),
        base,
        folder,
    )


def logits(model, base, adapters):
    network = lora.attach(base, adapters)
    hidden = transformer.apply(network, model, TOKENS, np.ones_like(TOKENS))
    return np.asarray(transformer.logits(network, model, hidden))


def their_logits(model):
    with torch.no_grad():
        return model.eval()(torch.tensor(TOKENS, dtype=torch.long)).logits.numpy()


@pytest.mark.parametrize("stabilized", [False, True], ids=["by rank", "by its root"])
def test_what_we_write_peft_reads(case, tmp_path, stabilized):
    _, model, like, base, folder = case
    model = dataclasses.replace(model, lora=dataclasses.replace(model.lora, rank_stabilized=stabilized))
    rng = np.random.default_rng(0)
    adapters = jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype(np.float32), like)
    (tmp_path / "adapter").mkdir()
    ours.save(tmp_path / "adapter", adapters, model)
    bare = AutoModelForCausalLM.from_pretrained(folder)
    before = their_logits(bare)
    theirs = their_logits(peft.PeftModel.from_pretrained(bare, tmp_path / "adapter"))
    np.testing.assert_allclose(logits(model, base, adapters), theirs, atol=1e-5)
    assert np.abs(theirs - before).max() > 0.01


def test_what_peft_writes_we_read(case, tmp_path):
    """With one A for the three matrices of a fused module."""
    name, model, like, base, folder = case
    made = peft.LoraConfig(r=3, lora_alpha=5, target_modules=TARGETS[name], task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder), made)
    torch.manual_seed(0)
    for tensor in (x for key, x in theirs.named_parameters() if "lora_B" in key):
        torch.nn.init.normal_(tensor, std=0.1)
    theirs.save_pretrained(tmp_path / "adapter")
    adapters = ours.load(tmp_path / "adapter", model, like)
    np.testing.assert_allclose(logits(model, base, adapters), their_logits(theirs), atol=1e-5)

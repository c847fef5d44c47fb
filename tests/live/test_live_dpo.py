"""Losses of pairs between here and TRL: the same number and the same gradient, on equal weights."""

import jax
import numpy as np
import pytest

NEEDS = "needs torch, transformers and trl: pip install -r tests/requirements-live.txt"
torch = pytest.importorskip("torch", reason=NEEDS)
trl = pytest.importorskip("trl", reason=NEEDS)

import tiny
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from trl.trainer.dpo_trainer import DataCollatorForPreference

from rlhf_jax.config import DpoConfig
from rlhf_jax.data.batches import left_pad, right_pad
from rlhf_jax.mesh import to_devices
from rlhf_jax.model import pretrained, transformer
from rlhf_jax.pipeline import dpo

pytestmark = pytest.mark.live

PAIRS, BETA, PAD = 4, 0.3, tiny.PAD
LOSSES = {  # of TRL, and of stage dpo
    "sigmoid": DpoConfig(beta=BETA),
    "ipo": DpoConfig("ipo", beta=BETA),
}


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def case(request, tmp_path_factory):
    """(model, policy's weights, reference's, folders of both)."""
    model = tiny.FAMILIES[request.param]
    specs = transformer.specs(model, tiny.VOCABULARY)
    both = [jax.tree.map(lambda x: 0.2 * x, tiny.parameters(specs, seed)) for seed in (0, 1)]
    folders = [tmp_path_factory.mktemp(name) for name in ("policy", "reference")]
    for folder, weights in zip(folders, both, strict=True):
        pretrained.save(folder, weights, model)
    return model, *both, folders


def examples():
    """Prompts of 2 to 5 tokens, responses of 1 to 4 tokens and EOS."""
    words = tiny.random_tokens(3 * PAIRS, 5).tolist()
    return [
        {
            "prompt_ids": words[i][: 2 + i],
            "chosen_ids": [*words[PAIRS + i][: 1 + i], tiny.EOS],
            "rejected_ids": [*words[2 * PAIRS + i][: 4 - i], tiny.EOS],
        }
        for i in range(PAIRS)
    ]


def theirs(folders, loss_type, output):
    """Loss and model, whose parameters have their gradient."""
    spelled = Tokenizer(models.WordLevel({f"t{i}": i for i in range(tiny.VOCABULARY)}, unk_token="t0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=spelled, eos_token="t1", pad_token="t0")
    policy, reference = (AutoModelForCausalLM.from_pretrained(folder) for folder in folders)
    trainer = trl.DPOTrainer(
        policy,
        reference,
        trl.DPOConfig(str(output), beta=BETA, loss_type=loss_type, report_to=[], use_cpu=True, bf16=False),
        train_dataset=Dataset.from_list([{"prompt": "t2", "chosen": " t3", "rejected": " t4"}]),
        processing_class=tokenizer,
    )
    policy.eval()  # without dropout
    loss = trainer.compute_loss(policy, DataCollatorForPreference(pad_token_id=0)(examples()))
    loss.backward()
    return loss.item(), policy


def ours(model, policy, reference, options):
    rows = examples()
    batch = {
        "query": left_pad([row["prompt_ids"] for row in rows], 6, PAD),
        "chosen": right_pad([row["chosen_ids"] for row in rows], 6, PAD),
        "rejected": right_pad([row["rejected_ids"] for row in rows], 6, PAD),
    }
    batch = to_devices(batch, jax.sharding.get_mesh())
    batch["ref_logp"] = dpo.response_likelihoods(reference, model, batch, PAD)[0]
    graded = jax.value_and_grad(lambda weights: dpo.loss(weights, model, options, batch, PAD, PAIRS)[0])
    return jax.jit(graded)(policy)


@pytest.mark.parametrize("loss_type", LOSSES)
def test_loss_and_gradient_are_those_of_trl(case, loss_type, tmp_path):
    """The gradient is written as a model is, so that transformers finds each part of it by its name."""
    model, policy, reference, folders = case
    expected, graded = theirs(folders, loss_type, tmp_path / "trl")
    loss, gradient = ours(model, policy, reference, LOSSES[loss_type])
    assert loss == pytest.approx(expected, rel=1e-5)
    pretrained.save(tmp_path / "gradient", gradient, model)
    found = dict(AutoModelForCausalLM.from_pretrained(tmp_path / "gradient").named_parameters())
    size = max(float(p.grad.abs().max()) for p in graded.parameters())
    assert size > 0.01
    for name, parameter in graded.named_parameters():
        np.testing.assert_allclose(
            found[name].detach(), parameter.grad, rtol=0, atol=1e-5 * size, err_msg=name
        )

"""Which settings are tried, with a stand-in for the compiler that says how much memory each needs."""

import dataclasses
import json
import math

import pytest

from rlhf_jax.config import Config, ConfigError, ModelConfig, PpoConfig
from rlhf_jax.plan import fit
from rlhf_jax.plan import remedies as module
from rlhf_jax.plan.compiled import Compiled
from rlhf_jax.plan.remedies import changed, flags_of, in_order, remedies
from rlhf_jax.plan.topologies import Chip, Topology
from rlhf_jax.validation import validate

CARD = Topology("a card", [None], "cuda", Chip(1e12, 100, 0.75, 0.95, 1e9, 1e9, "invented"), "none")
WHOLE = Config(model=ModelConfig(pretrained="Qwen/Qwen3-0.6B"), ppo=PpoConfig(batch_size=64))


def planned(config: Config, model: ModelConfig, arguments: float, temporaries: float) -> Compiled:
    found = Compiled(
        "ppo", "a card", 1, "", {}, config.ppo.microbatches, model.rematerialize, 1, 1, 1, 1.0, 1
    )
    peak = arguments + temporaries
    found.memory = dict.fromkeys(("outputs", "aliased", "code", "beside"), 0)
    found.memory |= {"arguments": arguments, "temporaries": temporaries, "peak": peak, "total": peak}
    found.fits = peak <= 95
    found.memory_fraction = 0.95 if 75 < peak <= 95 else 0.0
    return found


def of_adapters(config: Config, model: ModelConfig) -> Compiled:
    """Held: 80 whole, 8 with adapters. Needed at work: 640 for the batch, half of it in bfloat16."""
    held = 8 if model.lora.rank else 80
    size = 320 if model.dtype == "bfloat16" else 640
    return planned(config, model, held, size / config.ppo.microbatches * (0.25 if model.rematerialize else 1))


@pytest.fixture
def compiler(monkeypatch):
    """Puts a function (configuration, model) → plan in the place of the compiler."""

    def put(needs):
        def compile_program(program, config, model, vocabulary, topology):
            return needs(config, model)

        for place in (module, fit):
            monkeypatch.setattr(place, "compile_program", compile_program)

    return put


def tried(config: Config, plan: Compiled) -> list[str]:
    return [trial.flags.replace("--config.", "") for trial in remedies("ppo", config, CARD, plan)]


def test_what_changes_no_number_comes_first_and_what_saves_nothing_is_left_out(compiler):
    def needs(config, model):
        parts = min(config.ppo.microbatches, 16)  # more of them save nothing
        rows = 20 if config.ppo.rollout_rows else 50
        return planned(config, model, 30, max(640 / parts, rows) * (0.9 if model.rematerialize else 1) + 18)

    compiler(needs)
    found = tried(WHOLE, needs(WHOLE, WHOLE.model))
    first = "ppo.microbatches=16"  # 658 of temporaries where there is room for 65 want 11 parts at the least
    assert found == [
        first,
        "ppo.microbatches=32",
        f"{first} ppo.frozen_on_host=True",
        f"{first} model.rematerialize=True",
    ]


def test_adapters_come_first_where_networks_and_optimizer_are_too_large(compiler):
    def needs(config, model):
        found = of_adapters(config, model)
        return planned(config, model, found.memory["arguments"] * 1.25, found.memory["temporaries"])

    compiler(needs)
    assert tried(WHOLE, needs(WHOLE, WHOLE.model)) == [
        "model.dtype=bfloat16",
        "model.dtype=bfloat16 ppo.frozen_on_host=True",
        "model.dtype=bfloat16 ppo.optimizer.name=adamw_8bit",
        "model.dtype=bfloat16 model.lora.rank=16",
        "model.dtype=bfloat16 model.lora.rank=16 ppo.microbatches=4",
    ]


def test_a_model_of_one_s_own_has_no_adapters_and_batches_divide(compiler):
    own = Config(model=ModelConfig(dtype="bfloat16", rematerialize=True), ppo=PpoConfig(batch_size=12))

    def needs(config, model):
        if config.ppo.batch_size % config.ppo.microbatches:
            raise ConfigError("rows")
        return planned(config, model, 10, 1000 - config.ppo.microbatches)

    compiler(needs)
    found = tried(own, needs(own, own.model))
    assert found == [
        "ppo.microbatches=4",
        "ppo.frozen_on_host=True",
        "ppo.rollout_rows=4",
        "ppo.optimizer.name=adamw_8bit",
    ]
    assert not any("lora" in flags for flags in found)


def test_what_the_run_would_refuse_is_not_offered(compiler):
    """Muon has no adapters, in any stage of the run."""

    def needs(config, model):
        return planned(config, model, 10 if model.lora.rank else 100, 0)

    compiler(needs)
    muon = changed(WHOLE, {"sft.optimizer.name": "muon"})
    start = needs(WHOLE, WHOLE.model)
    assert any("lora" in flags for flags in tried(WHOLE, start))
    assert not any("lora" in flags for flags in tried(muon, start))


def test_a_setting_changes_a_copy():
    there = changed(WHOLE, {"model.lora.rank": 16, "ppo.microbatches": 8})
    assert (there.model.lora.rank, there.ppo.microbatches) == (16, 8)
    assert (WHOLE.model.lora.rank, WHOLE.ppo.microbatches) == (0, 1)
    assert flags_of({"ppo.microbatches": 8}) == "--config.ppo.microbatches=8"


def test_the_command_prints_flags_that_it_takes_itself(compiler, monkeypatch, tmp_path, capsys):
    compiler(of_adapters)
    monkeypatch.setattr(fit, "find", lambda *_: CARD)
    monkeypatch.setattr(fit, "programs", lambda config: {"ppo": ["ppo"]})
    out = tmp_path / "plan.json"
    common = ["rlhf-jax plan", "--config=configs/tldr_qwen3_0_6b_lora.py", "--topology=l4", "--stage=ppo"]
    common += ["--config.model.lora.rank=0", "--config.model.dtype=float32", "--config.ppo.microbatches=1"]
    common += ["--config.model.rematerialize=false", f"--json={out}"]
    assert fit.main(common) == 0
    text = capsys.readouterr().out
    assert "DOES NOT FIT" in text and "What makes ppo fit, each compiled:" in text
    *_, flags = [line.strip() for line in text.splitlines() if line.startswith("  --config.")]
    content = json.loads(out.read_text())
    assert content["remedies"][-1]["plan"]["fits"] and not content["plans"][0]["fits"]
    assert fit.main([*common, *flags.split()]) == 0
    assert "DOES NOT FIT" not in capsys.readouterr().out
    assert fit.main([*common, "--noremedies"]) == 0
    assert "What makes" not in capsys.readouterr().out


def test_where_nothing_helps_a_larger_card_is_named(compiler, monkeypatch, capsys):
    compiler(lambda config, model: planned(config, model, 1000, math.pi))
    monkeypatch.setattr(fit, "find", lambda *_: CARD)
    arguments = ["--config=configs/tldr_pythia_1b.py", "--topology=l4", "--stage=ppo"]
    assert fit.main(["rlhf-jax plan", *arguments]) == 0
    assert "None of these settings makes ppo fit" in capsys.readouterr().out


def test_between_what_jax_takes_and_what_it_can_take_the_variable_is_named():
    plan = planned(WHOLE, WHOLE.model, 40, 50)
    plan.mesh = {"replica": 1, "fsdp": 1, "tensor": 1}
    assert "fits with XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 " in fit.describe(plan)
    assert "MEM_FRACTION" not in fit.describe(dataclasses.replace(plan, memory_fraction=0.0))


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo", "distill", "ppo"])
def test_every_stage_that_trains_is_tried_in_more_parts(stage):
    plan = planned(WHOLE, WHOLE.model, 40, 100)
    changes = [change for remedy in in_order(stage, plan, 60) for change in remedy(WHOLE, plan, 60)]
    assert any(f"{stage}.microbatches" in change for change in changes)


def test_the_responses_to_a_prompt_stay_in_one_part():
    config = changed(WHOLE, {"ppo.batch_size": 64, "ppo.samples": 16})
    plan = planned(config, config.model, 40, 100)
    for remedy in in_order("ppo", plan, 41):
        for change in remedy(config, plan, 41):
            validate(changed(config, change))

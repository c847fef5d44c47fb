"""From people's answers to a reward model: what the site exports is what training reads."""

import dataclasses

import tiny
from labelling import join, make_site

from rlhf_jax.data.record_json import to_json
from rlhf_jax.feedback.answers import export
from rlhf_jax.feedback.study import Study
from rlhf_jax.pipeline import reward, sft
from rlhf_jax.training.metrics import read_metrics
from rlhf_jax.validation import validate


def test_an_export_trains_a_reward_model(tmp_path, capsys):
    records = [to_json(c) for c in tiny.comparisons("train", 16, 2) + tiny.comparisons("valid1", 8, 3)]
    unanswered = [{k: v for k, v in r.items() if k not in ("choice", "worker")} for r in records]
    site = make_site(tmp_path, unanswered, Study(steps=("choose",), calibration=0.0))
    ana = join(site, "Ana")
    for i in range(24):
        ana.compare((1, 8)[i % 2])
    export(site.store, tmp_path / "collected", "round1")
    data = dataclasses.replace(
        tiny.write_data(tmp_path / "data"), comparisons=str(tmp_path / "collected" / "comparisons.jsonl")
    )
    config = validate(tiny.run_config(data))
    config = dataclasses.replace(config, reward=dataclasses.replace(config.reward, batches=("batch1",)))
    sft.train(config, tmp_path / "run")
    reward.train(config, tmp_path / "run")
    steps = read_metrics(tmp_path / "run" / "metrics" / "reward_seed0.jsonl")
    assert [record["step"] for record in steps] == [0, 1]  # 16 pairs, 8 at a time
    assert "8 held-out pairs" in capsys.readouterr().out

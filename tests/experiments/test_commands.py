"""Agreement and probes as commands, on a run with random networks."""

import json

import experimenting
import numpy as np
import pytest
import tiny

from rlhf_jax.experiments import (
    findings,
    methods,
    metric_agreement,
    overoptimization,
    probes,
    results,
    scaling,
    transfer,
)
from rlhf_jax.report.paper_figures import agreement_figure


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return experimenting.finished_run(tmp_path_factory.mktemp("experiments"))


def test_agreement_of_every_metric_on_every_kind_of_pairs(workdir):
    assert metric_agreement.main(["rlhf-jax metric-agreement", f"--workdir={workdir}", "--posts=12"]) == 0
    figures = json.loads((workdir / "agreement.json").read_text())
    assert "held-out pairs | gold judge" in findings.agreement([figures]).body
    found = figures["agreement"]
    assert list(found) == ["held_out", "sft", "ppo"]
    metrics = ["reward_model", "rouge1", "rouge2", "rougeL", "words", "copying", "blind"]
    for kind, truths in found.items():
        assert list(truths) == ["people", "gold judge"]
        for shares in truths.values():
            lead = shares.pop("lead_over_rougeL")
            assert list(shares) == metrics and (not lead or -1 <= lead["low"] <= lead["high"] <= 1)
            for share in shares.values():
                assert share["pairs"] <= (experimenting.COMPARED if kind == "held_out" else 12)
                assert not share["pairs"] or 0 <= share["low"] <= share["value"] <= share["high"] <= 1
    # ROUGE needs a reference, which all posts here have.
    pairs = {share["pairs"] for share in found["held_out"]["people"].values()}
    assert pairs == {experimenting.COMPARED}
    assert (workdir / "agreement.png").read_bytes().startswith(b"\x89PNG")


def test_agreement_asks_another_run_s_reward_model_too(workdir, tmp_path):
    another = experimenting.finished_run(tmp_path)
    assert (
        metric_agreement.main(
            ["rlhf-jax metric-agreement", f"--workdir={workdir}", f"--another={another}", "--posts=12"]
        )
        == 0
    )
    for truths in json.loads((workdir / "agreement.json").read_text())["agreement"].values():
        for shares in truths.values():
            assert shares["another_reward_model"] == shares["reward_model"]  # the same random weights


def test_without_references_nothing_is_said_of_rouge(tmp_path):
    """Of comparisons of news, say, in a run on posts."""
    margins = {name: np.array([1.0, -1.0, 2.0]) for name in ("reward_model", "rougeL", "words")}
    infos = tiny.posts(3, 0)
    found = metric_agreement.agreements(margins, np.ones(3), infos, np.zeros(3, bool))
    assert found["rougeL"] == {"pairs": 0} and found["lead_over_rougeL"] == {}
    assert found["words"]["value"] == pytest.approx(2 / 3)
    figures = {"agreement": {"held_out": {"people": found}}}
    agreement_figure([figures], tmp_path / "agreement.png")
    finding = findings.agreement([figures])
    assert finding.held == {"people": False} and "66.7%" in finding.body


def test_probes_count_the_pairs_of_which_the_judge_says_so(workdir):
    assert probes.main(["probes", f"--workdir={workdir}", "--posts=12"]) == 0
    figures = json.loads((workdir / "probes.json").read_text())
    assert "swapped roles" in findings.probes([figures]).body
    found = figures["probes"]
    assert list(found) == ["swapped_roles", "shuffled", "shortened", "edited"]
    assert all(0 < one["pairs"] <= 12 and 0 <= one["value"] <= 1 for one in found.values())


@pytest.mark.parametrize(
    "module", [methods, metric_agreement, overoptimization, probes, results, scaling, transfer]
)
def test_every_command_refuses_what_it_does_not_know(module, capsys):
    assert module.main(["command", "--workdir=x", "--runs=x", "--nothing=1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1

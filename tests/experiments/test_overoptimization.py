"""Over-optimization on a run with random networks: what is measured, and what a second start does again."""

import json
import os
from types import SimpleNamespace

import experimenting
import numpy as np
import pytest
import tiny

from rlhf_jax.experiments import findings
from rlhf_jax.experiments.overoptimization import folder_of, main
from rlhf_jax.experiments.written import errors, told
from rlhf_jax.inference import Network
from rlhf_jax.pipeline import stages as pipeline
from rlhf_jax.run import workdir as runs


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return experimenting.finished_run(tmp_path_factory.mktemp("overoptimization"))


@pytest.fixture(scope="module")
def trained(workdir):
    """The runs that `stages.run_stages` was asked for, in whose place random policies are saved."""
    asked = []

    def run_stages(config, folder, stages):
        asked.append((config, folder, stages))
        if not runs.stage_done(folder, "ppo"):
            experimenting.save(folder, "ppo", seed=len(asked) + 10)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "run_stages", run_stages)
        arguments = ["overoptimization", f"--workdir={workdir}", "--kl_coefs=0.5,0.05", "--posts=6"]
        arguments += ["--pool=4"]
        assert main(arguments) == 0
        first = (workdir / "overoptimization.json").read_bytes()
        patch.setattr(Network, "samples", lambda *_, **__: pytest.fail("the pool was sampled again"))
        assert main(arguments) == 0
        assert (workdir / "overoptimization.json").read_bytes() == first
    return asked


@pytest.fixture(scope="module")
def figures(workdir, trained):
    return json.loads((workdir / "overoptimization.json").read_text())


def are_linked(ours, theirs):
    """Whether the steps of `theirs` are those of `ours`, file by file."""
    manifests = [file.relative_to(theirs) for file in theirs.glob("*/manifest.json")]
    pairs = [(ours / name, theirs / name) for name in manifests]
    return bool(pairs) and all(own.exists() and os.path.samefile(own, their) for own, their in pairs)


def test_there_is_a_ppo_run_a_coefficient_that_starts_from_the_run_s_own_networks(workdir, trained):
    asked = [(config.ppo.kl_coef, stages) for config, _, stages in trained[:2]]
    assert asked == [(0.5, ("ppo",)), (0.05, ("ppo",))]
    for name in ("sft", "reward"):
        linked, own = (folder / "checkpoints" / name for folder in (folder_of(workdir, 0.5), workdir))
        assert are_linked(linked, own)
    assert runs.read_config(folder_of(workdir, 0.5)).ppo.kl_coef == 0.5


def test_the_run_s_own_policy_stands_for_its_own_coefficient(workdir, trained):
    own, other = (folder_of(workdir, kl_coef) / "checkpoints" / "ppo" for kl_coef in (0.05, 0.5))
    theirs = workdir / "checkpoints" / "ppo"
    assert are_linked(own, theirs) and not are_linked(other, theirs)


def test_figures_of_every_policy(figures):
    assert (figures["posts"], figures["pool"]) == (6, 4)
    for one in figures["ppo"]:
        assert one.keys() == {"kl_coef", "kl", "score", "preference", "errors", "distinct"}
        assert one["score"].keys() == {"reward model", "gold judge"}
        assert one["preference"].keys() == {"reward model", "gold judge", "people"}
        for each in (one["score"], one["preference"], one["errors"], {"kl": one["kl"]}):
            assert all(found["low"] <= found["value"] <= found["high"] for found in each.values())
    first, second = figures["ppo"]
    assert first["kl"] != second["kl"]  # random weights, far from the supervised ones
    assert first["kl"]["value"] > 1


def test_errors_are_shares_of_summaries():
    made = {"a": "day roles", "b": "day", "c": "", "d": "day"}
    task = SimpleNamespace(
        errors=lambda record, text: {kind: kind in made[text] for kind in ("day", "roles")}
    )
    shares = errors(SimpleNamespace(task=task), [None] * 4, list("abcd"))
    assert {kind: one["value"] for kind, one in shares.items()} == {"day": 0.75, "roles": 0.25}


def test_the_mean_over_a_pool_is_weighted():
    """Two posts with two summaries each, of which the first has all the weight, and half of it."""
    scores = {"gold judge": np.array([[5.0, 1.0], [4.0, 2.0]]), "people": np.array([[0.0, 1.0], [1.0, 1.0]])}
    found = told(scores, {"gold judge": np.array([3.0, 3.0, 9.0])}, np.array([[1.0, 0.0], [0.5, 0.5]]))
    assert found["score"]["gold judge"]["value"] == 4.0  # (5 + 3) / 2
    assert found["preference"]["gold judge"]["value"] == 0.75  # (1 + ½) / 2
    assert found["preference"]["people"]["value"] == 0.5  # (0 + 1) / 2


def test_best_of_n_rises_with_n_and_starts_at_the_policy_itself(workdir, figures):
    points = figures["best_of_n"]
    assert [one["n"] for one in points] == [1, 2, 4]
    assert points[0]["kl"]["value"] == points[0]["kl_closed_form"] == 0
    rewards = [one["score"]["reward model"]["value"] for one in points]
    assert rewards == sorted(rewards)
    pool = json.loads((workdir / "best_of_n" / "pool_6x4.json").read_text())
    scores = np.array(pool["verdicts"]["reward model"])
    scale, sums = tiny.largest(scores), scores.size  # of float32
    tiny.assert_close(rewards[0], scores.mean(), sums, scale)
    tiny.assert_close(rewards[2], scores.max(axis=1).mean(), sums, scale)


def test_the_page_of_findings_reads_them(figures):
    assert "99th percentile" in findings.overoptimization([figures]).body
    assert "closed form" in findings.best_of_n([figures]).body


def test_a_coefficient_that_is_none_is_refused(workdir, capsys):
    assert main(["rlhf-jax overoptimization", f"--workdir={workdir}", "--kl_coefs=0.1,much"]) == 2
    assert "--kl_coefs: '0.1,much' should be numbers" in capsys.readouterr().err


def test_a_folder_without_a_run_is_told_in_one_line(tmp_path, capsys):
    assert main(["rlhf-jax overoptimization", f"--workdir={tmp_path}"]) == 2
    assert "not the folder of a run" in capsys.readouterr().err

"""Scaling on runs with random networks: what is trained on what, and how accuracies are told."""

import json

import experimenting
import pytest

from rlhf_jax import collect
from rlhf_jax import main as pipeline
from rlhf_jax import workdir as runs
from rlhf_jax.data.comparisons import pairs_of
from rlhf_jax.experiments import scaling
from rlhf_jax.experiments.scaling import doublings, first_share, main


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return experimenting.finished_run(tmp_path_factory.mktemp("scaling"))


@pytest.fixture(scope="module")
def figures(workdir):
    """Two shares, with random reward models in place of training; the policies' rates are invented."""

    def run_stages(config, folder, stages):
        if not runs.stage_done(folder, "reward"):
            experimenting.save(folder, "reward", seed=20)
        if "eval" in stages:
            rate = {"rate": 0.6, "stderr": 0.1, "low": 0.4, "high": 0.8}
            results = {"judge": "gold judge", "ppo": {"kl": 1.0}}
            results["preference_over_reference"] = {name: rate for name in ("title", "sft", "ppo")}
            (folder / "results.json").write_text(json.dumps(results))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "run_stages", run_stages)
        arguments = ["scaling", f"--workdir={workdir}", "--shares=0.5,1", "--policies"]
        assert main(arguments) == 0
        first = (workdir / "scaling.json").read_bytes()
        patch.setattr(scaling, "accuracies", lambda folder: pytest.fail("measured again"))
        assert main(arguments) == 0
        assert (workdir / "scaling.json").read_bytes() == first
    return json.loads(first)


def test_shares_lie_in_one_another_and_all_is_held_out(workdir):
    comparisons = collect.load(experimenting.config(), workdir)
    half, all_of_it = (first_share(comparisons, share) for share in (0.5, 1))
    assert all_of_it == comparisons
    for split in ("valid1", "valid2"):
        assert pairs_of(half, split) == pairs_of(comparisons, split)
    assert pairs_of(half, "train") == pairs_of(comparisons, "train")[:8]


def test_points_of_every_share(workdir, figures):
    assert [(one["share"], one["comparisons"]) for one in figures["points"]] == [(0.5, 8), (1, 16)]
    for one in figures["points"]:
        assert one["parameters"] == figures["points"][0]["parameters"] > 12_288  # 768 pieces × width 16
        for name in ("valid_accuracy", "gold_accuracy", "blind_accuracy"):
            assert 0 <= one[name]["low"] <= one[name]["value"] <= one[name]["high"] <= 1
    half, whole = (workdir / "scaling" / name for name in ("own_0.5", "own_1"))
    assert len(pairs_of(collect.load(experimenting.config(), half), "train")) == 8
    assert (whole / "checkpoints" / "reward").resolve() != (half / "checkpoints" / "reward").resolve()


def test_policies_along_size(figures):
    (one,) = figures["policies"]
    assert one["ppo"]["rate"] == 0.6 and "title" not in one and one["kl"] == 1


def test_what_a_doubling_adds_by_hand():
    # accuracy = 0.5 + 0.02 log₂(comparisons / 100) + 0.01 log₂(parameters / 1000), without error.
    points = [
        {
            "comparisons": 100 * 2**i,
            "parameters": 1000 * 2**j,
            "valid_accuracy": {"value": 0.5 + 0.02 * i + 0.01 * j},
        }
        for i in range(4)
        for j in (0, 3)
    ]
    assert doublings(points)["valid_accuracy"] == pytest.approx({"comparisons": 0.02, "parameters": 0.01})
    alone = [one for one in points if one["parameters"] == 1000]
    assert doublings(alone)["valid_accuracy"] == pytest.approx({"comparisons": 0.02})
    assert doublings(points[:1]) == {}


def test_more_than_all_comparisons_is_refused(workdir, capsys):
    assert main(["scaling", f"--workdir={workdir}", "--shares=0.5,2"]) == 2
    assert "--shares: a share of the comparisons is at most 1" in capsys.readouterr().err
